//! C-O2, O-M4: what operators read in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use strait::client::{Client as Framed, Reply};

use crate::harness::{Cluster, Relay, http_put, wait_for, within};
use crate::services::{Client, Echo, request};

const LIMIT: Duration = Duration::from_secs(30);

/// Lines of a JSON log with this target.
fn lines(relay: &Relay, target: &str) -> Vec<Value> {
    let log = relay.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == target).collect()
}

async fn access_lines(relay: &Relay, count: usize) -> Vec<Value> {
    let what = format!("{count} access lines of {}", relay.name);
    wait_for(&what, LIMIT, async || {
        let found = lines(relay, "strait::access");
        (found.len() >= count).then_some(found)
    })
    .await
}

async fn call(client: &Client, fields: &[(&'static str, &str)]) -> Result<(), tonic::Status> {
    let call = client.unary("Unary", request(Bytes::from("12345"), fields));
    within("call", LIMIT, call).await.map(|_| ())
}

#[tokio::test]
async fn each_relay_writes_one_line_per_call_with_all_that_is_known_of_it() {
    // C-O2
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "log.access", 1.0)
        .set("b", "log.access", 1.0)
        .set("a", "routing.version", 7)
        .set("b", "routing.version", 7)
        .start()
        .await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let fields = [
        ("strait-key", "uid=b:1"),
        ("strait-idempotent", "true"),
        ("x-delay-ms", "20"),
    ];
    call(&client, &fields).await.unwrap();
    call(&client, &[("strait-key", "uid=b:1"), ("x-code", "5"), ("x-early", "1")])
        .await
        .unwrap_err();
    call(&client, &[]).await.unwrap_err();
    let (at_a, at_b) = (
        access_lines(cluster.relay("a-1"), 3).await,
        access_lines(cluster.relay("b-1"), 2).await,
    );
    assert_eq!((at_a.len(), at_b.len()), (3, 2), "one line per call and relay");
    for (line, direction) in [(&at_a[0], "outbound"), (&at_b[0], "inbound")] {
        assert_eq!(line["direction"], direction);
        assert_eq!(
            (&line["service"], &line["method"]),
            (&"im.Echo".into(), &"Unary".into())
        );
        assert_eq!((&line["src_unit"], &line["dst_unit"]), (&"a".into(), &"b".into()));
        assert_eq!(line["epoch"], 7, "{line}");
        assert_eq!((&line["attempt"], &line["outcome"]), (&0.into(), &"ok".into()));
        assert_eq!(line["flags"], "idempotent", "{line}");
        assert_eq!(
            (&line["request_bytes"], &line["reply_bytes"]),
            (&10.into(), &10.into()),
            "{line}"
        );
        assert!(line["reason"].is_null());
        // Waited, travelled and served make up the whole.
        let part = |name: &str| line[name].as_f64().unwrap();
        let sum = part("queue_ms") + part("wire_ms") + part("service_ms");
        assert!((part("total_ms") - sum).abs() < 0.01, "{line}");
        assert!(part("service_ms") >= 15.0, "the service took 20 ms: {line}");
    }
    for (at_a, at_b) in at_a.iter().zip(&at_b) {
        assert_eq!(at_a["request_id"], at_b["request_id"], "the same call has the same id");
        assert_eq!(at_a["request_id"].as_str().unwrap().len(), 16);
    }
    assert_ne!(at_a[0]["request_id"], at_a[1]["request_id"]);
    assert_eq!(
        (&at_a[1]["outcome"], &at_b[1]["outcome"]),
        (&"app_error".into(), &"app_error".into())
    );
    assert_eq!(at_a[1]["flags"], "");
    assert_eq!(
        (&at_a[2]["outcome"], &at_a[2]["reason"]),
        (&"rejected".into(), &"no_route".into())
    );
}

#[tokio::test]
async fn all_relays_choose_the_same_share_of_the_calls() {
    // C-O2
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "log.access", 0.25)
        .set("b", "log.access", 0.25)
        .start()
        .await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    for _ in 0..400 {
        call(&client, &[("strait-key", "uid=b:1")]).await.unwrap();
    }
    // A quarter of 400; further off than this is one run in many millions.
    let ids = |relay: &str| -> BTreeSet<String> {
        let lines = lines(cluster.relay(relay), "strait::access");
        lines.iter().map(|line| line["request_id"].to_string()).collect()
    };
    let same = wait_for("the same lines at both relays", LIMIT, async || {
        let (a, b) = (ids("a-1"), ids("b-1"));
        (a == b && a.len() > 50).then_some(a)
    })
    .await;
    assert!(same.len() < 160, "{} of 400 calls", same.len());
}

