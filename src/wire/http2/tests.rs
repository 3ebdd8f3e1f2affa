//! Two sessions against each other, in memory.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::model::MetadataBuilder;

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn fields(list: &[(&str, &str)]) -> Metadata {
    let mut builder = MetadataBuilder::new();
    for (name, value) in list {
        builder.push(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.build()
}

/// Carries all that one side wants to say to the other, in pieces of the given sizes.
fn carry(from: &mut Session, to: &mut Session, cuts: &[usize], events: &mut Vec<Event>) -> bool {
    let mut wire = BytesMut::new();
    from.send_into(&mut wire, 64 * 1024).unwrap();
    while let Some(event) = from.next_event() {
        assert!(matches!(event, Event::Sent { .. }), "{event:?}");
    }
    let any = !wire.is_empty();
    let mut cuts = cuts.iter().cycle();
    while !wire.is_empty() {
        let piece = wire.split_to(wire.len().min(cuts.next().copied().unwrap_or(usize::MAX).max(1)));
        to.recv(&piece, now()).unwrap();
        while let Some(event) = to.next_event() {
            events.push(event);
        }
    }
    any
}

struct Pair {
    client: Session,
    server: Session,
    at_client: Vec<Event>,
    at_server: Vec<Event>,
    cuts: Vec<usize>,
}

impl Pair {
    fn new(cuts: &[usize]) -> Self {
        Self::with(cuts, Limits::default())
    }

    fn with(cuts: &[usize], limits: Limits) -> Self {
        let client = Session::new(
            Side::Client,
            Limits {
                streams_max: 0,
                ..Limits::default()
            },
        )
        .unwrap();
        let server = Session::new(Side::Server, limits).unwrap();
        let (at_client, at_server) = (Vec::new(), Vec::new());
        let mut pair = Self {
            client,
            server,
            at_client,
            at_server,
            cuts: cuts.to_vec(),
        };
        pair.settle();
        pair.at_client.clear();
        pair.at_server.clear();
        pair
    }

    fn settle(&mut self) {
        loop {
            let there = carry(&mut self.client, &mut self.server, &self.cuts, &mut self.at_server);
            let back = carry(&mut self.server, &mut self.client, &self.cuts, &mut self.at_client);
            if !there && !back {
                return;
            }
        }
    }

    fn request(&mut self, token: u64, path: &str, list: &[(&str, &str)]) -> StreamRef {
        let head = RequestHead {
            authority: b"svc",
            path: path.as_bytes(),
            fields: &fields(list),
            added: &[(b"te", b"trailers")],
        };
        self.client.request(token, &head).unwrap()
    }
}

/// All parts of one stream as one message.
fn joined<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    id: u32,
) -> (Option<&'a Head>, Vec<u8>, Option<&'a Metadata>, bool) {
    let (mut head, mut body, mut trailers, mut end) = (None, Vec::new(), None, false);
    for event in events {
        if let Event::Part(part) = event
            && part.stream.id == id
        {
            assert!(!end, "nothing follows the end");
            head = part.head.as_ref().or(head);
            body.extend_from_slice(&part.chunk);
            trailers = part.trailers.as_ref().or(trailers);
            end = part.end;
        }
    }
    (head, body, trailers, end)
}

fn parts(events: &[Event]) -> Vec<&Part> {
    let mut parts = Vec::new();
    for event in events {
        if let Event::Part(part) = event {
            parts.push(part);
        }
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // C-G1: whatever the reads cut.
    #[test]
    fn messages_arrive_whole_and_in_order_however_reads_are_cut(
        cuts in proptest::collection::vec(1_usize..3000, 1..8),
        bodies in proptest::collection::vec(0_usize..70_000, 1..6),
        value in "[ -~]{0,40}",
    ) {
        let value = value.trim().to_owned();
        let mut pair = Pair::new(&cuts);
        let mut streams = Vec::new();
        for (n, len) in bodies.iter().enumerate() {
            let path = format!("/s/{n}");
            let stream = pair.request(n.try_into().unwrap(), &path, &[("x-value", &value), ("strait-key", "uid=1")]);
            let body: Vec<u8> = (0..*len).map(|at| (at * 7 + n).to_le_bytes()[0]).collect();
            for chunk in body.chunks(10_000) {
                pair.client.body(stream, Bytes::copy_from_slice(chunk), false);
            }
            pair.client.finish(stream, None);
            streams.push((stream, path, body));
        }
        // The windows grow as what came is passed on.
        for _ in 0..20 {
            pair.settle();
            let got: Vec<_> = parts(&pair.at_server).iter().map(|part| (part.stream, part.chunk.len())).collect();
            for (stream, len) in got {
                pair.server.consume(stream, len);
            }
        }
        for (stream, path, body) in &streams {
            let (head, got, _, end) = joined(&pair.at_server, stream.id);
            let head = head.unwrap();
            prop_assert_eq!(&head.path[..], path.as_bytes());
            prop_assert_eq!(head.fields.text("x-value"), Some(value.as_str()));
            prop_assert_eq!(head.fields.len(), 1);
            prop_assert_eq!(head.apart.text("strait-key"), Some("uid=1"));
            prop_assert_eq!(head.apart.text("te"), Some("trailers"));
            prop_assert!(end);
            prop_assert_eq!(&got, body);
        }
        let at_server: Vec<_> = streams.iter().map(|(stream, ..)| {
            parts(&pair.at_server).iter().find(|part| part.stream.id == stream.id).unwrap().stream
        }).collect();
        for (stream, (.., body)) in at_server.iter().zip(&streams) {
            pair.server.respond(*stream, 200, &fields(&[("x-head", &value)]), false);
            pair.server.body(*stream, Bytes::from(body.clone()), true);
            pair.server.finish(*stream, Some(fields(&[("grpc-status", "0")])));
        }
        for _ in 0..20 {
            pair.settle();
            let got: Vec<_> = parts(&pair.at_client).iter().map(|part| (part.stream, part.chunk.len())).collect();
            for (stream, len) in got {
                pair.client.consume(stream, len);
            }
        }
        for (n, (stream, _, body)) in streams.iter().enumerate() {
            let (head, got, trailers, end) = joined(&pair.at_client, stream.id);
            prop_assert_eq!(head.unwrap().status, 200);
            prop_assert_eq!(&got, body);
            prop_assert_eq!(trailers.unwrap().text("grpc-status"), Some("0"));
            prop_assert!(end);
            let part = parts(&pair.at_client)[0];
            prop_assert!(part.token < streams.len().try_into().unwrap());
            let _ = n;
        }
        prop_assert_eq!(pair.client.open_streams(), 0);
        prop_assert_eq!(pair.server.open_streams(), 0);
    }

    // W2
    #[test]
    fn any_bytes_after_the_preface_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let mut server = Session::new(Side::Server, Limits::default()).unwrap();
        server.recv(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", now()).unwrap();
        let _ = server.recv(&bytes, now());
        while server.next_event().is_some() {}
        let _ = server.send_into(&mut BytesMut::new(), 1 << 20);
    }
}

#[test]
fn a_small_call_is_one_event_on_each_side() {
    let mut pair = Pair::new(&[usize::MAX]);
    for round in 0..3 {
        let stream = pair.request(round, "/s/m", &[("content-type", "application/grpc")]);
        pair.client.body(stream, Bytes::from_static(b"hello"), false);
        pair.client.finish(stream, None);
        pair.settle();
        assert_eq!(pair.at_server.len(), 1);
        let part = parts(&pair.at_server)[0];
        assert!(part.head.is_some() && part.end && part.chunk == "hello");
        let stream = part.stream;
        assert_eq!(stream.index, 0, "the slot is used again");
        pair.at_server.clear();
        pair.server
            .respond(stream, 200, &fields(&[("content-type", "application/grpc")]), false);
        pair.server.body(stream, Bytes::from_static(b"world"), false);
        pair.server.finish(stream, Some(fields(&[("grpc-status", "0")])));
        pair.settle();
        assert_eq!(pair.at_client.len(), 1);
        let part = parts(&pair.at_client)[0];
        assert!(part.head.is_some() && part.end && part.trailers.is_some() && part.chunk == "world");
        assert_eq!(part.token, round);
        pair.at_client.clear();
    }
}

// C-F4
#[test]
fn a_receiver_that_passes_nothing_on_stops_the_sender() {
    let limits = Limits {
        stream_window: 100_000,
        ..Limits::default()
    };
    let mut pair = Pair::with(&[usize::MAX], limits);
    let stream = pair.request(1, "/s/m", &[]);
    pair.client.body(stream, Bytes::from(vec![1; 1_000_000]), true);
    pair.settle();
    let (_, body, ..) = joined(&pair.at_server, stream.id);
    assert_eq!(body.len(), 100_000);
    let at_server = parts(&pair.at_server)[0].stream;
    pair.server.consume(at_server, 60_000);
    pair.settle();
    let (_, body, ..) = joined(&pair.at_server, stream.id);
    assert_eq!(body.len(), 160_000);
}

// C-F1
#[test]
fn a_stalled_stream_does_not_stop_the_others_of_its_connection() {
    let limits = Limits {
        connection_window: 200_000,
        stream_window: 100_000,
        ..Limits::default()
    };
    let mut pair = Pair::with(&[usize::MAX], limits);
    for n in 0..10 {
        let stalled = pair.request(n, "/s/stalled", &[]);
        pair.client.body(stalled, Bytes::from(vec![1; 100_000]), false);
    }
    pair.settle();
    let other = pair.request(99, "/s/other", &[]);
    pair.client.body(other, Bytes::from_static(b"x"), false);
    pair.client.finish(other, None);
    pair.settle();
    assert!(joined(&pair.at_server, other.id).3);
}

// C-F4
#[test]
fn bytes_that_wait_are_bounded_over_all_streams() {
    let limits = Limits {
        connection_window: 100_000,
        stream_window: 100_000,
        held_bytes_max: 250_000,
        ..Limits::default()
    };
    let mut pair = Pair::with(&[usize::MAX], limits);
    for n in 0..20 {
        let stream = pair.request(n, "/s/m", &[]);
        pair.client.body(stream, Bytes::from(vec![1; 100_000]), false);
    }
    pair.settle();
    let held: usize = parts(&pair.at_server).iter().map(|part| part.chunk.len()).sum();
    assert!((250_000..=400_000).contains(&held), "{held}");
    let first = parts(&pair.at_server)[0].stream;
    pair.client.reset(StreamRef { index: 0, id: first.id }, code::CANCEL);
    pair.settle();
    let more: usize = parts(&pair.at_server).iter().map(|part| part.chunk.len()).sum();
    assert!(more > held, "a stream that is gone makes room");
}

// T14: what is reset in the batch that opened it is never seen.
#[test]
fn a_stream_reset_in_the_same_batch_is_never_seen() {
    let mut pair = Pair::new(&[usize::MAX]);
    let mut wire = BytesMut::new();
    for n in 0..10 {
        let stream = pair.request(n, "/s/m", &[]);
        pair.client.send_into(&mut wire, 1 << 20).unwrap();
        pair.client.reset(stream, code::CANCEL);
        pair.client.send_into(&mut wire, 1 << 20).unwrap();
    }
    pair.server.recv(&wire, now()).unwrap();
    assert!(pair.server.next_event().is_none());
    assert_eq!(pair.server.open_streams(), 0);
}

#[test]
fn events_of_streams_that_are_gone_are_ignored() {
    let mut pair = Pair::new(&[usize::MAX]);
    let stream = pair.request(1, "/s/m", &[]);
    pair.settle();
    let at_server = parts(&pair.at_server)[0].stream;
    pair.client.reset(stream, code::CANCEL);
    pair.settle();
    assert!(matches!(
        pair.at_server.last(),
        Some(Event::Closed { code: code::CANCEL, .. })
    ));
    let events = pair.at_server.len();
    pair.server.respond(at_server, 200, &Metadata::default(), false);
    pair.server.body(at_server, Bytes::from_static(b"late"), true);
    pair.server.finish(at_server, None);
    pair.server.consume(at_server, 5);
    pair.server.reset(at_server, code::CANCEL);
    pair.settle();
    assert_eq!((pair.at_server.len(), pair.at_client.len()), (events, 0));
}

// C-F1
#[test]
fn a_large_reply_lets_small_ones_pass() {
    let limits = Limits {
        stream_window: 1 << 24,
        connection_window: 1 << 25,
        ..Limits::default()
    };
    let mut pair = Pair::new(&[usize::MAX]);
    pair.client = Session::new(
        Side::Client,
        Limits {
            streams_max: 0,
            ..limits.clone()
        },
    )
    .unwrap();
    pair.server = Session::new(Side::Server, limits).unwrap();
    pair.settle();
    let large = pair.request(1, "/s/large", &[]);
    let small = pair.request(2, "/s/small", &[]);
    pair.settle();
    let at_server: Vec<_> = parts(&pair.at_server).iter().map(|part| part.stream).collect();
    pair.server.respond(at_server[0], 200, &Metadata::default(), false);
    pair.server.body(at_server[0], Bytes::from(vec![1; 4 << 20]), false);
    pair.server.respond(at_server[1], 200, &Metadata::default(), false);
    pair.server.body(at_server[1], Bytes::from_static(b"small"), false);
    pair.server.finish(at_server[1], None);
    let mut before = 0;
    for _ in 0..100 {
        carry(&mut pair.server, &mut pair.client, &[usize::MAX], &mut pair.at_client);
        if joined(&pair.at_client, small.id).3 {
            before = joined(&pair.at_client, large.id).1.len();
            break;
        }
    }
    assert!(
        (1..1 << 20).contains(&before),
        "{before} bytes of the large reply went first"
    );
}

#[test]
fn the_two_steps_of_going_away_let_streams_in_flight_be_served() {
    let mut pair = Pair::new(&[usize::MAX]);
    pair.server.announce_goaway();
    let late = pair.request(1, "/s/m", &[]);
    pair.settle();
    assert!(
        joined(&pair.at_server, late.id).0.is_some(),
        "sent before the client knew"
    );
    assert!(!pair.client.takes_requests());
    pair.server.goaway(code::NO_ERROR);
    let at_server = parts(&pair.at_server)[0].stream;
    pair.client.finish(late, None);
    pair.server.respond(at_server, 200, &Metadata::default(), true);
    pair.settle();
    assert!(joined(&pair.at_client, late.id).3);
    assert!(pair.server.is_over());
}
