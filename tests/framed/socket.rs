//! What a relay does with connections that break the rules, and with those that keep them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use strait::delivery::framed::Limits;
use strait::model::{CancelReason, Facts, MetadataBuilder, Mode, Name, Reason, Retry, RoutedBy, Source};
use strait::wire::frame::{self, Frame};
use strait::wire::hello::{self, Hello, Purpose, Register, Registered};
use strait::wire::pace::LeastPace;

use crate::raw::{Raw, request};
use crate::relay::Relay;

fn quick() -> Limits {
    Limits {
        hello_timeout: Duration::from_millis(100),
        frame_timeout: Duration::from_millis(100),
        write_timeout: Duration::from_millis(200),
        ..Limits::default()
    }
}

async fn check_goodbye(relay: &Relay, mut raw: Raw, text: &str, reason: &str) {
    let goodbye = raw.goodbye().await;
    assert!(goodbye.contains(text), "{goodbye:?} should contain {text:?}");
    relay.wait_ended(reason).await;
}

// O-S4
#[tokio::test]
async fn malformed_bytes_are_answered_with_a_text_and_closed() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    check_goodbye(&relay, raw, "exceeds the limit", "oversize").await;

    let mut raw = Raw::connect(&relay).await;
    // A request whose path is a name that was never defined.
    raw.send(&[3, 1, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 9])
        .await;
    check_goodbye(&relay, raw, "name 9 is not defined", "bad_frame").await;
}

// O-S4, W1
#[tokio::test]
async fn an_oversized_frame_is_refused_from_its_header() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    raw.send(&[4, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0])
        .await;
    check_goodbye(
        &relay,
        raw,
        "frame of 16777231 bytes exceeds the limit of 1048576",
        "oversize",
    )
    .await;
}

// O-S4
#[tokio::test]
async fn a_sender_that_stops_in_the_middle_of_a_frame_is_closed() {
    let relay = Relay::with(quick());
    let mut raw = Raw::connect(&relay).await;
    raw.send(&[9, 0, 0, 0]).await;
    check_goodbye(&relay, raw, "not ended within", "slow_frame").await;
}