/// How often each message of a module is in the log, by level.
fn levels(relay: &Relay, module: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in relay.log().lines() {
        if let Ok(line) = serde_json::from_str::<Value>(line)
            && line["target"].as_str().is_some_and(|target| target.starts_with(module))
        {
            *counts.entry(line["level"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

#[tokio::test]
async fn levels_change_at_run_time_for_one_module_and_back() {
    // O-M4
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let relay = cluster.relay("a-1");
    assert!(!levels(relay, "quinn").contains_key("TRACE"));
    let set = async |level: &str| http_put(&relay.admin(), &format!("/log?level={level}")).await.unwrap();
    assert_eq!(set("info,quinn_proto=trace").await.0, 200);
    wait_for("the traces that were asked for", LIMIT, async || {
        levels(relay, "quinn_proto").contains_key("TRACE").then_some(())
    })
    .await;
    assert!(
        !levels(relay, "strait").contains_key("DEBUG"),
        "other modules stay as they were"
    );
    assert_eq!(
        set("info,quinn_proto=loud").await.0,
        400,
        "what cannot be read changes nothing"
    );
    assert_eq!(set("info").await.0, 200);
    let client = Client::connect(&relay.grpc()).await;
    let quiet = levels(relay, "quinn_proto");
    for _ in 0..20 {
        call(&client, &[("strait-key", "uid=b:1")]).await.unwrap();
    }
    assert_eq!(levels(relay, "quinn_proto"), quiet);
}

#[tokio::test]
async fn logs_are_for_people_or_for_programs() {
    // O-M4
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "log.format", "human")
        .set("b", "log.format", "json")
        .start()
        .await;
    let human = cluster.relay("a-1").log();
    let started = human.lines().find(|line| line.contains("relay started")).unwrap();
    assert!(
        started.contains(" INFO strait::app: ") && started.contains("unit=a"),
        "{started}"
    );
    assert!(!human.contains('\u{1b}'), "no colours outside of terminals");
    let json = cluster.relay("b-1").log();
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = lines.iter().find(|line| line["message"] == "relay started").unwrap();
    assert_eq!((&started["level"], &started["unit"]), (&"INFO".into(), &"b".into()));
    assert!(started["timestamp"].is_string() && started["target"] == "strait::app");
}

#[tokio::test]
async fn a_line_that_repeats_is_held_back_and_counted() {
    // O-M4
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let relay = cluster.relay("a-1");
    let client = Framed::connect(&format!("tcp://{}", relay.framed())).await.unwrap();
    let refused = |relay: &Relay| {
        let lines = lines(relay, "strait::delivery::framed::metrics");
        let refused = lines
            .into_iter()
            .filter(|line| line["message"] == "registration refused");
        refused.collect::<Vec<_>>()
    };
    let mut asked = 0;
    // Until a line says how many others there would have been.
    let lines = wait_for("lines to be held back", LIMIT, async || {
        for number in 0..100 {
            let name = format!("im.Unknown{number}");
            client.serve(&name, async |_| Ok(Reply::new(""))).await.unwrap_err();
        }
        asked += 100;
        let lines = refused(relay);
        lines
            .iter()
            .any(|line| line["skipped"].as_u64() > Some(0))
            .then_some(lines)
    })
    .await;
    assert!(lines.len() * 2 < asked, "{} lines about {asked} refusals", lines.len());
    let told: u64 = lines.iter().map(|line| 1 + line["skipped"].as_u64().unwrap()).sum();
    assert!(told as usize <= asked, "{told} of {asked}");
}
