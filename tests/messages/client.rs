//! The Rust client (M-B1, M-B4).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait::client::{AckLevel, Attempt, CallError, Client, Nack, Publish, ServeError, Subscribe};
use strait::model::Retry;

use crate::relay::Relay;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_client_publishes_another_receives_and_its_handler_settles() {
    let relay = Relay::start();
    let publisher = Client::connect(&relay.framed).await.unwrap();
    let consumer = Client::connect(&relay.framed).await.unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let write = Arc::clone(&seen);
    let subscribe = consumer.subscribe(
        Subscribe::new("plain", "g").in_flight_max(4),
        move |attempt: Attempt| {
            let write = Arc::clone(&write);
            async move {
                let body = String::from_utf8_lossy(attempt.body()).into_owned();
                let key = attempt.key().map(|key| String::from_utf8_lossy(&key.key).into_owned());
                let line = format!(
                    "{} {body} {} {key:?} {:?}",
                    attempt.topic(),
                    attempt.number(),
                    attempt.attribute("type")
                );
                write.lock().unwrap().push(line);
                match (body.as_str(), attempt.number()) {
                    ("later", 1) => Err(Nack::later("not yet")),
                    ("after", 1) => Err(Nack::after(Duration::from_millis(30), "not yet")),
                    ("never", _) => Err(Nack::terminate("poison")),
                    ("panics", 1) => panic!("a handler that panics has failed the message"),
                    _ => Ok(()),
                }
            }
        },
    );
    subscribe.await.unwrap();
    for body in ["fine", "later", "after", "never", "panics"] {
        let message = Publish::new("plain")
            .key("uid", "a:1")
            .attribute("type", "t1")
            .body(body);
        let told = publisher.publish(message).await.unwrap();
        assert_eq!((told.level(), told.is_duplicate()), (AckLevel::Accepted, false));
        assert!(told.id().starts_with("a/a-1/"), "{}", told.id());
    }
    relay.queue.wait("all settlements", |seen| {
        let has = |text: &str| seen.said.iter().any(|said| said.starts_with(text));
        has("ack 1")
            && has("nack 2 None: Aborted: not yet")
            && has("ack 2")
            && has("nack 3 Some(30ms)")
            && has("ack 3")
            && has("terminate 4: FailedPrecondition: poison")
            && has("nack 5 None: Internal")
            && has("ack 5")
    });
    let seen = seen.lock().unwrap();
    assert!(
        seen.contains(&r#"plain fine 1 Some("a:1") Some("t1")"#.to_owned()),
        "{seen:?}"
    );
    assert!(
        seen.contains(&r#"plain later 2 Some("a:1") Some("t1")"#.to_owned()),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_messages_are_published_in_order_and_each_has_its_result() {
    let relay = Relay::start();
    let client = Client::connect(&relay.framed).await.unwrap();
    let messages = (0..1000).map(|number| {
        let topic = if number == 500 { "nobody" } else { "plain" };
        Publish::new(topic).body(format!("{number}"))
    });
    let results = client.publish_all(messages).await;
    assert_eq!(results.len(), 1000);
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), number == 500, "{number}: {result:?}");
    }
    let error = results[500].as_ref().unwrap_err();
    assert_eq!(error.retry(), Retry::Never);
    assert!(matches!(error, CallError::Relay(error) if error.reason.as_str() == "unknown_topic"));
    let bodies = relay.queue.look(|seen| {
        seen.messages
            .iter()
            .map(|message| message.body.clone())
            .collect::<Vec<_>>()
    });
    let expected: Vec<_> = (0..1000)
        .filter(|number| *number != 500)
        .map(|number| number.to_string())
        .collect();
    assert_eq!(bodies, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_waits_for_the_level_it_names_and_no_longer_than_it_says() {
    let relay = Relay::start();
    let client = Client::connect(&relay.framed).await.unwrap();
    let message = Publish::new("plain").identity("/im", "again").wait(AckLevel::Delivered);
    let published = client.publish(message.clone()).await.unwrap();
    assert_eq!(
        (published.level(), published.is_duplicate()),
        (AckLevel::Delivered, true)
    );
    relay.queue.set(|seen| seen.is_stuck = true);
    let error = client
        .publish(message.timeout(Duration::from_millis(300)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("as far as ACCEPTED"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_subscription_that_is_refused_says_why() {
    let relay = Relay::start();
    let client = Client::connect(&relay.framed).await.unwrap();
    let error = client
        .subscribe(Subscribe::new("nobody", "g"), async |_| Ok(()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("[topics.\"nobody\"]"), "{error}");
    let error = client
        .subscribe(Subscribe::new("no name", "g"), async |_| Ok(()))
        .await
        .unwrap_err();
    assert!(matches!(error, ServeError::Name(_)));
    // What only the queue knows is told as well, and leaves nothing behind.
    relay.queue.set(|seen| seen.refuse_subscriptions = true);
    let subscribe = client.subscribe(Subscribe::new("plain", "g"), async |_| Ok(()));
    let error = subscribe.await.unwrap_err();
    assert!(error.to_string().contains("too many groups"), "{error}");
    relay.queue.set(|seen| seen.refuse_subscriptions = false);
    let subscribe = client.subscribe(Subscribe::new("plain", "g"), async |_| Ok(()));
    subscribe.await.unwrap();
}

// M-B4: a registration ends with its connection, and what the consumer had goes to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_consumer_that_vanishes_leaves_its_messages_to_others() {
    let relay = Relay::start();
    let (first, second) = (
        Client::connect(&relay.framed).await.unwrap(),
        Client::connect(&relay.framed).await.unwrap(),
    );
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let hang = first.subscribe(Subscribe::new("plain", "g"), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Result<(), Nack>>()
    });
    hang.await.unwrap();
    let publisher = Client::connect(&relay.framed).await.unwrap();
    publisher.publish(Publish::new("plain").body("x")).await.unwrap();
    while taken.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    second
        .subscribe(Subscribe::new("plain", "g"), async |_| Ok(()))
        .await
        .unwrap();
    drop(first);
    relay
        .queue
        .wait("the other has it", |seen| seen.said.iter().any(|said| said == "ack 1"));
    relay.queue.wait("the first is gone", |seen| seen.consumers == 1);
}

// O-C1: whoever takes one socket of the relay for the other is told which one is meant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_socket_is_named_with_the_right_one() {
    let relay = Relay::start();
    let error = Client::connect(&format!("tcp://{}", relay.grpc)).await.err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("does not speak the framed protocol") && text.contains("strait.sock"),
        "{text}"
    );
    let framed = relay.framed.replace("tcp://", "http://");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args(["subscribe", "everywhere", "--group", "g", "--relay", &framed]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stderr);
    assert!(text.contains("does not speak gRPC as expected"), "{text}");
    assert!(text.contains("grpc.sock") && text.contains("strait.sock"), "{text}");
}