// O-S4: one byte at a time keeps the connection busy, not alive.
#[tokio::test]
async fn a_sender_that_drips_bytes_is_closed() {
    let relay = Relay::with(quick());
    let mut raw = Raw::connect(&relay).await;
    let header = [4, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    raw.send(&header).await;
    // A write may find the socket closed before the relay has counted why.
    tokio::select! {
        () = raw.drip() => {}
        () = relay.wait_ended("slow_frame") => {}
    }
}

#[tokio::test]
async fn a_client_without_hello_is_closed_in_time() {
    let relay = Relay::with(quick());
    let raw = Raw::silent(&relay).await;
    check_goodbye(&relay, raw, "no HELLO within", "hello_timeout").await;
    let mut raw = Raw::silent(&relay).await;
    raw.request(0, "/im.Echo/Say", b"", true).await;
    check_goodbye(&relay, raw, "the first frame must be HELLO", "violation").await;
}

#[tokio::test]
async fn a_wrong_version_or_an_unknown_required_feature_is_refused_with_a_text() {
    let relay = Relay::start();
    let mut raw = Raw::silent(&relay).await;
    let mut theirs = Hello::new(Purpose::Service, 1);
    (theirs.version_min, theirs.version_max) = (7, 9);
    raw.hello(&theirs).await;
    check_goodbye(&relay, raw, "speaks versions 1-1, the other 7-9", "hello_refused").await;

    let mut raw = Raw::silent(&relay).await;
    let mut theirs = Hello::new(Purpose::Service, 1);
    theirs.features_required = vec!["time-travel".to_owned()];
    raw.hello(&theirs).await;
    check_goodbye(&relay, raw, "\"time-travel\"", "hello_refused").await;
}

#[tokio::test]
async fn unknown_kinds_are_skipped_and_mandatory_ones_refused() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    let mut unknown = vec![99, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    unknown.extend_from_slice(b"new");
    raw.send(&unknown).await;
    raw.request(0, "/im.Echo/Say", b"still here", true).await;
    match raw.next().await {
        Some(Frame::Reply { part, .. }) => assert_eq!(part.body.0, "still here"),
        other => panic!("{other:?}"),
    }
    unknown[0] = 200;
    raw.send(&unknown).await;
    check_goodbye(&relay, raw, "kind 200 is mandatory and unknown", "bad_frame").await;
}

#[tokio::test]
async fn one_call_too_many_is_refused_and_the_connection_goes_on() {
    let relay = Relay::with(Limits {
        calls_max: 2,
        ..Limits::default()
    });
    let mut raw = Raw::connect(&relay).await;
    raw.request(0, "/x.X/Hold", b"", true).await;
    raw.request(1, "/x.X/Hold", b"", true).await;
    raw.request(2, "/x.X/Hold", b"", true).await;
    match raw.next().await {
        Some(Frame::Failed { id: 2, error }) => {
            assert_eq!((error.reason, error.retry), (Reason::Limited, Retry::Safe));
        }
        other => panic!("{other:?}"),
    }
    let mut out = BytesMut::new();
    frame::put_cancel(&mut out, 0, CancelReason::Caller);
    raw.send(&out).await;
    raw.request(1 << 32, "/im.Echo/Say", b"again", true).await;
    assert!(matches!(raw.next().await, Some(Frame::Reply { id: 0x1_0000_0000, .. })));
    assert_eq!(relay.seen.opened.load(Ordering::Relaxed), 3);
}

// The reply of a cancelled call must not be taken for that of the next one, even if a client uses the
// same number again.
#[tokio::test]
async fn a_late_reply_is_not_given_to_the_next_call_of_the_same_number() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    raw.request(0, "/x.X/Late", b"secret", true).await;
    let mut out = BytesMut::new();
    frame::put_cancel(&mut out, 0, CancelReason::Caller);
    raw.encoder.request(
        &mut out,
        0,
        &request("/x.X/Hold", b""),
        false,
        std::time::Instant::now(),
    );
    raw.send(&out).await;
    relay
        .wait("both calls", |seen| seen.opened.load(Ordering::Relaxed) == 2)
        .await;
    relay
        .wait("one is left", |seen| seen.open.load(Ordering::Relaxed) == 1)
        .await;
    raw.request(1, "/im.Echo/Say", b"mine", true).await;
    match raw.next().await {
        Some(Frame::Reply { id: 1, part, .. }) => assert_eq!(part.body.0, "mine"),
        other => panic!("{other:?}"),
    }
}

// Two calls under one number: whose reply would it be?
#[tokio::test]
async fn the_index_of_an_open_call_cannot_be_used_again() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    raw.request(5, "/x.X/Hold", b"", true).await;
    raw.request(1 << 32 | 5, "/x.X/Hold", b"", true).await;
    check_goodbye(&relay, raw, "index of an open call", "violation").await;
    relay
        .wait("its call is cancelled", |seen| seen.open.load(Ordering::Relaxed) == 0)
        .await;
}

#[tokio::test]
async fn refusals_and_statuses_come_back_with_reason_and_text() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    raw.request(0, "/x.X/Refuse", b"", true).await;
    match raw.next().await {
        Some(Frame::Failed { id: 0, error }) => {
            assert_eq!((error.reason, error.retry), (Reason::NoRoute, Retry::Never));
        }
        other => panic!("{other:?}"),
    }
    raw.request(0, "no-path", b"", true).await;
    match raw.next().await {
        Some(Frame::Failed { id: 0, error }) => assert_eq!(error.reason, Reason::BadInput),
        other => panic!("{other:?}"),
    }
}

