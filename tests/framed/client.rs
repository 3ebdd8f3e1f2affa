//! The Rust client against a relay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use strait::client::{Call, CallError, Client, ConnectError, Reply, ServeError, Status};
use strait::delivery::framed::Limits;
use strait::model::{Code, Reason, Retry};

use crate::relay::Relay;

fn pattern(len: usize) -> Bytes {
    (0..len)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect::<Vec<u8>>()
        .into()
}

#[tokio::test]
async fn calls_of_all_sizes_come_back_over_both_sockets() {
    let relay = Relay::start();
    for address in [&relay.unix, &relay.tcp] {
        let client = Client::connect(address).await.unwrap();
        for len in [
            0,
            1,
            128,
            16 * 1024,
            16 * 1024 + 1,
            65_536,
            65_537,
            1_000_000,
            5_000_000,
        ] {
            let body = pattern(len);
            let reply = client.call(Call::new("im.Echo/Say").body(body.clone())).await.unwrap();
            assert!(*reply.body() == body, "{len} bytes over {address}");
        }
    }
    assert_eq!(relay.seen.open.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_share_one_connection_and_keep_their_replies_apart() {
    let relay = Relay::start();
    let client = Client::builder(&relay.unix).in_flight_max(64).connect().await.unwrap();
    let tasks: Vec<_> = (0..2000)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let body = format!("{n}:{}", "x".repeat(n % 700 * 50));
                let reply = client.call(Call::new("im.Echo/Say").body(body.clone())).await.unwrap();
                assert_eq!(*reply.body(), body);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

// C-D1
#[tokio::test]
async fn a_deadline_ends_the_call_at_both_sides() {
    let relay = Relay::start();
    let client = Client::connect(&relay.unix).await.unwrap();
    let call = Call::new("x.X/Hold").timeout(Duration::from_millis(50));
    let error = client.call(call).await.unwrap_err();
    assert!(matches!(error, CallError::Deadline { sent: true }), "{error:?}");
    assert_eq!(error.retry(), Retry::Ambiguous);
    relay
        .wait("no call is open", |seen| seen.open.load(Ordering::Relaxed) == 0)
        .await;
}

// C-D2, L3
#[tokio::test]
async fn dropping_calls_cancels_them_and_none_is_left() {
    let relay = Relay::start();
    let client = Client::builder(&relay.unix).in_flight_max(200).connect().await.unwrap();
    for _ in 0..5 {
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call(Call::new("x.X/Hold")).await })
            })
            .collect();
        relay
            .wait("200 open calls", |seen| seen.open.load(Ordering::Relaxed) == 200)
            .await;
        for call in &calls {
            call.abort();
        }
        relay
            .wait("no open call", |seen| seen.open.load(Ordering::Relaxed) == 0)
            .await;
    }
    assert_eq!(relay.seen.cancelled.load(Ordering::Relaxed), 1000);
}

#[tokio::test]
async fn errors_of_services_and_of_relays_are_told_apart() {
    let relay = Relay::start();
    let client = Client::connect(&relay.unix).await.unwrap();
    match client.call(Call::new("x.X/Status")).await.unwrap_err() {
        CallError::Status(status) => {
            assert_eq!((status.code, status.message.as_str()), (Code::NotFound, "no such room"));
        }
        other => panic!("{other:?}"),
    }
    match client.call(Call::new("x.X/Fail")).await.unwrap_err() {
        CallError::Relay(error) => assert_eq!((error.reason, error.retry), (Reason::UnitAway, Retry::Safe)),
        other => panic!("{other:?}"),
    }
    for call in [
        Call::new("nonsense"),
        Call::new("a/b").key("bad dimension", "k"),
        Call::new("a/b").metadata("Upper", ""),
    ] {
        let error = client.call(call).await.unwrap_err();
        assert!(matches!(error, CallError::Invalid(_)), "{error:?}");
    }
}

