//! M-A2, M-E5, M-G4: whoever waits for a message hears at once that it comes no further, and how large one may be.

use std::time::Duration;

use bytes::Bytes;
use strait::client::{AckLevel, Attempt, CallError, Client, Nack, Publish, Subscribe};
use strait::model::{Reason, RelayError};

use crate::harness::{Cluster, ClusterBuilder, Relay, wait_for, within};
use crate::operate::topic;

/// Far longer than anything here takes: nobody is told by the end of it.
const LIMIT: Duration = Duration::from_secs(60);

/// Units `a` and `b`; messages of `t` go from `a` to `b`, where `settings` are those of the topic.
fn pair(settings: &str) -> ClusterBuilder {
    Cluster::builder()
        .unit("a", 1)
        .unit("b", 1)
        .set("a", "topics.t", topic("rule = \"units\"\nunits = [\"b\"]"))
        .set("b", "topics.t", topic(settings))
}

async fn client(relay: &Relay) -> Client {
    let builder = Client::builder(&format!("tcp://{}", relay.framed())).message_bytes_max(64 << 20);
    within("a client to connect", LIMIT, builder.connect()).await.unwrap()
}

/// What a publisher is told who waits for a level.
async fn refused(client: &Client, level: AckLevel) -> RelayError {
    let publish = Publish::new("t").body("x").wait(level).timeout(LIMIT);
    match within("an answer", LIMIT, client.publish(publish)).await {
        Err(CallError::Relay(error)) => *error,
        other => panic!("{other:?}"),
    }
}

// M-A2
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_hears_at_once_that_a_consumer_in_another_unit_refused_its_message() {
    let cluster = pair("rule = \"local\"\nfrom = [\"a\"]").start().await;
    let consumer = client(cluster.relay("b-1")).await;
    let refuses = |_: Attempt| async { Err(Nack::terminate("not for us")) };
    let subscribed = consumer.subscribe(Subscribe::new("t", "g"), refuses);
    within("a subscription", LIMIT, subscribed).await.unwrap();
    let error = refused(&client(cluster.relay("a-1")).await, AckLevel::Delivered).await;
    assert_eq!(error.reason, Reason::Undelivered, "{error}");
    for part in [
        "the message was accepted with id a/a-1/",
        "has come as far as RELAYED",
        "terminated in unit b; it is a dead letter: FailedPrecondition: not for us",
    ] {
        assert!(error.detail.contains(part), "{part}: {error}");
    }
}

// M-G4
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_hears_at_once_that_another_unit_does_not_let_its_message_in_and_what_would() {
    for (settings, advice) in [
        ("rule = \"local\"", "its rule is \"local\": give it from = [\"a\"]"),
        ("rule = \"local\"\nfrom = [\"c\"]", "add \"a\" to its `from`"),
    ] {
        let cluster = pair(settings).unit("c", 1).start().await;
        let client = client(cluster.relay("a-1")).await;
        for level in [AckLevel::Relayed, AckLevel::Delivered] {
            let error = refused(&client, level).await;
            assert_eq!(error.reason, Reason::Policy, "{error}");
            for part in [
                "has come as far as ACCEPTED",
                "not_allowed on its way to unit b",
                advice,
            ] {
                assert!(error.detail.contains(part), "{part}: {error}");
            }
        }
        wait_for("the dead letters", LIMIT, async || {
            let metrics = cluster.relay("a-1").metrics().await;
            (metrics.sum("strait_dead_letters_added_total", &[]) >= 2.0).then_some(())
        })
        .await;
    }
}
