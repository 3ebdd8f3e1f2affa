//! O-C3, C-L2: the file is put in force as a whole or not at all, and the log says what needs a restart.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use toml::{Table, Value};
use tonic::Code;

use crate::harness::{Cluster, DOMAIN, Leaf, Relay, free_port, wait_for, within};
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
pub async fn reload(relay: &Relay, outcome: &str, change: impl FnOnce(&mut Table)) {
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
    assert!(metrics.sum("strait_settings_version", &[]) > 0.0);
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
    let named = relay.log().matches("relay.drain_timeout").count();
    assert_eq!(named, 1, "the mistake is named, and once");
    reload(relay, "refused", |config| {
        put(config, "relay", "drain_timeout", "10s");
        put(config, "peer", "key", "missing.key");
    })
    .await;
    assert!(relay.log().contains("missing.key"), "the file is named");
    reload(relay, "refused", |config| {
        put(config, "peer", "key", "relay.key");
        for rule in config["routing"]["rules"].as_array_mut().unwrap() {
            rule["unit"] = Value::from("n");
        }
    })
    .await;
    let metrics = relay.metrics().await;
    assert_eq!(metrics.sum("strait_settings_refused", &[]), 1.0, "an alarm can see it");
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

/// A call that stays at the service until it is told otherwise by its delay.
fn slow_call(client: &Client, delay: &str) -> tokio::task::JoinHandle<Result<Bytes, tonic::Status>> {
    let client = client.clone();
    let asked = request(
        Bytes::from_static(b"slow"),
        &[("strait-key", "uid=b:1"), ("x-delay-ms", delay)],
    );
    tokio::spawn(async move { client.unary("Unary", asked).await.map(tonic::Response::into_inner) })
}

// C-L2: an endpoint that left gets no new calls and finishes those it has; calls find the other one at every moment.
#[tokio::test]
async fn endpoints_change_without_a_restart_and_without_a_failed_call() {
    let first = Echo::start();
    let cluster = Cluster::pair(&first.endpoint())
        .set("b", "services.\"im.Echo\".connect_timeout", "60s")
        .start()
        .await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let slow = slow_call(&client, "4000");
    wait_for("the slow call to arrive", LIMIT, async || {
        (first.seen.open() == 1).then_some(())
    })
    .await;
    let other = format!("127.0.0.1:{}", free_port());
    reload(cluster.relay("b-1"), "applied", |config| {
        let endpoints = vec![Value::from(format!("http://{other}"))];
        config["services"]["im.Echo"]["endpoints"] = Value::from(endpoints);
    })
    .await;
    // The other one is not there yet, so the first one stays.
    for _ in 0..20 {
        assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
    }
    let second = Echo::start_on(std::net::TcpListener::bind(&other).unwrap());
    wait_for("calls to go to the other endpoint alone", LIMIT, async || {
        let before = [&first, &second].map(|echo| echo.seen.get(|seen| &seen.opened));
        for _ in 0..20 {
            assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
        }
        let after = [&first, &second].map(|echo| echo.seen.get(|seen| &seen.opened));
        (after == [before[0], before[1] + 20]).then_some(())
    })
    .await;
    assert_eq!(within("the slow call", LIMIT, slow).await.unwrap().unwrap(), "slow");

    reload(cluster.relay("b-1"), "applied", |config| {
        config.remove("services");
    })
    .await;
    wait_for("the service to be gone", LIMIT, async || {
        (code_for(&cluster, "uid=b:1").await == Code::NotFound).then_some(())
    })
    .await;
    reload(cluster.relay("b-1"), "applied", |config| {
        let services = format!("[\"im.Echo\"]\nendpoints = [\"{}\"]", first.endpoint());
        config.insert("services".to_owned(), Value::Table(services.parse().unwrap()));
    })
    .await;
    wait_for("the service to be back", LIMIT, async || {
        (code_for(&cluster, "uid=b:1").await == Code::Ok).then_some(())
    })
    .await;
    assert!(!cluster.relay("b-1").log().contains("only after a restart"));
}

// C-L2: connections to endpoints that stay are left alone.
#[tokio::test]
async fn a_hundred_reloads_leave_connections_to_services_alone() {
    let echo = Echo::start();
    // One connection for each of two shards, so that no call asks for a further one.
    let cluster = Cluster::pair(&echo.endpoint())
        .set("b", "relay.shards", 2)
        .set("b", "services.\"im.Echo\".connections_max", 1)
        .start()
        .await;
    let relay = cluster.relay("b-1");
    let connects = async || {
        let metrics = relay.metrics().await;
        metrics.sum("strait_delivery_connects_total", &[("service", "im.Echo")])
    };
    wait_for("both connections", LIMIT, async || {
        (connects().await == 2.0).then_some(())
    })
    .await;
    for number in 0..100 {
        reload(relay, "applied", |config| {
            let service = config["services"]["im.Echo"].as_table_mut().unwrap();
            service.insert("timeout".to_owned(), Value::from(format!("{}s", 20 + number)));
        })
        .await;
        assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
    }
    assert_eq!(connects().await, 2.0);
}

// C-L2: limits of calls that begin from then on.
#[tokio::test]
async fn policies_of_calls_change_without_a_restart() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let before = slow_call(&client, "4000");
    wait_for("the slow call to arrive", LIMIT, async || {
        (echo.seen.open() == 1).then_some(())
    })
    .await;
    reload(cluster.relay("a-1"), "applied", |config| {
        let calls: Table = "timeout = \"1s\"\nmissing_key = \"unit:b\"".parse().unwrap();
        config.insert("calls".to_owned(), Value::Table(calls));
    })
    .await;
    wait_for("the limit to be in force", LIMIT, async || {
        let ended = within("call", LIMIT, slow_call(&client, "4000")).await.unwrap();
        ended
            .is_err_and(|status| status.code() == Code::DeadlineExceeded)
            .then_some(())
    })
    .await;
    let without_key = client.unary("Unary", request(Bytes::from_static(b"m"), &[]));
    within("a call without key", LIMIT, without_key).await.unwrap();
    assert_eq!(within("the call before", LIMIT, before).await.unwrap().unwrap(), "slow");
    assert!(!cluster.relay("a-1").log().contains("only after a restart"));
}

