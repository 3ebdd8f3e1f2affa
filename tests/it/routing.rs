//! C-G2, C-R1 to C-R3: where calls go, and how a relay says that it cannot carry one.

use std::time::Duration;

use bytes::Bytes;
use toml::Value;

use crate::harness::{Cluster, wait_for, within};
use crate::services::{Client, Echo, RawClient, RawReply, grpc_message, request};

const LIMIT: Duration = Duration::from_secs(30);

/// One call over a new connection to `a-1`.
async fn call(cluster: &Cluster, path: &str, fields: &[(&str, &str)]) -> RawReply {
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    within(path, LIMIT, client.call(path, fields, grpc_message(b"m")))
        .await
        .unwrap()
}

/// Checks that a relay made this error, in all the places where it says so.
fn check(reply: &RawReply, code: &str, reason: &str) {
    assert_eq!(reply.status, 200, "gRPC errors come with HTTP status 200: {reply:?}");
    assert_eq!(reply.ending("grpc-status"), Some(code), "{reply:?}");
    let place = reply.ending("strait-error").expect("made by a relay");
    let mut parts = place.split("; ");
    assert_eq!(parts.next(), Some(reason), "{place}");
    assert!(parts.next().is_some_and(|part| part.starts_with("unit=")), "{place}");
    assert!(parts.next().is_some_and(|part| part.starts_with("relay=")), "{place}");
    assert!(
        !reply.ending("grpc-message").unwrap_or_default().is_empty(),
        "no text for a person: {reply:?}"
    );
    let details = reply.ending("grpc-status-details-bin").expect("rich error");
    assert!(!details.is_empty(), "{reply:?}");
}

fn check_ok(reply: &RawReply) {
    assert_eq!(reply.ending("grpc-status"), Some("0"), "{reply:?}");
    assert_eq!(reply.ending("strait-error"), None);
}

// C-G2, C-R3
#[tokio::test]
async fn errors_of_relays_have_reason_place_and_code() {
    let (echo, gone) = (Echo::start(), "http://127.0.0.1:1".to_owned());
    let cluster = Cluster::pair(&echo.endpoint())
        .service("b", "im.Gone", &[gone])
        .start()
        .await;
    let to_b = ("strait-key", "uid=b:1");
    check(&call(&cluster, "/im.Echo/Unary", &[]).await, "5", "no_route");
    check(
        &call(&cluster, "/im.Echo/Unary", &[("strait-key", "uid=z:1")]).await,
        "5",
        "no_route",
    );
    check(&call(&cluster, "/im.None/Unary", &[to_b]).await, "5", "unknown_service");
    check(
        &call(&cluster, "/im.Echo/Unary", &[("strait-unit", "z")]).await,
        "5",
        "unknown_unit",
    );
    check(
        &call(&cluster, "/im.Gone/Unary", &[to_b]).await,
        "14",
        "service_unavailable",
    );
    check(
        &call(&cluster, "/im.Echo/Unary", &[("strait-key", "nonsense")]).await,
        "3",
        "bad_input",
    );
    check(
        &call(&cluster, "/im.Echo/Unary", &[("strait-key", "uid=")]).await,
        "3",
        "bad_input",
    );
    check(
        &call(&cluster, "/im.Echo/Unary", &[("strait-unit", "a/b")]).await,
        "3",
        "bad_input",
    );
    check(&call(&cluster, "/nonsense", &[to_b]).await, "3", "bad_input");
    let large = "v".repeat(40_000);
    check(
        &call(&cluster, "/im.Echo/Unary", &[to_b, ("x-large", &large)]).await,
        "8",
        "too_large",
    );
    assert_eq!(
        echo.seen.get(|seen| &seen.opened),
        0,
        "the service saw a call that was refused"
    );
    check_ok(&call(&cluster, "/im.Echo/Unary", &[to_b]).await);
    check_ok(&call(&cluster, "/im.Echo/Unary", &[("strait-unit", "b")]).await);
}

// C-G2: the unit is away from the start. The call is not held longer than it may be.
#[tokio::test]
async fn a_unit_that_is_away_is_said_to_be_away() {
    let echo = Echo::start();
    let mut cluster = Cluster::pair(&echo.endpoint()).prepare();
    cluster.relay_mut("a-1").start().await;
    let reply = call(&cluster, "/im.Echo/Unary", &[("strait-key", "uid=b:1")]).await;
    check(&reply, "14", "unit_away");
    // The unit comes; nothing has to be done at `a`.
    cluster.relay_mut("b-1").start().await;
    cluster.until_linked("a-1", "b").await;
    check_ok(&call(&cluster, "/im.Echo/Unary", &[("strait-key", "uid=b:1")]).await);
}