#[tokio::test]
async fn more_calls_than_the_relay_takes_wait_for_their_turn() {
    let relay = Relay::with(Limits {
        calls_max: 3,
        ..Limits::default()
    });
    let client = Client::connect(&relay.unix).await.unwrap();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(Call::new("im.Echo/Say").body("x")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

// C-E1: registration and a call round trip, small and large, both directions on one connection.
#[tokio::test]
async fn a_registered_service_receives_calls_on_its_own_connection() {
    let relay = Relay::start();
    let service = Client::connect(&relay.tcp).await.unwrap();
    service
        .serve("im.Receiver", async |received| {
            assert_eq!((received.service(), received.method()), ("im.Receiver", "Take"));
            if received.body() == "wait" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            match received.body() {
                body if body == "fail" => Err(Status::new(Code::FailedPrecondition, "not now")),
                body if body == "panic" => panic!("as the test wants"),
                body => Ok(Reply::new(body.clone())),
            }
        })
        .await
        .unwrap();
    let caller = Client::connect(&relay.unix).await.unwrap();
    for body in [
        Bytes::from_static(b"now"),
        Bytes::from_static(b"wait"),
        pattern(3_000_000),
    ] {
        for client in [&caller, &service] {
            let reply = client
                .call(Call::new("im.Receiver/Take").body(body.clone()))
                .await
                .unwrap();
            assert!(*reply.body() == body);
        }
    }
    for (body, code) in [("fail", Code::FailedPrecondition), ("panic", Code::Internal)] {
        match caller.call(Call::new("im.Receiver/Take").body(body)).await.unwrap_err() {
            CallError::Status(status) => assert_eq!(status.code, code),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_service_the_relay_does_not_know_is_refused_with_its_reason() {
    let relay = Relay::start();
    let client = Client::connect(&relay.unix).await.unwrap();
    let error = client
        .serve("forbidden.X", async |_| Ok(Reply::default()))
        .await
        .unwrap_err();
    match error {
        ServeError::Refused { reason, .. } => assert!(reason.contains("not in the settings"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_cancelled_call_stops_the_handler_of_the_service() {
    struct OnDrop(Arc<AtomicUsize>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let relay = Relay::start();
    let stopped = Arc::new(AtomicUsize::new(0));
    let service = Client::connect(&relay.unix).await.unwrap();
    let (counter, started) = (Arc::clone(&stopped), Arc::new(tokio::sync::Notify::new()));
    let signal = Arc::clone(&started);
    service
        .serve("im.Slow", move |_| {
            let (guard, signal) = (OnDrop(Arc::clone(&counter)), Arc::clone(&signal));
            async move {
                let _guard = guard;
                signal.notify_one();
                std::future::pending().await
            }
        })
        .await
        .unwrap();
    let caller = Client::connect(&relay.unix).await.unwrap();
    let call = tokio::spawn(async move { caller.call(Call::new("im.Slow/Do")).await });
    started.notified().await;
    call.abort();
    relay
        .wait("handler dropped", |_| stopped.load(Ordering::Relaxed) == 1)
        .await;
}

// C-E1: a service that goes away in the middle of a call.
#[tokio::test]
async fn a_service_that_breaks_off_fails_its_calls_as_ambiguous() {
    let relay = Relay::start();
    let service = Client::connect(&relay.unix).await.unwrap();
    service
        .serve("im.Slow", async |_| std::future::pending().await)
        .await
        .unwrap();
    let caller = Client::connect(&relay.unix).await.unwrap();
    let call = tokio::spawn(async move { caller.call(Call::new("im.Slow/Do")).await });
    relay
        .wait("call", |seen| seen.opened.load(Ordering::Relaxed) == 1)
        .await;
    drop(service);
    match call.await.unwrap().unwrap_err() {
        // If the connection went before the request was written, it is safe.
        CallError::Relay(error) if error.retry == Retry::Safe => assert_eq!(error.reason, Reason::ServiceUnavailable),
        CallError::Relay(error) => assert_eq!((error.reason, error.retry), (Reason::ServiceLost, Retry::Ambiguous)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_reconnects_registers_again_and_keeps_unsent_calls() {
    let mut relay = Relay::start();
    let path = relay.path();
    let client = Client::builder(&relay.unix)
        .backoff_max(Duration::from_millis(50))
        .connect()
        .await
        .unwrap();
    client
        .serve("im.Receiver", async |_| Ok(Reply::new("served")))
        .await
        .unwrap();
    let sent = {
        let client = client.clone();
        tokio::spawn(async move { client.call(Call::new("x.X/Hold")).await })
    };
    relay.wait("call", |seen| seen.open.load(Ordering::Relaxed) == 1).await;
    relay.stop();
    let error = sent.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error:?}");
    assert_eq!(error.retry(), Retry::Ambiguous);

    let late = client
        .call(Call::new("im.Echo/Say").timeout(Duration::from_millis(30)))
        .await
        .unwrap_err();
    assert!(matches!(late, CallError::Deadline { sent: false }), "{late:?}");
    let unsent = {
        let client = client.clone();
        tokio::spawn(async move { client.call(Call::new("im.Receiver/Take").body("kept")).await })
    };
    let again = Relay::at(path, Limits::default());
    again
        .wait("registered again", |seen| seen.registered.load(Ordering::Relaxed) == 1)
        .await;
    // The call may come before the registration; then the relay echoes.
    let body = unsent.await.unwrap().unwrap().into_body();
    assert!(body == "kept" || body == "served", "{body:?}");
    assert_eq!(
        client.call(Call::new("im.Receiver/Take")).await.unwrap().into_body(),
        "served"
    );
}

// C-L1
#[tokio::test]
async fn calls_a_draining_relay_refuses_are_sent_to_the_next_one() {
    let relay = Relay::start();
    let client = Client::builder(&relay.unix)
        .backoff_max(Duration::from_millis(20))
        .connect()
        .await
        .unwrap();
    client.call(Call::new("im.Echo/Say")).await.unwrap();
    relay.drain();
    let next = Relay::at(relay.path(), Limits::default());
    for _ in 0..20 {
        client.call(Call::new("im.Echo/Say").body("x")).await.unwrap();
    }
    assert_eq!(next.seen.opened.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn a_reply_beyond_the_limit_is_refused_not_collected() {
    let relay = Relay::start();
    let client = Client::builder(&relay.unix)
        .message_bytes_max(100_000)
        .connect()
        .await
        .unwrap();
    let error = client
        .call(Call::new("im.Echo/Say").body(pattern(400_000)))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::TooLarge { limit: 100_000 }), "{error:?}");
    client
        .call(Call::new("im.Echo/Say").body(pattern(99_000)))
        .await
        .unwrap();
}

#[tokio::test]
async fn connecting_to_nothing_says_what_to_look_at() {
    let error = Client::connect("unix:/nonexistent/strait.sock").await.err().unwrap();
    assert!(matches!(error, ConnectError::Socket { .. }));
    assert!(error.to_string().contains("is it running?"), "{error}");
    assert!(matches!(
        Client::connect("localhost").await,
        Err(ConnectError::Address(_))
    ));
}

// The client of the specification, with the Python that is there.
#[tokio::test]
async fn the_python_client_of_the_specification_works() {
    let relay = Relay::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/framed_call.py");
    for (address, method, body, expected) in [
        (&relay.unix, "im.Echo/Say", "over unix", "over unix\n"),
        (&relay.tcp, "im.Echo/Say", "over tcp", "over tcp\n"),
        (&relay.tcp, "x.X/Status", "", "status 5: no such room\n"),
        (&relay.tcp, "x.X/Refuse", "", "no_route: no rule owns this key\n"),
    ] {
        let mut python = tokio::process::Command::new("python3");
        let output = python
            .args([script, address, method, body, "im.conversation=cid:1"])
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}