// C-L2: a unit that leaves is drained and no longer trusted; one that comes is dialled.
#[tokio::test]
async fn units_change_without_a_restart() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .unit("c", 1)
        .service("c", "im.Echo", &[echo.endpoint()])
        .start()
        .await;
    let relay = cluster.relay("a-1");
    assert_eq!(code_for(&cluster, "uid=c:1").await, Code::Ok);
    let before: Table = fs::read_to_string(relay.config()).unwrap().parse().unwrap();
    reload(relay, "applied", |config| {
        config["units"].as_table_mut().unwrap().remove("c");
        let rules = config["routing"]["rules"].as_array_mut().unwrap();
        rules.retain(|rule| rule["unit"].as_str() != Some("c"));
    })
    .await;
    cluster.until_unlinked("a-1", "c").await;
    wait_for("the unit that left to be refused", LIMIT, async || {
        let metrics = relay.metrics().await;
        let refused = metrics.sum(
            "strait_peer_refused_total",
            &[("reason", "unknown_unit"), ("direction", "accepted")],
        );
        (refused > 0.0).then_some(())
    })
    .await;
    assert_eq!(code_for(&cluster, "uid=c:1").await, Code::NotFound);
    assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
    reload(relay, "applied", |config| *config = before).await;
    cluster.until_linked("a-1", "c").await;
    assert_eq!(code_for(&cluster, "uid=c:1").await, Code::Ok);
    let ended = relay.metrics().await;
    assert_eq!(
        ended.sum("strait_peer_links_ended_total", &[("dst_unit", "b")]),
        0.0,
        "links to b stay"
    );
    assert!(!relay.log().contains("only after a restart"));
}

