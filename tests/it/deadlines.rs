//! C-D1 to C-D3: deadlines shrink on the way, cancels arrive, nothing is orphaned.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use crate::harness::{Cluster, wait_for, within};
use crate::services::{Client, Echo, RawClient, channel, grpc_message, request, to_b};

const LIMIT: Duration = Duration::from_secs(60);
const TO_B: (&str, &str) = ("strait-key", "uid=b:1");

/// What the service saw as the value of a field.
fn seen_field(lines: &[u8], name: &str) -> Option<String> {
    let lines = String::from_utf8_lossy(lines).into_owned();
    lines
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(ToOwned::to_owned))
}

/// Reads a `grpc-timeout`.
fn timeout(text: &str) -> Duration {
    let (count, unit) = text.split_at(text.len() - 1);
    let count: u64 = count.parse().unwrap();
    match unit {
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        other => panic!("unit {other} of a timeout of seconds"),
    }
}

// C-D1
#[tokio::test]
async fn the_service_sees_no_more_time_than_remains() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    let fields = [TO_B, ("grpc-timeout", "20S")];
    let reply = client
        .call("/im.Echo/Metadata", &fields, grpc_message(b""))
        .await
        .unwrap();
    let left = timeout(&seen_field(&reply.body[5..], "grpc-timeout").expect("no grpc-timeout at the service"));
    assert!(left < Duration::from_secs(20), "no time was subtracted: {left:?}");
    assert!(left > Duration::from_secs(10), "too much was subtracted: {left:?}");
}

// C-D3: the service's own limit where the caller has none.
#[tokio::test]
async fn a_call_without_a_deadline_gets_the_default_of_the_service() {
    let echo = Echo::start();
    let mut builder = Cluster::pair(&echo.endpoint());
    for unit in ["a", "b"] {
        builder = builder
            .set(
                unit,
                "services.\"im.Echo\".endpoints",
                vec![toml::Value::from(echo.endpoint())],
            )
            .set(unit, "services.\"im.Echo\".timeout", "400ms");
    }
    let cluster = builder.start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let asked = request(Bytes::new(), &[TO_B, ("x-delay-ms", "30000")]);
    let status = within(
        "the default deadline",
        Duration::from_secs(10),
        client.unary("Unary", asked),
    )
    .await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let place = status
        .metadata()
        .get("strait-error")
        .expect("made by a relay")
        .to_str()
        .unwrap();
    assert!(place.starts_with("deadline_exceeded; unit="), "{place}");
    wait_for("the service to be told", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
}

// C-D1, C-D2: the caller hears it in time, the service is told.
#[tokio::test]
async fn a_deadline_ends_the_call_on_both_ends() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    let fields = [TO_B, ("grpc-timeout", "300m")];
    let call = client.call("/im.Echo/Hang", &fields, grpc_message(b""));
    let reply = within("the deadline", Duration::from_secs(10), call).await.unwrap();
    assert_eq!(reply.ending("grpc-status"), Some("4"), "{reply:?}");
    wait_for("the service to be told", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
    assert_eq!(echo.seen.get(|seen| &seen.opened), 1);
}

// A timeout that cannot be read is a fault of the caller, told as such.
#[tokio::test]
async fn a_malformed_timeout_is_bad_input() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    for text in ["", "S", "1", "-1S", "123456789S", "1x"] {
        let fields = [TO_B, ("grpc-timeout", text)];
        let reply = client.call("/im.Echo/Unary", &fields, grpc_message(b"")).await.unwrap();
        assert_eq!(reply.ending("grpc-status"), Some("3"), "timeout {text:?}: {reply:?}");
        assert!(
            reply.ending("strait-error").unwrap().starts_with("bad_input; "),
            "{reply:?}"
        );
    }
    assert_eq!(echo.seen.get(|seen| &seen.opened), 0);
}

// C-D2: cancelled at every moment of a call's life, in every way.
#[tokio::test]
async fn after_a_thousand_random_cancels_no_call_is_orphaned() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let mut dice = fastrand::Rng::with_seed(20_261_122);
    for _ in 0..10 {
        // A connection of its own for each hundred, so that cancelling is not taken for an attack.
        let client = Client::connect(&cluster.relay("a-1").grpc()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let client = client.clone();
            let method = ["Unary", "Hang", "Chat", "Flood", "Sink"][dice.usize(..5)];
            let patience = Duration::from_micros(dice.u64(..40_000));
            let size = [0, 100, 20_000, 300_000][dice.usize(..4)];
            tasks.spawn(async move {
                let (sender, receiver) = channel();
                sender.send(Bytes::from(vec![0; size])).await.unwrap();
                let call = async {
                    let mut replies = client.chat(method, to_b(receiver)).await?.into_inner();
                    while replies.message().await?.is_some() {}
                    Ok::<_, tonic::Status>(())
                };
                let _ = tokio::time::timeout(patience, call).await;
            });
        }
        tasks.join_all().await;
    }
    wait_for("all calls to end at the service", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
    for relay in cluster.relays() {
        wait_for("all calls to end in the relay", LIMIT, async || {
            (relay.metrics().await.sum("strait_calls_in_flight", &[]) == 0.0).then_some(())
        })
        .await;
    }
    // The relays are as good as new.
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    assert_eq!(
        client
            .unary("Unary", to_b(Bytes::from("m")))
            .await
            .unwrap()
            .into_inner(),
        "m"
    );
}

// C-D2: a client that vanishes cancels all it had open.
#[tokio::test]
async fn a_broken_connection_cancels_its_calls() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    {
        let calls = (0..20).map(|_| client.call("/im.Echo/Hang", &[TO_B], grpc_message(b"")));
        let mut calls: Vec<_> = calls.map(Box::pin).collect();
        wait_for("all calls to reach the service", LIMIT, async || {
            for call in &mut calls {
                let waited = tokio::time::timeout(Duration::from_millis(1), call).await;
                assert!(waited.is_err(), "a call that hangs was answered");
            }
            (echo.seen.open() == 20).then_some(())
        })
        .await;
    }
    drop(client);
    wait_for("the calls to be cancelled", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
    assert_eq!(echo.seen.get(|seen| &seen.cancelled), 20);
}