// C-R3, and the local unit as owner.
#[tokio::test]
async fn calls_go_to_the_unit_of_their_key_or_of_the_policy() {
    let (at_a, at_b) = (Echo::start(), Echo::start());
    for (policy, expected) in [("local", [1, 0]), ("unit:b", [0, 1])] {
        let before = [at_a.seen.get(|seen| &seen.opened), at_b.seen.get(|seen| &seen.opened)];
        let cluster = Cluster::pair(&at_b.endpoint())
            .service("a", "im.Echo", &[at_a.endpoint()])
            .set("a", "services.\"im.Echo\".missing_key", policy)
            .start()
            .await;
        check_ok(&call(&cluster, "/im.Echo/Unary", &[]).await);
        let after = [at_a.seen.get(|seen| &seen.opened), at_b.seen.get(|seen| &seen.opened)];
        assert_eq!(
            [after[0] - before[0], after[1] - before[1]],
            expected,
            "policy {policy}"
        );
        check_ok(&call(&cluster, "/im.Echo/Unary", &[("strait-key", "uid=a:1")]).await);
        check_ok(&call(&cluster, "/im.Echo/Unary", &[("strait-key", "uid=b:1")]).await);
        assert_eq!(at_a.seen.get(|seen| &seen.opened), after[0] + 1);
        assert_eq!(at_b.seen.get(|seen| &seen.opened), after[1] + 1);
    }
}

// The order of dimensions decides, not the order in the call.
#[tokio::test]
async fn the_first_dimension_of_the_settings_decides() {
    let (at_a, at_b) = (Echo::start(), Echo::start());
    let rule = |dimension: &str, prefix: &str, unit: &str| {
        let mut rule = toml::Table::new();
        rule.insert("dimension".into(), dimension.into());
        rule.insert("prefix".into(), prefix.into());
        rule.insert("unit".into(), unit.into());
        Value::Table(rule)
    };
    let rules = vec![rule("uid", "a:", "a"), rule("im.conversation", "cid:", "b")];
    let mut builder = Cluster::pair(&at_b.endpoint()).service("a", "im.Echo", &[at_a.endpoint()]);
    for unit in ["a", "b"] {
        builder = builder
            .set(
                unit,
                "routing.dimensions",
                vec![Value::from("im.conversation"), Value::from("uid")],
            )
            .set(unit, "routing.rules", rules.clone());
    }
    let cluster = builder.start().await;
    let fields = [("strait-key", "uid=a:1"), ("strait-key", "im.conversation=cid:1")];
    check_ok(&call(&cluster, "/im.Echo/Unary", &fields).await);
    assert_eq!(
        (at_a.seen.get(|seen| &seen.opened), at_b.seen.get(|seen| &seen.opened)),
        (0, 1)
    );
    check_ok(&call(&cluster, "/im.Echo/Unary", &fields[..1]).await);
    assert_eq!(
        (at_a.seen.get(|seen| &seen.opened), at_b.seen.get(|seen| &seen.opened)),
        (1, 1)
    );
}

// C-R1, C-R2: two units that each say the other owns the key. Nobody executes the call, nothing circles.
#[tokio::test]
async fn a_call_that_two_units_push_at_each_other_is_refused() {
    let (at_a, at_b) = (Echo::start(), Echo::start());
    let rule = |unit: &str| {
        let mut rule = toml::Table::new();
        rule.insert("dimension".into(), "uid".into());
        rule.insert("default".into(), true.into());
        rule.insert("unit".into(), unit.into());
        vec![Value::Table(rule)]
    };
    let cluster = Cluster::pair(&at_b.endpoint())
        .service("a", "im.Echo", &[at_a.endpoint()])
        .set("a", "routing.rules", rule("b"))
        .set("b", "routing.rules", rule("a"))
        .start()
        .await;
    let reply = call(&cluster, "/im.Echo/Unary", &[("strait-key", "uid=1")]).await;
    let reason = reply
        .ending("strait-error")
        .unwrap()
        .split("; ")
        .next()
        .unwrap()
        .to_owned();
    assert!(["wrong_unit", "loop"].contains(&reason.as_str()), "{reply:?}");
    assert_ne!(reply.ending("grpc-status"), Some("0"));
    assert_eq!(
        (at_a.seen.get(|seen| &seen.opened), at_b.seen.get(|seen| &seen.opened)),
        (0, 0)
    );
}

// C-O1: what happened can be counted, by unit, and no series says `unknown`.
#[tokio::test]
async fn calls_are_counted_with_both_units() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    for _ in 0..10 {
        client
            .unary(
                "Unary",
                request(Bytes::from("m"), &[("strait-key", "uid=b:secret-key-4711")]),
            )
            .await
            .unwrap();
    }
    for name in ["a-1", "b-1"] {
        // Shards add their counts to the shared ones now and then.
        wait_for(&format!("ten calls to be counted at {name}"), LIMIT, async || {
            let labels = [("src_unit", "a"), ("dst_unit", "b"), ("outcome", "ok")];
            let counted = cluster.relay(name).metrics().await.sum("strait_calls_total", &labels);
            (counted == 10.0).then_some(())
        })
        .await;
        let (_, text) = crate::harness::http_get(&cluster.relay(name).admin(), "/metrics")
            .await
            .unwrap();
        assert!(!text.contains("=\"unknown\""), "at {name}");
        assert!(!text.contains("secret-key-4711"), "a key became a label at {name}");
        assert!(
            !cluster.relay(name).log().contains("secret-key-4711"),
            "a key in the log of {name}"
        );
    }
}
