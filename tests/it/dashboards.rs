//! O-M1, O-M2: a real Prometheus reads real relays under traffic, and every panel has something to show.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use strait::client;
use tonic::{Code, Status};

use crate::harness::{Authority, Background, Cluster, DOMAIN, Leaf, http_get, wait_for};
use crate::operate;
use crate::services::{Client, Echo, Prometheus, promtool_complaints, promtool_rules, request, stream_of, to_b};

const LIMIT: Duration = Duration::from_secs(60);

/// Units `a` and `b` that talk, and `c` whose certificate nobody trusts, so that links fail and are refused.
async fn start(echo: &Echo) -> Cluster {
    let mut cluster = Cluster::pair(&echo.endpoint())
        .unit("c", 1)
        .service("b", "im.Gone", &["http://127.0.0.1:1".to_owned()])
        .set("a", "peer.handshake_timeout", "1s")
        .set("b", "peer.handshake_timeout", "1s")
        .set(
            "a",
            "topics.\"chat.*\"",
            operate::topic("rule = \"units\"\nunits = [\"b\"]"),
        )
        .set(
            "b",
            "topics.\"chat.*\"",
            operate::topic("rule = \"units\"\nunits = [\"b\"]\ngroups.archive = {}"),
        )
        .set("a", "replay.default.messages_per_second", 500.0)
        .prepare();
    let stranger = Authority::new("geo-c");
    let home = cluster.relay("c-1").directory().to_owned();
    stranger.issue(&Leaf::relay(DOMAIN, "geo-c", "c", "c-1"), &home, "relay");
    for relay in ["a-1", "b-1", "c-1"] {
        cluster.relay_mut(relay).spawn();
    }
    cluster.relay_mut("a-1").until_ready().await;
    cluster.relay_mut("b-1").until_ready().await;
    cluster.until_linked("a-1", "b").await;
    cluster.until_linked("b-1", "a").await;
    cluster
}

/// Calls of all kinds, again and again: answered, refused, failed, large, streams, over both protocols.
async fn traffic(grpc: String, framed: String) {
    let client = Client::connect(&grpc).await;
    let framed = client::Client::connect(&format!("tcp://{framed}")).await.unwrap();
    loop {
        let large = Bytes::from(vec![1; 300_000]);
        client.unary("Unary", to_b(Bytes::from("small"))).await.unwrap();
        client.unary("Unary", to_b(large.clone())).await.unwrap();
        client
            .collect("Collect", to_b(stream_of(vec![large; 3])))
            .await
            .unwrap();
        let produced = client.produce("Produce", to_b(Bytes::from("3 100"))).await.unwrap();
        let mut produced = produced.into_inner();
        while produced.message().await.unwrap().is_some() {}
        let call = client::Call::new("im.Echo/Unary").key("uid", "b:1").body("framed");
        framed.call(call).await.unwrap();

        let fields = [("strait-key", "uid=b:1"), ("x-code", "9"), ("x-early", "1")];
        fails(
            client.unary("Unary", request(Bytes::new(), &fields)).await,
            Code::FailedPrecondition,
        );
        fails(client.unary("Unary", request(Bytes::new(), &[])).await, Code::NotFound);
        let gone = client.clone().service("im.Gone");
        fails(gone.unary("Unary", to_b(Bytes::new())).await, Code::Unavailable);
    }
}

/// Messages from `a` to `b`, again and again: taken, failed at first, given up; some of them wait for a pause to end.
async fn messages(pauser: operate::Operator, framed: String, consumers: String) {
    let address = |framed: &str| format!("tcp://{framed}");
    let consumer = client::Client::connect(&address(&consumers)).await.unwrap();
    let handler = |attempt: client::Attempt| async move {
        match (&attempt.body()[..], attempt.number()) {
            (b"twice", 1) => Err(client::Nack::later("once more")),
            (b"never", _) => Err(client::Nack::terminate("cannot be digested")),
            _ => Ok(()),
        }
    };
    let subscribe = client::Subscribe::new("chat.x", "archive");
    consumer.subscribe(subscribe, handler).await.unwrap();
    let publisher = client::Client::connect(&address(&framed)).await.unwrap();
    loop {
        let bodies = ["once", "twice", "never", "once"];
        let all = bodies.map(|body| client::Publish::new("chat.x").key("uid", body).body(body));
        for result in publisher.publish_all(all.clone()).await {
            result.unwrap();
        }
        pauser.run("queue pause --unit b --reason test");
        for result in publisher.publish_all(all).await {
            result.unwrap();
        }
        pauser.run("queue resume --unit b");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn fails<T>(result: Result<T, Status>, code: Code) {
    assert_eq!(result.map(|_| ()).unwrap_err().code(), code);
}

fn dashboards() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboards");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            serde_json::from_str(&text).unwrap(),
        )
    };
    files.map(read).collect()
}