// C-E2, C-T2, S3
#[tokio::test]
async fn what_a_client_says_about_its_source_and_path_is_ignored() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    let name = |text| Name::new(text).unwrap();
    let mut forged = request("/im.Echo/Say", b"");
    forged.facts = Facts {
        source: Some(Source {
            geo: name("evil"),
            unit: name("evil"),
            service: Some(name("evil")),
        }),
        visited: vec![name("evil")],
        routed_by: RoutedBy::NoKey,
        epoch: 666,
        attempt: 6,
        owner_epoch: None,
        mode: Mode::Usual,
        destination: None,
        request_id: 666,
    };
    let mut fields = MetadataBuilder::new();
    fields.push(b"strait-source-unit", b"evil").unwrap();
    fields.push(b"grpc-previous-rpc-attempts", b"666").unwrap();
    fields.push(b"x-own", b"kept").unwrap();
    forged.metadata = fields.build();
    let mut out = BytesMut::new();
    raw.encoder
        .request(&mut out, 0, &forged, false, std::time::Instant::now());
    raw.send(&out).await;
    assert!(matches!(raw.next().await, Some(Frame::Reply { .. })));
    let seen = relay.seen.requests.lock().unwrap().join("\n");
    assert!(
        !seen.contains("evil") && !seen.contains("666") && !seen.contains("strait-source"),
        "{seen}"
    );
    assert!(!seen.contains("grpc-previous"), "{seen}");
    assert!(seen.contains("x-own"), "{seen}");
}

// C-F4
#[tokio::test]
async fn a_body_beyond_its_window_ends_the_call_only() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    let chunk = vec![1; 60_000];
    raw.request(0, "/x.X/Hold", &chunk, false).await;
    let mut out = BytesMut::new();
    for _ in 0..4 {
        frame::put_request_body(&mut out, 0, &chunk, false, false);
    }
    raw.send(&out).await;
    match raw.next().await {
        Some(Frame::Failed { id: 0, error }) => assert!(error.detail.contains("without waiting for credit")),
        other => panic!("{other:?}"),
    }
    relay
        .wait("the callee is told", |seen| seen.cancelled.load(Ordering::Relaxed) == 1)
        .await;
    raw.request(0, "/im.Echo/Say", b"next", true).await;
    assert!(matches!(raw.next().await, Some(Frame::Reply { .. })));
}

#[tokio::test]
async fn a_large_body_gets_credit_as_it_is_taken() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    raw.request(0, "/im.Echo/Say", &vec![1; 60_000], false).await;
    match raw.next().await {
        Some(Frame::Credit {
            id: 0,
            bytes,
            reply: false,
        }) => assert_eq!(bytes, 60_000),
        other => panic!("{other:?}"),
    }
}

// C-D2
#[tokio::test]
async fn a_client_that_disappears_cancels_its_calls() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    for id in 0..50 {
        raw.request(id, "/x.X/Hold", b"", true).await;
    }
    relay
        .wait("calls", |seen| seen.open.load(Ordering::Relaxed) == 50)
        .await;
    drop(raw);
    relay
        .wait("no call", |seen| seen.open.load(Ordering::Relaxed) == 0)
        .await;
    assert_eq!(relay.seen.cancelled.load(Ordering::Relaxed), 50);
    relay.wait("end", |seen| !seen.ended.lock().unwrap().is_empty()).await;
}

// C-F4: replies for a client that reads nothing do not pile up for ever.
#[tokio::test]
async fn a_client_that_reads_nothing_is_closed() {
    let relay = Relay::with(quick());
    let mut raw = Raw::connect(&relay).await;
    let mut out = BytesMut::new();
    for round in 0..2000_u64 {
        let id = (round << 32) | (round % 4096);
        raw.encoder.request(
            &mut out,
            id,
            &request("/im.Echo/Say", &[7; 16_000]),
            false,
            std::time::Instant::now(),
        );
    }
    tokio::select! {
        () = raw.send(&out) => relay.wait_ended("slow_reader").await,
        () = relay.wait_ended("slow_reader") => {}
    }
}

