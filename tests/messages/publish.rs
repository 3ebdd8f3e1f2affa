//! Publishing over gRPC and framed (M-A2, M-A5, M-E2, M-G4).

use std::time::{Duration, Instant};

use bytes::Bytes;
use strait::client::{Call, CallError, Client};
use strait::model::{AckLevel, Reason, RelayError, Retry};
use strait::wire::messages::{self, Attribute, Durability, Encode, MessageKey, PublishReply, PublishRequest};
use tonic::Code;

use crate::grpc::{Api, message, reason};
use crate::relay::{Relay, Setup};

fn attribute(name: &str, value: &str) -> Attribute {
    Attribute {
        name: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn keyed(topic: &str, dimension: &str, key: &str) -> PublishRequest {
    PublishRequest {
        key: Some(MessageKey {
            dimension: Bytes::copy_from_slice(dimension.as_bytes()),
            key: Bytes::copy_from_slice(key.as_bytes()),
        }),
        ..message(topic, "x")
    }
}

async fn over_framed(client: &Client, request: &PublishRequest) -> Result<PublishReply, CallError> {
    let call = Call::new("strait.v1.Messages/Publish").body(request.to_bytes());
    let reply = client.call(call).await?;
    Ok(messages::decode(reply.into_body()).unwrap())
}

// M-A2: the same message, whichever protocol it came over; attributes as they came (M-A1).
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_arrives_whole_over_both_protocols() {
    let relay = Relay::start();
    let request = PublishRequest {
        attributes: vec![
            attribute("source", "/im"),
            attribute("id", "17"),
            attribute("subject", "\u{e9} 100%"),
        ],
        ..keyed("everywhere", "uid", "a:1")
    };
    let grpc = Api::connect(&relay.grpc).await.publish(request.clone()).await.unwrap();
    let client = Client::connect(&relay.framed).await.unwrap();
    let framed = over_framed(&client, &request).await.unwrap();
    assert_eq!(
        (grpc.id.as_str(), framed.id.as_str()),
        ("a/a-1/0000000000000001/1", "a/a-1/0000000000000001/2")
    );
    assert_eq!(grpc.level, i32::from(messages::AckLevel::Accepted));
    assert_eq!(grpc.durability, i32::from(Durability::Group));
    relay.queue.look(|seen| {
        assert_eq!(seen.messages.len(), 2);
        for (message, units) in seen.messages.iter().zip(&seen.units) {
            assert_eq!((message.topic.as_str(), &message.body[..]), ("everywhere", &b"x"[..]));
            assert_eq!(message.key.as_ref().map(|key| &key.key[..]), Some(&b"a:1"[..]));
            let attributes: Vec<_> = message.attributes.iter().collect();
            assert_eq!(attributes.len(), 3);
            assert_eq!(message.attributes.text("subject"), Some("\u{e9} 100%"));
            assert_eq!(units, &["a", "b", "c"], "rule all");
        }
    });
}

// M-A5: a weaker setting is visible in every ack. M-B3: so is a duplicate.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_says_how_safely_it_is_stored_and_whether_it_was_there_before() {
    let relay = Relay::start();
    relay.queue.set(|seen| seen.is_buffered = true);
    let api = Api::connect(&relay.grpc).await;
    let request = PublishRequest {
        attributes: vec![attribute("source", "/im"), attribute("id", "again")],
        ..message("plain", "x")
    };
    let reply = api.publish(request).await.unwrap();
    assert_eq!(
        (reply.durability, reply.duplicate),
        (i32::from(Durability::Buffered), true)
    );
}

// M-A2, M-B3: nobody knows how far the first one has come; who waits for that is not left waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_duplicate_of_which_no_more_is_known_is_answered_with_what_is() {
    let relay = Relay::start();
    relay.queue.set(|seen| seen.is_stuck = true);
    let request = PublishRequest {
        attributes: vec![attribute("source", "/im"), attribute("id", "old")],
        wait: messages::AckLevel::Delivered.into(),
        ..message("plain", "x")
    };
    let client = Client::connect(&relay.framed).await.unwrap();
    for reply in [
        Api::connect(&relay.grpc).await.publish(request.clone()).await.unwrap(),
        over_framed(&client, &request).await.unwrap(),
    ] {
        assert_eq!(
            (reply.level, reply.duplicate, reply.error),
            (messages::AckLevel::Accepted.into(), true, None)
        );
    }
}

