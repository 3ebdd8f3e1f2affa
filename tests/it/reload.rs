//! O-C3: SIGHUP puts the file in force as a whole or not at all, and says what needs a restart.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use toml::{Table, Value};
use tonic::Code;

use crate::harness::{Cluster, DOMAIN, Leaf, Relay, wait_for, within};
use crate::retries::until_served;
use crate::services::{Client, Echo, RawService, request, reset};

const LIMIT: Duration = Duration::from_secs(30);

async fn code_for(cluster: &Cluster, key: &str) -> Code {
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let call = client.unary("Unary", request(Bytes::from_static(b"m"), &[("strait-key", key)]));
    within("call", LIMIT, call)
        .await
        .map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Changes the file of a relay, has it read, and waits until it was applied or refused.
async fn reload(relay: &Relay, outcome: &str, change: impl FnOnce(&mut Table)) {
    let mut config: Table = fs::read_to_string(relay.config()).unwrap().parse().unwrap();
    change(&mut config);
    fs::write(relay.config(), config.to_string()).unwrap();
    let count = async || {
        let metrics = relay.metrics().await;
        metrics.sum("strait_settings_reload_total", &[("outcome", outcome)])
    };
    let before = count().await;
    relay.signal("HUP");
    let what = format!("settings to be {outcome}");
    wait_for(&what, LIMIT, async || (count().await > before).then_some(())).await;
}

fn put(config: &mut Table, table: &str, key: &str, value: &str) {
    let table = config[table].as_table_mut().unwrap();
    table.insert(key.to_owned(), Value::from(value));
}

/// Keys that start with `c:` belong to unit `b` from version 2 on.
fn add_rule(config: &mut Table) {
    let routing = config["routing"].as_table_mut().unwrap();
    routing.insert("version".to_owned(), Value::from(2));
    let rule: Table = "dimension = \"uid\"\nprefix = \"c:\"\nunit = \"b\"".parse().unwrap();
    routing["rules"].as_array_mut().unwrap().push(Value::Table(rule));
}

#[tokio::test]
async fn routes_change_without_a_restart() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    assert_eq!(code_for(&cluster, "uid=c:1").await, Code::NotFound);
    for relay in cluster.relays() {
        reload(relay, "applied", add_rule).await;
    }
    assert_eq!(code_for(&cluster, "uid=c:1").await, Code::Ok);
    assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
    assert!(!cluster.relay("a-1").log().contains("only after a restart"));
    let metrics = cluster.relay("a-1").metrics().await;
    assert!(metrics.sum("strait_settings_loaded_timestamp_seconds", &[]) > 1.7e9);
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let relay = cluster.relay("a-1");
    // The rule is fine, the rest is not: neither may take effect.
    reload(relay, "refused", |config| {
        add_rule(config);
        put(config, "relay", "drain_timeout", "soon");
    })
    .await;
    assert!(relay.log().contains("relay.drain_timeout"), "the mistake is named");
    reload(relay, "refused", |config| {
        put(config, "relay", "drain_timeout", "10s");
        put(config, "peer", "key", "missing.key");
    })
    .await;
    assert!(relay.log().contains("missing.key"), "the file is named");
    reload(relay, "refused", |config| {
        put(config, "peer", "key", "relay.key");
        let unit: Table = "geo = \"geo-b\"\ndial = false".parse().unwrap();
        config["units"]
            .as_table_mut()
            .unwrap()
            .insert("n".to_owned(), Value::Table(unit));
        for rule in config["routing"]["rules"].as_array_mut().unwrap() {
            rule["unit"] = Value::from("n");
        }
    })
    .await;
    assert_eq!(code_for(&cluster, "uid=c:1").await, Code::NotFound);
    assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_is_in_force() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let relay = cluster.relay("a-1");
    reload(relay, "applied", |config| {
        put(config, "relay", "drain_timeout", "7s");
        let log: Table = "level = \"info,strait::app=debug\"\nspans = true".parse().unwrap();
        config.insert("log".to_owned(), Value::Table(log));
    })
    .await;
    let log = wait_for("the log", LIMIT, async || {
        let log = relay.log();
        log.contains("only after a restart").then_some(log)
    })
    .await;
    let line = |text: &str| log.lines().find(|line| line.contains(text)).unwrap().to_owned();
    assert!(line("only after a restart").contains("\"settings\":\"relay.drain_timeout\""));
    assert!(line("settings loaded").contains("\"changed\":\"log.level, log.spans\""));
}

// New certificates are used by links that are made from then on.
#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() {
    let echo = Echo::start();
    let mut cluster = Cluster::pair(&echo.endpoint()).start().await;
    let expiry = async |cluster: &Cluster| {
        let metrics = cluster.relay("a-1").metrics().await;
        metrics.sum("strait_peer_certificate_expiry_timestamp_seconds", &[])
    };
    let before = expiry(&cluster).await;
    let mut leaf = Leaf::relay(DOMAIN, "geo-a", "a", "a-1");
    leaf.ends = time::Duration::days(2);
    let directory = cluster.relay("a-1").directory();
    cluster.authority("a").issue(&leaf, directory, "relay");
    reload(cluster.relay("a-1"), "applied", |_| {}).await;
    assert_ne!(expiry(&cluster).await, before);
    let relay = cluster.relay_mut("b-1");
    relay.terminate().await;
    relay.start().await;
    cluster.until_all_linked().await;
    assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
}

// C-T7: per service, per unit and everywhere, while the relay runs.
#[tokio::test]
async fn retries_are_switched_off_and_on_without_a_restart() {
    let attempts = Arc::new(AtomicU64::new(0));
    let seen = attempts.clone();
    let service = RawService::start(move |_, respond| {
        seen.fetch_add(1, Ordering::SeqCst);
        async move { reset(respond, h2::Reason::INTERNAL_ERROR) }
    });
    let cluster = Cluster::pair(&service.endpoint())
        .set("b", "services.\"im.Echo\".outlier.failures", 0)
        .start()
        .await;
    until_served(&cluster).await;
    let relay = cluster.relay("a-1");
    let client = Client::connect(&relay.grpc()).await;
    let attempts_of_a_call = async || {
        let before = attempts.load(Ordering::SeqCst);
        let fields = [("strait-key", "uid=b:1"), ("strait-idempotent", "true")];
        let call = client.unary("Any", request(Bytes::from_static(b"m"), &fields));
        assert_eq!(within("call", LIMIT, call).await.unwrap_err().code(), Code::Unavailable);
        attempts.load(Ordering::SeqCst) - before
    };
    assert_eq!(attempts_of_a_call().await, 5);
    for (retry, expected) in [
        ("services.\"im.Echo\" = false", 1),
        ("services.\"im.Other\" = false", 5),
        ("units.b = false", 1),
        ("enabled = false", 1),
        ("enabled = true", 5),
    ] {
        reload(relay, "applied", |config| {
            config.insert("retry".to_owned(), Value::Table(retry.parse().unwrap()));
        })
        .await;
        assert_eq!(attempts_of_a_call().await, expected, "{retry}");
    }
    reload(relay, "refused", |config| {
        config.insert("retry".to_owned(), Value::Table("units.x = false".parse().unwrap()));
    })
    .await;
    assert!(relay.log().contains("retry.units.x"), "the mistake is named");
    assert!(!relay.log().contains("only after a restart"));
}
