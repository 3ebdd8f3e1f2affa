//! a unit counts as away only if most units say so. One broken path is no reason to do what is another unit's.

use std::time::Duration;

use serde_json::Value as Json;

use crate::harness::{Cluster, Relay, http_get, wait_for};
use crate::local_mode::{Ledger, call, counted, grpc, keeping, said, seen, strait, until_applied, until_seen_away};
use crate::services::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// Cuts or mends all paths between two units.
fn cut(cluster: &Cluster, (one, other): (&str, &str), is_cut: bool) {
    for (from, to) in [(one, other), (other, one)] {
        cluster.path(from, to).partition_both(is_cut);
    }
}

/// Calls at unit `a` with keys of `b`, one after the other.
struct Caller {
    client: Client,
    calls: usize,
}

impl Caller {
    async fn call(&mut self, method: &str) -> Result<std::collections::BTreeMap<String, String>, tonic::Status> {
        self.calls += 1;
        let id = self.calls.to_string();
        let fields = [("strait-key", "uid=b:1"), ("idempotency-key", id.as_str())];
        call(&self.client, method, &fields).await
    }

    /// Makes a call to be executed locally, and one to be parked; both are refused.
    async fn is_refused(&mut self, why: &str) {
        for method in ["Post", "Park"] {
            let status = self.call(method).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
            assert!(said(&status, "strait-error").starts_with("unit_away"), "{status:?}");
            assert!(
                status.message().contains("was not kept") && status.message().contains(why),
                "{status:?}"
            );
        }
    }

    /// The same two; both are kept. Their ids.
    async fn is_kept(&mut self) -> [String; 2] {
        let answer = self.call("Post").await.unwrap();
        assert_eq!(answer["strait-provisional"], "true");
        let status = self.call("Park").await.unwrap_err();
        assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
        [self.calls - 1, self.calls].map(|id| id.to_string())
    }
}

async fn observers(relay: &Relay) -> Json {
    let (_, text) = http_get(&relay.admin(), "/explain?dimension=uid&key=b:1")
        .await
        .unwrap();
    serde_json::from_str::<Json>(&text).unwrap()["observers"].clone()
}

/// Waits until the series say so many units reach `b`, and so many do not.
async fn until_said(relay: &Relay, expected: (f64, f64)) {
    wait_for("the series of observers", LIMIT, async || {
        let now = (seen(relay, "b", "reached").await, seen(relay, "b", "away").await);
        (now == expected).then_some(())
    })
    .await;
}

// of three units two reach the third; the one that does not keeps none of its calls. When nobody reaches it, they are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_kept_when_most_units_say_that_their_unit_is_away() {
    let mut builder = Cluster::builder().unit("a", 1).unit("b", 1).unit("c", 1).impaired(7);
    for unit in ["a", "b", "c"] {
        builder = keeping(unit, builder)
            .set(unit, "peer.keep_alive", "500ms")
            .set(unit, "peer.idle_timeout", "3s");
    }
    let cluster = builder.start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    let mut caller = Caller {
        client: grpc(cluster.relay("a-1")).await,
        calls: 0,
    };
    let a = cluster.relay("a-1");
    assert_eq!(caller.call("Post").await.unwrap()["strait-unit"], "b");
    wait_for("all to see all", LIMIT, async || {
        (seen(a, "b", "reached").await == 2.0).then_some(())
    })
    .await;
    assert!(
        observers(a).await.is_null(),
        "there is nothing to say while it is reached"
    );

    cut(&cluster, ("a-1", "b-1"), true);
    cluster.until_unlinked("a-1", "b").await;
    caller.is_refused("1 of 2 units say that it is away").await;
    assert_eq!(counted(a, "strait_kept_calls_total", "reached").await, 2.0);
    until_said(a, (1.0, 1.0)).await;
    assert_eq!(observers(a).await, serde_json::json!({ "away": 1, "of": 2 }));
    // An operator of this unit knows better, and asks nobody.
    strait(
        a,
        &["unit", "local-mode", "b", "--for", "1h", "--reason", "cut off for good"],
    );
    let first = caller.is_kept().await;
    strait(a, &["unit", "local-mode", "b", "--off"]);
    caller.is_refused("1 of 2 units").await;
    assert_eq!(at_a.applied().len(), 1);

    cut(&cluster, ("c-1", "b-1"), true);
    until_seen_away(a, "b", 2).await;
    let second = caller.is_kept().await;
    cut(&cluster, ("c-1", "b-1"), false);
    until_seen_away(a, "b", 1).await;
    caller.is_refused("1 of 2 units").await;

    // Alone this unit decides alone: what the other one said has gone with its link.
    cut(&cluster, ("a-1", "c-1"), true);
    cluster.until_unlinked("a-1", "c").await;
    let third = caller.is_kept().await;
    until_said(a, (0.0, 1.0)).await;

    cut(&cluster, ("a-1", "b-1"), false);
    until_applied(&at_b, 7).await;
    let applied: Vec<String> = at_b.applied().into_iter().map(|entry| entry.id).collect();
    assert_eq!(applied[0], "1");
    assert_eq!(
        applied[1..],
        [first, second, third].concat(),
        "and nothing that was refused"
    );
    assert_eq!(caller.call("Post").await.unwrap()["strait-unit"], "b");
}