// M-G4: where it goes is decided by the topic's rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_rule_of_the_topic_decides_where_a_message_goes() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    for request in [
        message("plain", "x"),
        message("everywhere", "x"),
        message("listed", "x"),
        keyed("owned", "uid", "a:1"),
        keyed("owned", "uid", "b:1"),
        message("small.one", "x"),
    ] {
        api.publish(request).await.unwrap();
    }
    let units = relay.queue.look(|seen| seen.units.clone());
    let expected = [
        vec!["a"],
        vec!["a", "b", "c"],
        vec!["b", "c"],
        vec!["a"],
        vec!["b"],
        vec!["a"],
    ];
    assert_eq!(units, expected);
}

/// What a request is refused with, over both protocols, and that nothing of it reached the queue.
async fn check_refused(relay: &Relay, request: PublishRequest, code: Code, word: &str, text: &str) {
    let before = relay.queue.look(|seen| seen.messages.len());
    let status = Api::connect(&relay.grpc)
        .await
        .publish(request.clone())
        .await
        .unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (code, word), "{status:?}");
    assert!(status.message().contains(text), "{}", status.message());
    let client = Client::connect(&relay.framed).await.unwrap();
    let error = over_framed(&client, &request).await.unwrap_err();
    let CallError::Relay(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!((error.reason.as_str(), error.retry), (word, Retry::Never));
    assert_eq!(error.place.as_ref().unwrap().relay.as_str(), "a-1");
    assert!(error.detail.contains(text), "{error}");
    assert_eq!(relay.queue.look(|seen| seen.messages.len()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_mistake_is_refused_with_what_to_do_about_it() {
    let relay = Relay::start();
    let with = |name: &str, value: &str| PublishRequest {
        attributes: vec![attribute(name, value)],
        ..message("plain", "x")
    };
    let wrong_wait = PublishRequest {
        wait: 9,
        ..message("plain", "x")
    };
    let many = PublishRequest {
        attributes: (0..65).map(|number| attribute(&format!("a{number}"), "x")).collect(),
        ..message("plain", "x")
    };
    let cases = [
        (
            message("", "x"),
            Code::InvalidArgument,
            "bad_input",
            "topic is not a name",
        ),
        (
            message("a b", "x"),
            Code::InvalidArgument,
            "bad_input",
            "topic is not a name",
        ),
        (
            message("nobody", "x"),
            Code::NotFound,
            "unknown_topic",
            "[topics.\"nobody\"]",
        ),
        (message("owned", "x"), Code::NotFound, "no_route", "rule = \"owner\""),
        (
            keyed("owned", "uid", "z:1"),
            Code::NotFound,
            "no_route",
            "strait explain",
        ),
        (keyed("owned", "city", "b:1"), Code::NotFound, "no_route", "city"),
        (
            keyed("plain", "u id", "x"),
            Code::InvalidArgument,
            "bad_input",
            "dimension",
        ),
        (
            keyed("plain", "uid", ""),
            Code::InvalidArgument,
            "bad_input",
            "1 to 1024",
        ),
        (
            keyed("plain", "uid", &"k".repeat(1025)),
            Code::InvalidArgument,
            "bad_input",
            "1 to 1024",
        ),
        (
            message("small.one", vec![0; 1025]),
            Code::ResourceExhausted,
            "too_large",
            "takes 1024",
        ),
        (
            message("plain", vec![0; 1_048_577]),
            Code::ResourceExhausted,
            "too_large",
            "message_bytes_max",
        ),
        (with("Subject", "x"), Code::InvalidArgument, "bad_input", "a-z and 0-9"),
        (with("", "x"), Code::InvalidArgument, "bad_input", "a-z and 0-9"),
        (
            with("subject", "a\nb"),
            Code::InvalidArgument,
            "bad_input",
            "attribute subject",
        ),
        (
            with("subject", &"x".repeat(8192)),
            Code::ResourceExhausted,
            "too_large",
            "8192 bytes",
        ),
        (many, Code::ResourceExhausted, "too_large", "65 attributes"),
        (
            with("expirytime", "tomorrow"),
            Code::InvalidArgument,
            "bad_input",
            "RFC 3339",
        ),
        (wrong_wait, Code::InvalidArgument, "bad_input", "wait is 9"),
    ];
    for (request, code, word, text) in cases {
        check_refused(&relay, request, code, word, text).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_no_message_is_refused() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let status = api
        .unary("Publish", Bytes::from_static(&[0xff; 9]), None)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "bad_input")
    );
    let status = api.unary("Remove", Bytes::new(), None).await.unwrap_err();
    assert!(status.message().contains("Publish, PublishBatch"), "{status:?}");
    let huge = Bytes::from(vec![0; 6 << 20]);
    let status = api.unary("Publish", huge, None).await.unwrap_err();
    assert_eq!(reason(&status), "too_large", "{status:?}");
    let client = Client::connect(&relay.framed).await.unwrap();
    for method in ["Subscribe", "PublishStream"] {
        let error = client
            .call(Call::new(&format!("strait.v1.Messages/{method}")))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("use gRPC"), "{error}");
    }
}

// M-E2: the earlier of both ends; offsets count.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_earlier_end_of_a_message_counts() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let until = |text: &str, at| PublishRequest {
        attributes: vec![attribute("expirytime", text)],
        expires_at_ms: at,
        ..message("plain", "x")
    };
    for (text, at) in [
        ("2030-01-01T02:00:00+02:00", 0),
        ("2030-01-01T00:00:00Z", 1_893_456_000_001),
        ("2030-01-01T00:00:00.5Z", 1_893_456_000_000),
    ] {
        api.publish(until(text, at)).await.unwrap();
    }
    let ends = relay.queue.look(|seen| {
        seen.messages
            .iter()
            .map(|message| message.deadline.unwrap().0)
            .collect::<Vec<_>>()
    });
    assert_eq!(ends, [1_893_456_000_000; 3]);
}