/// What Grafana asks for with "All" chosen everywhere, and this side of the calls.
fn substituted(expression: &str, direction: &str) -> String {
    let asked = expression
        .replace("$__rate_interval", "5s")
        .replace("$direction", direction)
        .replace("$instance", ".*")
        .replace("$job", ".*")
        .replace("$topic", ".*")
        .replace("$src_unit", ".*")
        .replace("$dst_unit", ".*");
    assert!(!asked.contains('$'), "an unknown variable in {asked}");
    asked
}

/// All queries of a dashboard, each with where it stands.
fn queries(name: &str, dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let place = format!("{name}: {} {}", panel["title"], target["refId"]);
            queries.push((place, target["expr"].as_str().unwrap().to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        // `label_values(<series>, <label>)` finds something if a series has the label.
        if let Some(definition) = variable["definition"].as_str() {
            let inner = definition
                .strip_prefix("label_values(")
                .unwrap()
                .strip_suffix(')')
                .unwrap();
            let (series, label) = inner.rsplit_once(", ").unwrap();
            let place = format!("{name}: variable {}", variable["name"]);
            queries.push((place, with_label(series, label)));
        }
    }
    queries
}

/// The series that have a label.
fn with_label(series: &str, label: &str) -> String {
    let condition = format!("{label}=~\".+\"");
    match series.strip_suffix('}') {
        Some(series) => format!("{series}, {condition}}}"),
        None => format!("{series}{{{condition}}}"),
    }
}

#[tokio::test]
async fn every_panel_has_data_while_calls_and_messages_of_all_kinds_cross() {
    // O-M2. No panel is left out: what shows faults is fed with faults.
    let echo = Echo::start();
    let cluster = start(&echo).await;
    let (grpc, framed) = (cluster.relay("a-1").grpc(), cluster.relay("a-1").framed());
    let consumers = cluster.relay("b-1").framed();
    let (pauser, publisher) = (operate::Operator::of(cluster.relay("a-1")), framed.clone());
    let _messages = Background::start("messages", move || messages(pauser, publisher, consumers));
    let _traffic = Background::start("traffic", move || traffic(grpc, framed));
    let relays: Vec<String> = ["a-1", "b-1"].map(|name| cluster.relay(name).admin()).into();
    let prometheus = Prometheus::start(&relays).await;
    let mut asked = 0;
    for (name, dashboard) in dashboards() {
        for (place, expression) in queries(&name, &dashboard) {
            for direction in ["outbound", "inbound"] {
                // Numbers that are none, such as a share of nothing, do not count.
                let query = format!("count(({}) >= -Inf)", substituted(&expression, direction));
                let what = format!("data for {place} as {direction}: {query}");
                wait_for(&what, LIMIT, async || prometheus.query(&query).await.pop()).await;
                asked += 1;
            }
        }
    }
    assert!(asked > 220, "{asked} queries");
    // It asked for OpenMetrics and got it: only there a counter's family is named without `_total`.
    assert_eq!(prometheus.metadata("strait_calls").await["type"], "counter");
    assert_eq!(
        prometheus.metadata("strait_call_duration_seconds").await["type"],
        "histogram"
    );
    assert_eq!(prometheus.query("count(up == 1)").await[0]["value"][1], "2");
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_the_series() {
    // O-M1
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    client.unary("Unary", to_b(Bytes::from("m"))).await.unwrap();
    fails(client.unary("Unary", request(Bytes::new(), &[])).await, Code::NotFound);
    for relay in ["a-1", "b-1"] {
        let relay = cluster.relay(relay);
        let scrape = wait_for("the call to be counted", LIMIT, async || {
            let (_, scrape) = http_get(&relay.admin(), "/metrics").await.unwrap();
            scrape.contains("strait_calls_total{").then_some(scrape)
        })
        .await;
        assert_eq!(promtool_complaints(&scrape), "", "about {}", relay.name);
    }
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    // O-M2
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana");
    assert_eq!(promtool_rules(&folder), "");
}
