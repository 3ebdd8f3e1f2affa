use std::time::Instant;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::model::{
    Code, Ending, Envelope, Facts, Key, MessageId, Metadata, MetadataBuilder, Mode, Name, OnFailure, Place, Reason,
    ReplyBody, Retry, RouteHints, RoutedBy, Source, Timing,
};

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn name() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9._-]{1,40}".prop_map(|text| Name::new(&text).unwrap())
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn metadata() -> impl Strategy<Value = Metadata> {
    prop::collection::vec(("[a-z0-9-]{1,30}", "[ -~]{0,60}"), 0..6).prop_map(|fields| {
        let mut block = MetadataBuilder::new();
        for (name, value) in fields {
            block.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        block.build()
    })
}

fn hints() -> impl Strategy<Value = RouteHints> {
    let key = (name(), bytes(40)).prop_map(|(dimension, key)| Key {
        dimension: Bytes::copy_from_slice(dimension.as_str().as_bytes()),
        key,
    });
    let keys = prop::collection::vec(key, 0..5);
    let failure = prop::sample::select(vec![OnFailure::Fail, OnFailure::Park, OnFailure::Local]);
    let rest = (
        prop::option::of(name()),
        prop::option::of(bytes(60)),
        prop::option::of(name()),
        any::<bool>(),
        failure,
    );
    (keys, rest).prop_map(|(keys, (unit, token, class, idempotent, on_failure))| RouteHints {
        keys,
        unit,
        token,
        class,
        idempotent,
        on_failure,
    })
}

fn sighting() -> impl Strategy<Value = Sighting> {
    prop::sample::select(vec![Sighting::Away, Sighting::Reached, Sighting::Unknown])
}

fn routed_by() -> impl Strategy<Value = RoutedBy> {
    prop_oneof![
        Just(RoutedBy::Order),
        Just(RoutedBy::NoKey),
        name().prop_map(RoutedBy::Dimension)
    ]
}

fn facts() -> impl Strategy<Value = Facts> {
    let source = (name(), name(), prop::option::of(name()));
    let source = source.prop_map(|(geo, unit, service)| Source { geo, unit, service });
    let visited = prop::collection::vec(name(), 0..4);
    (
        prop::option::of(source),
        visited,
        any::<u64>(),
        any::<u8>(),
        any::<u64>(),
        routed_by(),
    )
        .prop_map(|(source, visited, epoch, attempt, request_id, routed_by)| Facts {
            routed_by,
            source,
            visited,
            epoch,
            attempt,
            request_id,
            destination: None,
            owner_epoch: None,
            mode: Mode::Usual,
        })
}

fn request(now: Instant) -> impl Strategy<Value = Request> {
    let path = "/[A-Za-z.]{1,300}/[A-Za-z]{1,9}";
    let rest = (
        any::<bool>(),
        any::<bool>(),
        prop::option::of(0..u64::from(u32::MAX)),
        bytes(300),
        bytes(20),
    );
    (path, metadata(), hints(), facts(), rest).prop_map(move |(path, metadata, hints, facts, rest)| {
        let (grpc, end, micros, chunk, authority) = rest;
        Request {
            path: Bytes::from(path),
            authority,
            envelope: if grpc { Envelope::Grpc } else { Envelope::Framed },
            metadata,
            hints,
            facts,
            received: now,
            deadline: micros.map(|micros| now + Duration::from_micros(micros)),
            body: RequestBody { chunk, end },
        }
    })
}

fn part() -> impl Strategy<Value = Part> {
    let code = (0..17_u64).prop_map(Code::from_number);
    let ending = (code, bytes(50), metadata(), any::<u32>(), any::<u32>());
    let ending = ending.prop_map(|(status, message, trailers, service, relay)| Ending {
        status,
        message,
        trailers,
        timing: Timing {
            service: Duration::from_micros(service.into()),
            relay: Duration::from_micros(relay.into()),
        },
    });
    let head = (100..600_u16, metadata());
    (prop::option::of(head), bytes(300), prop::option::of(ending)).prop_map(|(head, body, end)| Part {
        head,
        body: ReplyBody(body),
        end,
    })
}

fn error() -> impl Strategy<Value = RelayError> {
    let reason = prop::sample::select(Reason::ALL.to_vec());
    let retry = prop::sample::select(vec![Retry::Ambiguous, Retry::Never, Retry::Safe]);
    let place = (name(), name()).prop_map(|(unit, relay)| Place { unit, relay });
    let pushback = prop::option::of(any::<u32>().prop_map(|ms| Duration::from_millis(ms.into())));
    let owner = prop::option::of((name(), any::<u64>()));
    let token = prop::option::of(bytes(60));
    let ticket = (name(), name(), any::<u64>(), any::<u64>()).prop_map(|(unit, relay, epoch, number)| MessageId {
        unit,
        relay,
        epoch,
        number,
    });
    (
        reason,
        retry,
        prop::option::of(place),
        "\\PC{0,80}",
        pushback,
        owner,
        token,
        prop::option::of(ticket),
    )
        .prop_map(
            |(reason, retry, place, detail, pushback, owner, token, ticket)| RelayError {
                reason,
                place,
                detail,
                retry,
                pushback,
                owner,
                token: token.map(Box::new),
                ticket: ticket.map(Box::new),
            },
        )
}

/// Decodes a stream that comes in pieces of `step` bytes.
fn decode(bytes: &[u8], step: usize, now: Instant) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::new(1 << 20);
    let mut frames = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.feed(piece);
        while let Some(frame) = decoder.next(now)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn same(sent: &Request, read: &Request, large: bool) {
    assert_eq!((&sent.path, &sent.authority), (&read.path, &read.authority));
    assert_eq!((sent.envelope, &sent.metadata), (read.envelope, &read.metadata));
    assert_eq!((&sent.hints, &sent.facts), (&read.hints, &read.facts));
    assert_eq!((sent.received, sent.deadline), (read.received, read.deadline));
    if large {
        assert_eq!((read.body.chunk.len(), read.body.end), (0, false));
    } else {
        assert!(sent.body == read.body);
    }
}

proptest! {
    // W1, F2, F3
    #[test]
    fn requests_survive_the_wire_in_any_pieces(
        requests in { let now = now(); prop::collection::vec((request(now), any::<u64>(), any::<bool>()), 1..6) },
        step in 1..700_usize,
    ) {
        let now = requests[0].0.received;
        let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
        for (request, id, large) in &requests {
            encoder.request(&mut out, *id, request, *large, now);
        }
        let frames = decode(&out, step, now).unwrap();
        prop_assert_eq!(frames.len(), requests.len());
        for (frame, (sent, id, large)) in frames.iter().zip(&requests) {
            let Frame::Request { id: read_id, request, large: read_large } = frame else {
                panic!("{frame:?}")
            };
            prop_assert_eq!((read_id, read_large), (id, large));
            same(sent, request, *large);
        }
    }

    #[test]
    fn replies_survive_the_wire(sent in part(), id: u64, large: bool, large_bytes: u64, step in 1..100_usize) {
        let mut out = BytesMut::new();
        put_reply(&mut out, id, &sent, large, large_bytes);
        let frames = decode(&out, step, now()).unwrap();
        let [Frame::Reply { id: read_id, part, large: read_large, large_bytes: read_bytes }] = frames.as_slice() else {
            panic!("{frames:?}")
        };
        prop_assert_eq!((*read_id, *read_large), (id, large));
        prop_assert_eq!(*read_bytes, if sent.end.is_some() { large_bytes } else { 0 });
        prop_assert_eq!(&part.head, &sent.head);
        let body = if large { Bytes::new() } else { sent.body.0 };
        prop_assert_eq!(&part.body.0, &body);
        prop_assert_eq!(part.end.is_some(), sent.end.is_some());
        if let (Some(read), Some(sent)) = (&part.end, &sent.end) {
            prop_assert_eq!((read.status, &read.message, &read.trailers), (sent.status, &sent.message, &sent.trailers));
            prop_assert_eq!(read.timing, sent.timing);
        }
    }

    #[test]
    fn failures_survive_the_wire(sent in error(), id: u64) {
        let mut out = BytesMut::new();
        put_failed(&mut out, id, &sent);
        let frames = decode(&out, 7, now()).unwrap();
        let [Frame::Failed { id: read_id, error }] = frames.as_slice() else { panic!("{frames:?}") };
        prop_assert_eq!((*read_id, &**error), (id, &sent));
    }

    // Many units are as many frames as that takes, each within its limit.
    #[test]
    fn sightings_survive_the_wire(sent in prop::collection::vec((name(), sighting()), 0..200), step in 1..700_usize) {
        let mut out = BytesMut::new();
        put_sightings(&mut out, &sent);
        let frames = decode(&out, step, now()).unwrap();
        prop_assert_eq!(frames.len(), sent.len().div_ceil(LIST_MAX));
        let mut read = Vec::new();
        for frame in frames {
            let Frame::Sightings(part) = frame else { panic!("{frame:?}") };
            read.extend(part);
        }
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn small_frames_survive_the_wire(id: u64, body in bytes(200), size in 0..usize::MAX, on: bool) {
        let mut out = BytesMut::new();
        put_hello(&mut out, &body);
        put_request_body(&mut out, id, &body, on, false);
        put_cancel(&mut out, id, if on { CancelReason::Deadline } else { CancelReason::Protocol });
        put_credit(&mut out, id, size, on);
        put_ping(&mut out, id);
        put_pong(&mut out, id);
        put_drain(&mut out);
        put_register(&mut out, id, &body);
        put_registered(&mut out, id, &body);
        let expected = [
            format!("{:?}", Frame::Hello(body.clone())),
            format!("{:?}", Frame::RequestBody { id, body: RequestBody { chunk: body.clone(), end: on }, large: false }),
            format!("{:?}", Frame::Cancel { id, reason: if on { CancelReason::Deadline } else { CancelReason::Protocol } }),
            format!("{:?}", Frame::Credit { id, bytes: size, reply: on }),
            format!("{:?}", Frame::Ping(id)),
            format!("{:?}", Frame::Pong(id)),
            format!("{:?}", Frame::Drain),
            format!("{:?}", Frame::Register { id, body: body.clone() }),
            format!("{:?}", Frame::Registered { id, body }),
        ];
        let read: Vec<String> = decode(&out, 5, now()).unwrap().iter().map(|f| format!("{f:?}")).collect();
        prop_assert_eq!(read, expected);
    }

    // W2: it ends, gives at most one frame per header, and never panics.
    #[test]
    fn arbitrary_bytes_never_panic_or_loop(bytes: Vec<u8>, step in 1..50_usize) {
        if let Ok(frames) = decode(&bytes, step, now()) {
            prop_assert!(frames.len() * HEADER_BYTES <= bytes.len());
        }
    }

    // W2, closer to the truth: a valid header, and attributes and bodies of garbage.
    #[test]
    fn garbage_in_a_valid_frame_never_panics(
        kind in 0..30_u8, flags: u8, id: u64,
        block in prop::collection::vec(any::<u8>(), 0..60), body in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut out = vec![kind, flags, 0, 0, u8::try_from(block.len()).unwrap(), 0, 0, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&block);
        out.extend_from_slice(&body);
        let _ = decode(&out, 1000, now());
    }
}

fn header(kind: u8, attributes: usize, body: usize) -> Vec<u8> {
    let mut out = vec![kind, 0];
    out.extend_from_slice(&u32::try_from(attributes).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&u32::try_from(body).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&[0; 8]);
    out
}

// F1, W1
#[test]
fn a_frame_beyond_the_limit_is_refused_before_its_body_comes() {
    let check = |attributes, body, expected| {
        let result = decode(&header(kind::REQUEST, attributes, body), 16, now());
        assert_eq!(result.map(|_| ()), expected, "{attributes} {body}");
    };
    let limit = 1 << 20;
    let size = limit + 1;
    check(0, limit - HEADER_BYTES + 1, Err(FrameError::TooLong { size, limit }));
    check(0, limit - HEADER_BYTES, Ok(()));
    check(ATTRIBUTES_BYTES_MAX, 0, Ok(()));
    check(ATTRIBUTES_BYTES_MAX + 1, 0, Err(FrameError::TooMany(kind::REQUEST)));
}

// F2
#[test]
fn names_are_defined_in_order_and_once() {
    let now = now();
    let define = |id: u8| {
        let mut out = header(kind::NAME, 0, 1);
        out[15] = id;
        out.push(b'x');
        out
    };
    assert!(decode(&[define(0), define(1)].concat(), 99, now).unwrap().is_empty());
    assert_eq!(decode(&define(1), 99, now).map(|_| ()), Err(FrameError::NameId(1)));
    assert_eq!(
        decode(&[define(0), define(0)].concat(), 99, now).map(|_| ()),
        Err(FrameError::NameId(0))
    );
}

// F2: more names than the table holds still work, as text.
#[test]
fn a_full_table_of_names_is_no_error() {
    let now = now();
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(1 << 20));
    for number in 0..NAMES_MAX + 10 {
        let request = Request {
            path: Bytes::from(format!("/s/{number}")),
            authority: Bytes::new(),
            envelope: Envelope::Framed,
            metadata: Metadata::default(),
            hints: RouteHints::default(),
            facts: Facts::default(),
            received: now,
            deadline: None,
            body: RequestBody::default(),
        };
        let mut out = BytesMut::new();
        encoder.request(&mut out, 1, &request, false, now);
        decoder.feed(&out);
        match decoder.next(now).unwrap() {
            Some(Frame::Request { request: read, .. }) => same(&request, &read, false),
            other => panic!("{other:?}"),
        }
    }
}

// W1: one frame must not become thousands of allocations.
#[test]
fn one_request_cannot_carry_thousands_of_keys() {
    let mut block = BytesMut::new();
    crate::wire::attributes::put_bytes(&mut block, tag::PATH_TEXT, b"/a/b");
    for _ in 0..=LIST_MAX {
        crate::wire::attributes::put_bytes(&mut block, tag::KEY_TEXT, &[1, b'd', b'k']);
    }
    let mut out = header(kind::REQUEST, block.len(), 0);
    out.extend_from_slice(&block);
    let result = decode(&out, 9999, now());
    assert_eq!(result.map(|_| ()), Err(FrameError::TooMany(kind::REQUEST)));
}

// W1: and one frame of sightings no more units than the limit; what a later version adds to it is skipped.
#[test]
fn one_frame_of_sightings_names_no_more_units_than_the_limit() {
    for (units, expected) in [
        (LIST_MAX, Ok(())),
        (LIST_MAX + 1, Err(FrameError::TooMany(kind::SIGHTINGS))),
    ] {
        let mut block = BytesMut::new();
        crate::wire::attributes::put_bytes(&mut block, 100, b"new");
        for _ in 0..units {
            crate::wire::attributes::put_bytes(&mut block, tag::UNIT_AWAY, b"b");
        }
        let mut out = header(kind::SIGHTINGS, block.len(), 0);
        out.extend_from_slice(&block);
        assert_eq!(decode(&out, 9999, now()).map(|_| ()), expected, "{units}");
    }
}

#[test]
fn unknown_attributes_are_skipped_and_mandatory_ones_refused() {
    for (tag, ok) in [(100, true), (200, false)] {
        let mut block = BytesMut::new();
        crate::wire::attributes::put_bytes(&mut block, tag, b"new");
        let mut out = header(kind::CANCEL, block.len(), 0);
        out.extend_from_slice(&block);
        assert_eq!(decode(&out, 99, now()).is_ok(), ok, "tag {tag}");
    }
}

// F3: what is left of a deadline that has passed is nothing, not a large number.
#[test]
fn a_passed_deadline_travels_as_zero() {
    let received = now();
    let late = received + Duration::from_secs(9);
    let mut strategy = proptest::test_runner::TestRunner::deterministic();
    let mut sent = request(received).new_tree(&mut strategy).unwrap().current();
    sent.deadline = Some(received + Duration::from_secs(1));
    let mut out = BytesMut::new();
    Encoder::new().request(&mut out, 1, &sent, false, late);
    match decode(&out, 9999, late).unwrap().as_slice() {
        [Frame::Request { request, .. }] => assert_eq!(request.deadline, Some(late)),
        other => panic!("{other:?}"),
    }
}