// M-A2
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_comes_when_the_level_is_reached_that_was_waited_for() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    for level in [
        messages::AckLevel::Accepted,
        messages::AckLevel::Relayed,
        messages::AckLevel::Delivered,
    ] {
        let request = PublishRequest {
            wait: level.into(),
            ..message("plain", "x")
        };
        assert_eq!(api.publish(request).await.unwrap().level, i32::from(level));
    }
}

// M-A2: the deadline ends the wait, not the message; the answer says how far it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn at_the_deadline_the_answer_says_how_far_the_message_came() {
    let relay = Relay::start();
    relay.queue.set(|seen| seen.is_stuck = true);
    let request = PublishRequest {
        wait: messages::AckLevel::Delivered.into(),
        ..message("plain", "x")
    };
    let api = Api::connect(&relay.grpc).await;
    let within = Some(Duration::from_millis(400));
    let status = api.publish_within(request.clone(), within).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(
        status.message().contains("accepted with id a/a-1/0000000000000001/1"),
        "{status:?}"
    );
    assert!(
        status.message().contains("as far as ACCEPTED, not DELIVERED"),
        "{status:?}"
    );
    // By a limit of its own, over framed.
    let client = Client::connect(&relay.framed).await.unwrap();
    let limited = PublishRequest { wait_ms: 50, ..request };
    let error = over_framed(&client, &limited).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never, "{error}");
    relay.queue.set(|seen| seen.is_silent = true);
    let silent = PublishRequest {
        wait_ms: 50,
        ..message("plain", "x")
    };
    let error = over_framed(&client, &silent).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Ambiguous, "{error}");
    relay.queue.wait("all waits are given up", |seen| seen.forgotten == 3);
    assert_eq!(relay.queue.look(|seen| seen.messages.len()), 3, "the messages stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_publisher_that_leaves_is_forgotten_and_its_message_stays() {
    let relay = Relay::start();
    relay.queue.set(|seen| seen.is_silent = true);
    let client = Client::connect(&relay.framed).await.unwrap();
    let request = message("plain", "x");
    let left = tokio::time::timeout(Duration::from_millis(100), over_framed(&client, &request)).await;
    assert!(left.is_err());
    relay.queue.wait("it is forgotten", |seen| seen.forgotten == 1);
    assert_eq!(relay.queue.look(|seen| seen.messages.len()), 1);
}

