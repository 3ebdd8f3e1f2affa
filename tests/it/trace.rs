//! C-O3: one span per relay, chained below the caller's, in the trace the caller began.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::harness::{Cluster, wait_for, within};
use crate::services::{Client, Echo, request};

const LIMIT: Duration = Duration::from_secs(30);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// What the service saw as `traceparent` of a call with this one.
async fn seen(cluster: &Cluster, traceparent: &str) -> Vec<String> {
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let fields = [("strait-key", "uid=b:1"), ("traceparent", traceparent)];
    let call = client.unary("Metadata", request(Bytes::new(), &fields));
    let lines = within("call", LIMIT, call).await.unwrap().into_inner();
    let lines = String::from_utf8(lines.to_vec()).unwrap();
    let values = lines.lines().filter_map(|line| line.strip_prefix("traceparent: "));
    values.map(ToOwned::to_owned).collect()
}

/// The spans a relay has written, oldest first.
fn spans(cluster: &Cluster, relay: &str) -> Vec<Value> {
    let log = cluster.relay(relay).log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "strait::span").collect()
}

async fn span(cluster: &Cluster, relay: &str, direction: &str) -> Value {
    let found = wait_for("a span", LIMIT, async || spans(cluster, relay).pop()).await;
    assert_eq!(spans(cluster, relay).len(), 1, "one span per relay");
    assert_eq!(found["direction"], direction);
    assert_eq!(found["trace_id"], TRACE);
    assert_eq!(found["outcome"], "ok");
    assert!(found["duration_ms"].as_f64().unwrap() > 0.0, "{found}");
    found
}

#[tokio::test]
async fn each_relay_adds_its_span_below_the_one_before() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "log.spans", true)
        .set("b", "log.spans", true)
        .start()
        .await;
    // What the caller does not record passes as it is.
    let not_sampled = format!("00-{TRACE}-{CALLER}-00");
    assert_eq!(seen(&cluster, &not_sampled).await, [not_sampled]);
    let at_service = seen(&cluster, &format!("00-{TRACE}-{CALLER}-01")).await;
    let at_a = span(&cluster, "a-1", "outbound").await;
    let at_b = span(&cluster, "b-1", "inbound").await;
    assert_eq!(at_a["parent_id"], CALLER);
    assert_eq!(at_b["parent_id"], at_a["span_id"]);
    assert_ne!(at_b["span_id"], at_a["span_id"]);
    let last = at_b["span_id"].as_str().unwrap();
    assert_eq!(at_service, [format!("00-{TRACE}-{last}-01")]);
}

#[tokio::test]
async fn without_spans_the_trace_passes_as_it_is() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    assert_eq!(seen(&cluster, &traceparent).await, [traceparent]);
    assert!(spans(&cluster, "a-1").is_empty() && spans(&cluster, "b-1").is_empty());
}
