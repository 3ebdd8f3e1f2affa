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

/// The longest message that the settings allow by default, which is the longest there can be, with many attributes.
fn largest(more: usize) -> (Publish, Bytes) {
    const MAX: usize = 15 << 20;
    let mut publish = Publish::new("t");
    let mut attributes = 0;
    for number in 0..64 {
        let (name, value) = (format!("attribute{number}"), format!("{number}").repeat(40));
        // In a block of metadata: two lengths, name and value.
        attributes += name.len() + value.len() + FIELD_BYTES;
        publish = publish.attribute(&name, &value);
    }
    let body: Bytes = (0..MAX - attributes + more).map(|at| (at % 251) as u8).collect();
    (publish.body(body.clone()), body)
}

/// Bytes of a field of metadata beside its name and value.
const FIELD_BYTES: usize = 3;

// M-E5, M-A2: settings of two relays need not be alike; what is long goes behind what is short on the same lane.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_crosses_to_a_relay_with_narrow_lanes_and_one_byte_more_is_refused() {
    let builder = pair("rule = \"local\"\nfrom = [\"a\"]");
    let builder = ["a", "b"].into_iter().fold(builder, |builder, unit| {
        builder
            .set(unit, "queue.message_bytes_max", "15MiB")
            .set(unit, "queue.publish_bytes_max", "64MiB")
    });
    let builder = builder
        .set("b", "queue.lane_bytes_max", "128KiB")
        .set("b", "queue.batch_bytes", "64KiB");
    let cluster = builder.start().await;
    let consumer = client(cluster.relay("b-1")).await;
    let (bodies, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let take = move |attempt: Attempt| {
        let _ = bodies.send((
            attempt.body().clone(),
            attempt.attribute("attribute63").map(str::to_owned),
        ));
        async { Ok(()) }
    };
    let subscribed = consumer.subscribe(Subscribe::new("t", "g"), take);
    within("a subscription", LIMIT, subscribed).await.unwrap();
    let publisher = client(cluster.relay("a-1")).await;
    // On the lane before it.
    let small = (0..200).map(|_| publisher.publish(Publish::new("t").body(vec![1; 8 << 10])));
    let (publish, body) = largest(0);
    let publish = publish.wait(AckLevel::Delivered).timeout(LIMIT);
    let (small, large) = tokio::join!(futures(small), publisher.publish(publish));
    assert!(small.iter().all(Result::is_ok), "{small:?}");
    assert_eq!(large.unwrap().level(), AckLevel::Delivered);
    let arrived = within("the large one", LIMIT, async {
        loop {
            let (bytes, attribute) = taken.recv().await.unwrap();
            if bytes.len() > 8 << 10 {
                return (bytes, attribute);
            }
        }
    });
    let (bytes, attribute) = arrived.await;
    assert!(bytes == body, "{} bytes in place of {}", bytes.len(), body.len());
    assert_eq!(attribute, Some("63".repeat(40)));
    let log = cluster.relay("b-1").log();
    assert!(!log.contains("without acknowledgement"), "a lane was closed: {log}");
    // One byte more.
    let (publish, _) = largest(1);
    match within("an answer", LIMIT, publisher.publish(publish.timeout(LIMIT))).await {
        Err(CallError::Relay(error)) => {
            assert_eq!(error.reason, Reason::TooLarge, "{error}");
            assert!(error.detail.contains("message_bytes_max"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// All of them, each as its own task would.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut done = Vec::new();
    for one in all {
        done.push(one.await);
    }
    done
}
