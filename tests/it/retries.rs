//! C-T1 to C-T5: which calls are tried again, how often, and what that adds to the wire.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tonic::Code;

use crate::harness::{Cluster, wait_for, within};
use crate::services::{Client, RawClient, RawService, grpc_message, read_all, request, reset, trailers_only};

const LIMIT: Duration = Duration::from_secs(60);
const CALL: [(&str, &str); 2] = [("strait-key", "uid=b:1"), ("strait-idempotent", "true")];

/// A service that breaks off each call after so long.
fn broken(after: Duration) -> RawService {
    RawService::start(move |_, respond| async move {
        tokio::time::sleep(after).await;
        reset(respond, h2::Reason::INTERNAL_ERROR);
    })
}

/// Units `a` and `b`; the endpoint in `b` is never left out, however many calls it breaks.
async fn pair(service: &RawService) -> Cluster {
    let cluster = Cluster::pair(&service.endpoint())
        .set("a", "log.access", 1.0)
        .set("b", "services.\"im.Echo\".outlier.failures", 0)
        .start()
        .await;
    until_served(&cluster).await;
    cluster
}

/// Waits until `b-1` has a connection to the service on each shard: before, calls are refused unseen.
pub async fn until_served(cluster: &Cluster) {
    wait_for("the service to be connected", LIMIT, async || {
        let metrics = cluster.relay("b-1").metrics().await;
        let labels = [("service", "im.Echo"), ("state", "ready")];
        (metrics.sum("strait_delivery_endpoints", &labels) >= 2.0).then_some(())
    })
    .await;
}

async fn retries(cluster: &Cluster, outcome: &str) -> f64 {
    let labels = [("src_unit", "a"), ("dst_unit", "b"), ("outcome", outcome)];
    let metrics = cluster.relay("a-1").metrics().await;
    metrics.sum("strait_call_retries_total", &labels)
}

// C-T3: every call fails, and the wire carries less than a tenth more for it, be it that they fail at once ...
#[tokio::test]
async fn retries_of_calls_that_fail_fast_add_less_than_a_tenth() {
    amplification(Duration::ZERO, 6000).await;
}

// ... or that they are on their way for much longer than retries pause.
#[tokio::test]
async fn retries_of_calls_that_fail_slowly_add_less_than_a_tenth() {
    amplification(Duration::from_millis(150), 3000).await;
}

async fn amplification(after: Duration, calls: u64) {
    let service = broken(after);
    let cluster = pair(&service).await;
    let begun = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    // Several connections, so that both shards have calls.
    for _ in 0..4 {
        let client = Client::connect(&cluster.relay("a-1").grpc()).await;
        for _ in 0..16 {
            let (client, begun) = (client.clone(), begun.clone());
            callers.spawn(async move {
                while begun.fetch_add(1, Ordering::SeqCst) < calls {
                    let mut asked = request(Bytes::from("m"), &CALL);
                    asked.set_timeout(Duration::from_secs(20));
                    let status = client.unary("Any", asked).await.unwrap_err();
                    let error = status.metadata().get("strait-error").unwrap().to_str().unwrap();
                    assert!(error.starts_with("service_lost; "), "{error}");
                }
            });
        }
    }
    within("all calls to fail", LIMIT, callers.join_all()).await;
    let sent = retries(&cluster, "sent").await;
    let first = calls as f64;
    wait_for("the destination to have counted all attempts", LIMIT, async || {
        let metrics = cluster.relay("b-1").metrics().await;
        let arrived = metrics.sum("strait_calls_total", &[("direction", "inbound")]);
        (arrived == first + sent).then_some(())
    })
    .await;
    let amplification = (first + sent) / first;
    eprintln!(
        "calls that fail after {after:?}: {first} first attempts, {sent} retries, amplification {amplification:.3}"
    );
    assert!(sent > 0.0, "nothing was tried again");
    assert!(amplification <= 1.10, "{first} first attempts and {sent} retries");
    assert!(retries(&cluster, "no_budget").await > 0.0);
}

// C-T1, C-T2: the service sees which attempt it is, whatever the caller says, and only the origin tries again.
#[tokio::test]
async fn a_service_sees_how_many_attempts_there_were_before() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let seen = seen.clone();
        RawService::start(move |mut call, respond| {
            let attempts = call.headers().get_all("grpc-previous-rpc-attempts").iter();
            let attempts: Vec<String> = attempts.map(|value| value.to_str().unwrap().to_owned()).collect();
            let count = {
                let mut seen = seen.lock().unwrap();
                seen.push(attempts);
                seen.len()
            };
            async move {
                let _ = read_all(call.body_mut()).await;
                match count {
                    1 => reset(respond, h2::Reason::INTERNAL_ERROR),
                    2 => trailers_only(respond, &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "1")]),
                    _ => trailers_only(respond, &[("grpc-status", "0")]),
                }
            }
        })
    };
    let cluster = pair(&service).await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    let mut fields = CALL.to_vec();
    fields.push(("grpc-previous-rpc-attempts", "7"));
    let call = client.call("/im.Echo/Any", &fields, grpc_message(b"m"));
    let reply = within("the call", LIMIT, call).await.unwrap();
    assert_eq!(reply.ending("grpc-status"), Some("0"), "{reply:?}");
    let expected: [&[&str]; 3] = [&[], &["1"], &["2"]];
    assert_eq!(*seen.lock().unwrap(), expected);
    wait_for("the destination to have counted three calls", LIMIT, async || {
        let metrics = cluster.relay("b-1").metrics().await;
        (metrics.sum("strait_calls_total", &[("direction", "inbound")]) == 3.0).then_some(())
    })
    .await;
}

// C-T5: the access log and the metric say why a call that failed was not tried again.
#[tokio::test]
async fn why_a_call_was_not_tried_again_is_told() {
    let service = broken(Duration::ZERO);
    let cluster = pair(&service).await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let plain = [CALL[0]];
    for (fields, size, outcome) in [
        (&CALL[..], 20_000, "too_large"),
        (&plain[..], 10, "not_idempotent"),
        (&CALL[..], 10, "attempts_spent"),
    ] {
        let asked = request(Bytes::from(vec![0; size]), fields);
        let status = within("the call", LIMIT, client.unary("Any", asked)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(retries(&cluster, outcome).await, 1.0, "{outcome}");
        wait_for("the access log", LIMIT, async || {
            let log = cluster.relay("a-1").log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines
                .any(|line| {
                    line["target"] == "strait::access" && line["retry"] == outcome && line["reason"] == "service_lost"
                })
                .then_some(())
        })
        .await;
    }
    assert_eq!(retries(&cluster, "sent").await, 4.0);
}