// M-G6: an error of the queue reaches the publisher as it is, with its pushback.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_queue_says_no_to_is_told_with_its_pushback() {
    let relay = Relay::start();
    let full = RelayError::new(Reason::Limited, Retry::Safe, "the disk is full").pushed_back(Duration::from_secs(2));
    relay.queue.set(|seen| seen.refuse = Some(full));
    let api = Api::connect(&relay.grpc).await;
    let status = api
        .publish_within(message("plain", "x"), Some(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "limited")
    );
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "2000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_batch_is_answered_message_by_message() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let batch = vec![
        message("plain", "1"),
        message("nobody", "2"),
        message("plain", vec![3; 100_000]),
    ];
    let replies = api.publish_batch(batch).await.unwrap();
    let ids: Vec<_> = replies.iter().map(|reply| !reply.id.is_empty()).collect();
    assert_eq!(ids, [true, false, true]);
    let error = replies[1].error.as_ref().unwrap();
    assert_eq!(
        (error.reason.as_str(), error.retry.as_str()),
        ("unknown_topic", "never")
    );
    let status = api.publish_batch(Vec::new()).await.unwrap_err();
    assert!(status.message().contains("1 to 1024"), "{status:?}");
    let status = api.publish_batch(vec![message("plain", ""); 1025]).await.unwrap_err();
    assert!(status.message().contains("1 to 1024"), "{status:?}");
    assert_eq!(relay.queue.look(|seen| seen.messages.len()), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_answers_each_message_with_its_number_and_ends_when_all_are_done() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let numbered = |number, topic: &str| PublishRequest {
        number,
        ..message(topic, "x")
    };
    let mut stream = api.stream("PublishStream", &numbered(7, "plain")).await.unwrap();
    assert_eq!(stream.published().await.number, 7);
    for number in 0..300 {
        stream
            .send(&numbered(number, if number == 100 { "nobody" } else { "plain" }))
            .await;
    }
    stream.close();
    let mut numbers = Vec::new();
    for _ in 0..300 {
        let reply = stream.published().await;
        assert_eq!(reply.error.is_some(), reply.number == 100);
        assert_eq!(reply.id.is_empty(), reply.number == 100);
        numbers.push(reply.number);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    assert_eq!(stream.next_bytes().await.unwrap(), None, "the stream ends with OK");
}

// M-G7: what is under way of a stream is bounded; the sender waits, others do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_with_too_much_under_way_is_not_read_on_and_holds_up_nobody_else() {
    let relay = Relay::start();
    relay.queue.set(|seen| seen.is_stuck = true);
    let (address, desk) = (relay.grpc.clone(), relay.queue.clone());
    // A runtime of its own, so that the client vanishes with all it has when that ends.
    let client = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(fill_a_stream(&address));
        let under_way = desk.look(|seen| seen.messages.len());
        let other = runtime.block_on(async { Api::connect(&address).await.publish(message("plain", "other")).await });
        assert!(!other.unwrap().id.is_empty());
        runtime.shutdown_background();
        under_way
    });
    let under_way = client.await.unwrap();
    // 4 MiB of 10 KB each.
    assert!((300..=420).contains(&under_way), "{under_way} messages are under way");
    relay
        .queue
        .wait("all are forgotten", |seen| seen.forgotten >= under_way);
}

/// Sends messages that are never relayed until the connection has taken none for half a second.
async fn fill_a_stream(address: &str) {
    let waiting = PublishRequest {
        wait: messages::AckLevel::Relayed.into(),
        ..message("plain", vec![1; 10_000])
    };
    let stream = Api::connect(address)
        .await
        .stream("PublishStream", &waiting)
        .await
        .unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    let mut blocked = None;
    while blocked.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(500)) {
        assert!(Instant::now() < limit, "the stream is never held up");
        if stream.try_send(&waiting) {
            blocked = None;
        } else {
            blocked.get_or_insert_with(Instant::now);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // It goes with the runtime.
    std::mem::forget(stream);
}

// C-L1
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_relay_that_drains_takes_no_new_messages_and_answers_those_it_has() {
    let relay = Relay::start();
    let api = Api::connect(&relay.grpc).await;
    let first = message("plain", "x");
    let mut stream = api.stream("PublishStream", &first).await.unwrap();
    stream.published().await;
    relay.drain();
    let status = loop {
        match stream.next_bytes().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if all was well"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "draining")
    );
}

// M-G4: another unit's services reach topics over lanes, by the rules of topics, never over a call.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn callers_of_other_units_are_refused() {
    let relay = Relay::with(Setup {
        caller: "b",
        ..Setup::default()
    });
    let status = Api::connect(&relay.grpc)
        .await
        .publish(message("plain", "x"))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::PermissionDenied, "policy")
    );
    let status = Api::connect(&relay.grpc)
        .await
        .subscribe("plain", "g", 0)
        .await
        .err()
        .unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
}

// The client says what the relay says.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn levels_have_one_order() {
    assert!(AckLevel::Accepted < AckLevel::Relayed && AckLevel::Relayed < AckLevel::Delivered);
}