// C-L2: a unit that was taken out by mistake and put back is called again although only it can dial, and although
// a call kept its link from ending meanwhile.
#[tokio::test]
async fn a_unit_that_comes_back_soon_is_reached_over_links_that_it_dials() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .service("a", "im.Echo", &[echo.endpoint()])
        .waits_for("b", "a")
        .start()
        .await;
    let (caller, relay) = (
        Client::connect(&cluster.relay("b-1").grpc()).await,
        cluster.relay("b-1"),
    );
    let to_a = async || {
        let call = caller.unary("Unary", request(Bytes::from_static(b"m"), &[("strait-unit", "a")]));
        within("call", LIMIT, call).await.is_ok()
    };
    wait_for("unit a to be reached", LIMIT, async || to_a().await.then_some(())).await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let slow = slow_call(&client, "8000");
    wait_for("the slow call to arrive", LIMIT, async || {
        (echo.seen.open() == 1).then_some(())
    })
    .await;
    let before: Table = fs::read_to_string(relay.config()).unwrap().parse().unwrap();
    let without_a = |config: &mut Table| {
        config["units"].as_table_mut().unwrap().remove("a");
        let rules = config["routing"]["rules"].as_array_mut().unwrap();
        rules.retain(|rule| rule["unit"].as_str() != Some("a"));
    };
    reload(relay, "applied", without_a).await;
    wait_for("unit a to be gone", LIMIT, async || (!to_a().await).then_some(())).await;
    reload(relay, "applied", |config| *config = before.clone()).await;
    wait_for("unit a to be back", LIMIT, async || to_a().await.then_some(())).await;
    // And once more, this time for so long that the links were told to end.
    reload(relay, "applied", without_a).await;
    wait_for("the links to retire", LIMIT, async || {
        let metrics = relay.metrics().await;
        (metrics.sum("strait_peer_links_retiring", &[]) > 0.0).then_some(())
    })
    .await;
    reload(relay, "applied", |config| *config = before).await;
    wait_for("unit a to be reached again", LIMIT, async || to_a().await.then_some(())).await;
    assert_eq!(within("the slow call", LIMIT, slow).await.unwrap().unwrap(), "slow");
}

// C-L2: another address of a relay is dialled first, then the link to the earlier one ends.
#[tokio::test]
async fn a_relay_that_moved_is_reached_at_its_new_address_without_a_failed_call() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).impaired(7).start().await;
    let relay = cluster.relay("a-1");
    let direct = cluster.relay("b-1").peer();
    reload(relay, "applied", |config| {
        config["units"]["b"]["relays"][0]["addresses"] = Value::from(vec![Value::from(direct)]);
    })
    .await;
    wait_for("the links to be replaced", LIMIT, async || {
        assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
        let metrics = relay.metrics().await;
        (metrics.sum("strait_peer_links_ended_total", &[("reason", "replaced")]) >= 2.0).then_some(())
    })
    .await;
    // What is dialled no longer passes the path that was dialled before; the other direction does.
    cluster.path("a-1", "b-1").partition_both(true);
    for _ in 0..20 {
        assert_eq!(code_for(&cluster, "uid=b:1").await, Code::Ok);
    }
}

// O-C3: no signal is needed.
#[tokio::test]
async fn a_changed_file_is_read_without_a_signal() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "relay.watch_interval", "50ms")
        .set("b", "relay.watch_interval", "50ms")
        .start()
        .await;
    for relay in cluster.relays() {
        let mut config: Table = fs::read_to_string(relay.config()).unwrap().parse().unwrap();
        add_rule(&mut config);
        fs::write(relay.config(), config.to_string()).unwrap();
    }
    wait_for("the new rule to be in force", LIMIT, async || {
        (code_for(&cluster, "uid=c:1").await == Code::Ok).then_some(())
    })
    .await;
    // So is a certificate, whose file the settings only name.
    let relay = cluster.relay("a-1");
    let expiry = async || {
        relay
            .metrics()
            .await
            .sum("strait_peer_certificate_expiry_timestamp_seconds", &[])
    };
    let before = expiry().await;
    let mut leaf = Leaf::relay(DOMAIN, "geo-a", "a", "a-1");
    leaf.ends = time::Duration::days(2);
    cluster.authority("a").issue(&leaf, relay.directory(), "relay");
    wait_for("the certificate to be in force", LIMIT, async || {
        (expiry().await != before).then_some(())
    })
    .await;
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
    // Calls of a moment ago may still have permits of the budget (C-T3).
    let all_attempts = async || {
        wait_for("a call to have all its attempts", LIMIT, async || {
            (attempts_of_a_call().await == 5).then_some(())
        })
        .await;
    };
    all_attempts().await;
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
        if expected == 1 {
            assert_eq!(attempts_of_a_call().await, 1, "{retry}");
        } else {
            all_attempts().await;
        }
    }
    reload(relay, "refused", |config| {
        config.insert("retry".to_owned(), Value::Table("units.x = false".parse().unwrap()));
    })
    .await;
    assert!(relay.log().contains("retry.units.x"), "the mistake is named");
    assert!(!relay.log().contains("only after a restart"));
}