// T13
#[tokio::test]
async fn a_request_that_drips_and_a_reply_without_credit_end_their_calls_only() {
    let relay = Relay::with(Limits {
        body_pace: LeastPace {
            bytes_per_second: 1 << 20,
            time: Duration::from_millis(200),
        },
        ..Limits::default()
    });
    let mut raw = Raw::connect(&relay).await;
    raw.request(1 << 32, "/im.Echo/Say", b"the beginning of", false).await;
    check_slow(&mut raw, 1 << 32, "the request body").await;
    // A reply beyond the window of 100 KiB, of which the client credits nothing.
    let chunk = vec![7; 60_000];
    raw.request((1 << 32) | 1, "/im.Echo/Say", &chunk, false).await;
    for _ in 0..5 {
        let mut out = BytesMut::new();
        frame::put_request_body(&mut out, (1 << 32) | 1, &chunk, false, false);
        raw.send(&out).await;
    }
    let mut out = BytesMut::new();
    frame::put_request_body(&mut out, (1 << 32) | 1, b"", true, false);
    raw.send(&out).await;
    check_slow(&mut raw, (1 << 32) | 1, "the reply waited").await;
    raw.request((2 << 32) | 1, "/im.Echo/Say", b"whole", true).await;
    loop {
        match raw.next().await.unwrap() {
            Frame::Reply { id, part, .. } if id == (2 << 32) | 1 => {
                assert_eq!(part.body.0, "whole");
                break;
            }
            Frame::Failed { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
}

async fn check_slow(raw: &mut Raw, call: u64, text: &str) {
    loop {
        if let Frame::Failed { id, error } = raw.next().await.unwrap() {
            assert_eq!(id, call);
            assert_eq!(
                (error.reason, error.retry),
                (Reason::DeadlineExceeded, Retry::Ambiguous)
            );
            assert!(error.detail.contains(text), "{}", error.detail);
            return;
        }
    }
}

// C-L1
#[tokio::test]
async fn draining_refuses_new_calls_as_never_delivered_and_finishes_open_ones() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    raw.request(0, "/im.Echo/Say", b"half", false).await;
    relay.wait("call", |seen| seen.open.load(Ordering::Relaxed) == 1).await;
    relay.drain();
    loop {
        match raw.next().await {
            Some(Frame::Drain) => break,
            Some(Frame::Credit { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(raw.next().await, Some(Frame::Ping(_))));
    raw.request(1, "/im.Echo/Say", b"late", true).await;
    match raw.next().await {
        Some(Frame::Failed { id: 1, error }) => {
            assert_eq!((error.reason, error.retry), (Reason::Draining, Retry::Safe));
        }
        other => panic!("{other:?}"),
    }
    let mut out = BytesMut::new();
    frame::put_request_body(&mut out, 0, b"done", true, false);
    raw.send(&out).await;
    match raw.next().await {
        Some(Frame::Reply { id: 0, part, .. }) => assert_eq!(part.body.0, "halfdone"),
        other => panic!("{other:?}"),
    }
    assert!(raw.next().await.is_none(), "closed once no call is open");
    relay.wait_ended("drained").await;
}

// C-E1
#[tokio::test]
async fn registration_is_answered_service_by_service_and_ends_with_the_connection() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    let services = ["im.Receiver", "forbidden.Service", "../etc"].map(str::to_owned).into();
    let register = Register {
        services,
        ..Register::default()
    };
    let mut out = BytesMut::new();
    frame::put_register(&mut out, 77, &hello::encode(&register));
    raw.send(&out).await;
    let Some(Frame::Registered { id: 77, body }) = raw.next().await else {
        panic!("no answer")
    };
    let answer: Registered = hello::decode(&body).unwrap();
    assert_eq!(answer.accepted, ["im.Receiver"]);
    let refused: Vec<_> = answer.refused.iter().map(|refused| refused.service.as_str()).collect();
    assert_eq!(refused, ["forbidden.Service", "../etc"]);
    assert_eq!(relay.seen.registered.load(Ordering::Relaxed), 1);
    drop(raw);
    relay
        .wait("unregistered", |seen| seen.registered.load(Ordering::Relaxed) == 0)
        .await;
}

#[tokio::test]
async fn pings_are_answered_with_their_number() {
    let relay = Relay::start();
    let mut raw = Raw::connect(&relay).await;
    let mut out = BytesMut::new();
    frame::put_ping(&mut out, 4711);
    raw.send(&out).await;
    assert!(matches!(raw.next().await, Some(Frame::Pong(4711))));
}
