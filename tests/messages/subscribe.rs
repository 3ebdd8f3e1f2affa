//! Receiving over a gRPC stream (M-B4).

use std::time::Duration;

use strait::wire::messages::{Ack, Extend, Nack, Say, Terminate};
use tonic::Code;

use crate::grpc::{Api, message, reason, say};
use crate::relay::Relay;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_gets_each_message_once_and_settles_it_in_every_way() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let mut stream = api.subscribe("plain", "g", 0).await.unwrap();
    relay.queue.wait("the subscription", |seen| seen.consumers == 1);
    for body in ["1", "2", "3", "4"] {
        api.publish(message("plain", body)).await.unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..4 {
        got.push(stream.received().await);
    }
    let bodies: Vec<_> = got.iter().map(|message| message.body.clone()).collect();
    assert_eq!(bodies, ["1", "2", "3", "4"]);
    assert_eq!(
        (got[0].attempt, got[0].topic.as_str(), got[0].delivery),
        (1, "plain", 1)
    );
    assert_eq!(got[0].id, "a/a-1/0000000000000001/1");
    assert_eq!(got[0].visibility_timeout_ms, 30_000);
    stream.ack(got[0].delivery).await;
    let nack = Nack {
        delivery: got[1].delivery,
        delay_ms: Some(30),
        reason: "later".to_owned(),
    };
    stream.send(&say(Say::Nack(nack))).await;
    let terminate = Terminate {
        delivery: got[2].delivery,
        reason: "poison".to_owned(),
    };
    stream.send(&say(Say::Terminate(terminate))).await;
    let extend = Extend {
        delivery: got[3].delivery,
    };
    stream.send(&say(Say::Extend(extend))).await;
    stream.ack(999).await;
    relay.queue.wait("all settlements", |seen| {
        seen.said == ["ack 1", "nack 2 Some(30ms): later", "terminate 3: poison", "extend 4"]
    });
    let again = stream.received().await;
    assert_eq!(
        (again.attempt, &again.body[..], again.id.as_str()),
        (2, &b"2"[..], got[1].id.as_str())
    );
    let deliveries = vec![again.delivery, got[3].delivery];
    stream.send(&say(Say::Ack(Ack { deliveries }))).await;
    relay.queue.wait("both acks", |seen| {
        seen.said.ends_with(&["ack 2".into(), "ack 4".into()])
    });
    stream.close();
    assert_eq!(stream.next_bytes().await.unwrap(), None, "it ends with OK");
    relay.queue.wait("it is gone", |seen| seen.consumers == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_consumer_has_goes_to_others_when_it_leaves() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let mut first = api.subscribe("plain", "g", 1).await.unwrap();
    api.publish(message("plain", "x")).await.unwrap();
    assert_eq!(first.received().await.attempt, 1);
    let mut second = api.subscribe("plain", "g", 1).await.unwrap();
    drop(first);
    assert_eq!(second.received().await.attempt, 1, "leaving is no attempt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_that_is_kept_too_long_is_not_the_consumers_any_more() {
    let relay = Relay::start();
    relay
        .queue
        .set(|seen| seen.visibility_timeout = Some(Duration::from_millis(100)));
    let api = Api::connect(&relay.grpc).await;
    let mut stream = api.subscribe("plain", "g", 1).await.unwrap();
    api.publish(message("plain", "x")).await.unwrap();
    let first = stream.received().await;
    let second = stream.received().await;
    assert_eq!((first.attempt, second.attempt, &first.id), (1, 2, &second.id));
    stream.ack(first.delivery).await;
    stream.ack(second.delivery).await;
    relay.queue.wait("the second ack", |seen| seen.said == ["ack 1"]);
}

// M3: a client that does not read holds up itself: what it has not read goes to others, and is no attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_consumer_that_does_not_read_loses_what_waits_and_others_get_it() {
    let relay = Relay::start();
    relay
        .queue
        .set(|seen| seen.visibility_timeout = Some(Duration::from_secs(4)));
    let api = Api::connect(&relay.grpc).await;
    let deaf = Api::connect(&relay.grpc)
        .await
        .subscribe("plain", "g", 200)
        .await
        .unwrap();
    relay.queue.wait("the subscription", |seen| seen.consumers == 1);
    for _ in 0..100 {
        api.publish(message("plain", vec![1; 50_000])).await.unwrap();
    }
    relay.queue.wait("what waits is given back", |seen| {
        seen.said.iter().filter(|said| said.starts_with("unavailable")).count() > 50
    });
    let mut other = api.subscribe("plain", "g", 10).await.unwrap();
    for _ in 0..50 {
        let received = other.received().await;
        assert_eq!(received.attempt, 1);
        other.ack(received.delivery).await;
    }
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_messages_pass_as_the_client_reads() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let mut stream = api.subscribe("plain", "g", 10).await.unwrap();
    for number in 0..6_u8 {
        api.publish(message("plain", vec![number; 900_000])).await.unwrap();
    }
    for number in 0..6_u8 {
        let received = stream.received().await;
        assert!(received.body.len() == 900_000 && received.body.iter().all(|byte| *byte == number));
        stream.ack(received.delivery).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn mistakes_of_consumers_are_named() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    for (topic, group, max, code, text) in [
        ("", "g", 0, Code::InvalidArgument, "topic of `start`"),
        ("plain", "", 0, Code::InvalidArgument, "group of `start`"),
        ("nobody", "g", 0, Code::NotFound, "[topics.\"nobody\"]"),
        ("plain", "g", 5000, Code::InvalidArgument, "at most 4096"),
    ] {
        let status = api.subscribe(topic, group, max).await.err().unwrap();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
    }
    let status = api
        .stream("Subscribe", &say(Say::Ack(Ack::default())))
        .await
        .err()
        .unwrap();
    assert!(status.message().contains("must be `start`"), "{status:?}");
    let mut twice = api.subscribe("plain", "g", 0).await.unwrap();
    twice
        .send(&say(Say::Start(strait::wire::messages::Start::default())))
        .await;
    let status = twice.next_bytes().await.unwrap_err();
    assert!(status.message().contains("one `start`"), "{status:?}");
    relay.queue.wait("it is gone", |seen| seen.consumers == 0);
    relay.queue.set(|seen| seen.refuse_subscriptions = true);
    let status = api.subscribe("plain", "g", 0).await.err().unwrap();
    assert_eq!(reason(&status), "limited", "what the queue says no to is told");
}

// C-L1
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drain_ends_subscriptions_so_that_clients_go_elsewhere() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let mut stream = api.subscribe("plain", "g", 0).await.unwrap();
    relay.drain();
    let status = stream.next_bytes().await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "draining")
    );
    relay.queue.wait("it is gone", |seen| seen.consumers == 0);
}
