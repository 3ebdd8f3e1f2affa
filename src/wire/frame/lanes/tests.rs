use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::model::lanes::{LaneKind, Refused, Sent, ToReceiver, ToSender};
use crate::model::{GapReason, Message, MessageId, Metadata, Name, UnixMillis};
use crate::wire::frame::FrameError;

fn message(number: u64, body: Vec<u8>) -> Message {
    let name = |text: &str| Name::new(text).unwrap();
    Message {
        id: MessageId {
            unit: name("a"),
            relay: name("a-1"),
            epoch: 7,
            number,
        },
        topic: name("im.message"),
        key: None,
        accepted_at: UnixMillis(1),
        deadline: None,
        visited: vec![name("a")],
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: body.into(),
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let body = prop::collection::vec(any::<u8>(), 0..200);
    (1..=u64::MAX, any::<bool>(), any::<u64>(), body).prop_map(|(seq, tell_delivered, number, body)| Sent {
        seq,
        tell_delivered,
        message: message(number, body),
    })
}

fn to_receiver() -> impl Strategy<Value = ToReceiver> {
    let kind = prop::sample::select(vec![LaneKind::Live, LaneKind::Backlog]);
    let reason = prop::sample::select(GapReason::ALL.to_vec());
    let number = || 1..=u64::MAX;
    prop_oneof![
        (any::<u64>(), kind, any::<u64>()).prop_map(|(epoch, kind, base)| ToReceiver::Open { epoch, kind, base }),
        (any::<u64>(), prop::collection::vec(sent(), 0..20))
            .prop_map(|(batch, messages)| ToReceiver::Messages { batch, messages }),
        (any::<u64>(), number(), number(), reason).prop_map(|(batch, a, b, reason)| ToReceiver::Gap {
            batch,
            seqs: (a.min(b), a.max(b)),
            reason,
        }),
    ]
}

fn runs() -> impl Strategy<Value = (u64, Vec<(u64, u64)>)> {
    let steps = prop::collection::vec((1_u64..1 << 40, 0_u64..1 << 40), 0..50);
    (0_u64..1 << 40, steps).prop_map(|(frontier, steps)| {
        let mut before = frontier;
        let run = |(step, more)| {
            let first = before + step;
            before = first + more;
            (first, before)
        };
        let runs = steps.into_iter().map(run).collect();
        (frontier, runs)
    })
}

fn to_sender() -> impl Strategy<Value = ToSender> {
    let refused = || {
        (1..=u64::MAX, "[a-z_]{1,20}", "[ -~]{0,80}").prop_map(|(seq, reason, detail)| Refused { seq, reason, detail })
    };
    let pushback = prop::option::of((0_u64..1 << 40).prop_map(std::time::Duration::from_millis));
    prop_oneof![
        (runs(), any::<u64>()).prop_map(|((frontier, above), highest)| ToSender::Opened {
            frontier,
            above,
            highest,
        }),
        "[ -~]{0,200}".prop_map(|detail| ToSender::Denied { detail }),
        (any::<u64>(), prop::collection::vec(refused(), 0..20))
            .prop_map(|(batch, refused)| ToSender::Ack { batch, refused }),
        pushback.prop_map(|pushback| ToSender::Busy { pushback }),
        prop::collection::vec(1..=u64::MAX, 1..50).prop_map(|seqs| ToSender::Delivered { seqs }),
        prop::collection::vec(refused(), 1..20).prop_map(|ended| ToSender::Ended { ended }),
    ]
}

/// Feeds a stream in pieces and takes every frame of it.
fn read<T>(stream: &[u8], step: usize, next: impl Fn(&mut LaneDecoder) -> Option<T>) -> Vec<T> {
    let mut decoder = LaneDecoder::new();
    let mut frames = Vec::new();
    for piece in stream.chunks(step) {
        decoder.feed(piece);
        while let Some(frame) = next(&mut decoder) {
            frames.push(frame);
        }
    }
    frames
}

proptest! {
    #[test]
    fn what_a_sender_says_is_read_as_it_was_written(frames in prop::collection::vec(to_receiver(), 0..6), step in 1_usize..400) {
        let mut out = BytesMut::new();
        for frame in &frames {
            put_to_receiver(&mut out, frame);
        }
        let read = read(&out, step, |decoder| decoder.to_receiver().unwrap());
        // Lengths are what counts as un-acknowledged.
        prop_assert_eq!(read.iter().map(|(_, bytes)| bytes).sum::<usize>(), out.len());
        let read: Vec<_> = read.into_iter().map(|(frame, _)| frame).collect();
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn what_a_receiver_says_is_read_as_it_was_written(frames in prop::collection::vec(to_sender(), 0..6), step in 1_usize..400) {
        let mut out = BytesMut::new();
        for frame in &frames {
            put_to_sender(&mut out, frame);
        }
        prop_assert_eq!(read(&out, step, |decoder| decoder.to_sender().unwrap()), frames);
    }

    // W2
    #[test]
    fn no_bytes_make_a_reader_of_lanes_panic(kind in 16_u8..25, rest in prop::collection::vec(any::<u8>(), 0..100), attributes in 0_u8..30) {
        let body = u8::try_from(rest.len()).unwrap().saturating_sub(attributes);
        let mut stream = vec![kind, 0, 0, 0, attributes, 0, 0, body];
        stream.extend([0; 8]);
        stream.extend(rest);
        for to_sender in [false, true] {
            let mut decoder = LaneDecoder::new();
            decoder.feed(&stream);
            let _ = if to_sender { decoder.to_sender().map(drop) } else { decoder.to_receiver().map(drop) };
        }
    }
}

#[test]
fn refusals_that_do_not_fit_into_one_frame_come_before_their_number() {
    let refused: Vec<Refused> = (1..)
        .take(NUMBERS_MAX + 1)
        .map(|seq| Refused {
            seq,
            reason: "too_large".to_owned(),
            detail: String::new(),
        })
        .collect();
    let mut out = BytesMut::new();
    put_to_sender(&mut out, &ToSender::Ack { batch: 9, refused });
    let frames = read(&out, 1 << 16, |decoder| decoder.to_sender().unwrap());
    let shape: Vec<_> = frames
        .iter()
        .map(|frame| match frame {
            ToSender::Ack { batch, refused } => (*batch, refused.len()),
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(shape, [(0, NUMBERS_MAX), (9, 1)]);
}

// F4
#[test]
fn a_frame_of_a_lane_that_breaks_a_rule_is_refused() {
    let check = |stream: &[u8], expected: FrameError| {
        let mut decoder = LaneDecoder::new();
        decoder.feed(stream);
        assert_eq!(decoder.to_receiver().unwrap_err(), expected);
    };
    let frame = |kind: u8, attributes: &[u8], body: &[u8]| {
        let len = |part: &[u8]| u8::try_from(part.len()).unwrap();
        let mut bytes = vec![kind, 0, 0, 0, len(attributes), 0, 0, len(body), 0, 0, 0, 0, 0, 0, 0, 1];
        bytes.extend(attributes);
        bytes.extend(body);
        Bytes::from(bytes)
    };
    // The lane has no number 0, and a length must not run past the end.
    check(&frame(17, &[], &[0, 0, 0, 0, 0, 1, 0]), FrameError::List(17));
    check(&frame(17, &[], &[2, 0, 0xff, 0xff, 0xff, 0xff]), FrameError::List(17));
    check(&frame(17, &[], &[2, 0]), FrameError::List(17));
    // A gap that ends before it begins.
    let gap = frame(18, &[35, 1, 5, 36, 1, 4, 23, 1, 4], &[]);
    assert!(matches!(
        LaneDecoder::fed(&gap).to_receiver(),
        Err(FrameError::Attributes { kind: 18, .. })
    ));
    // A cause that a later version knows.
    let gap = frame(18, &[35, 1, 5, 36, 1, 5, 23, 1, 4, 39, 1, 99], &[]);
    let (gap, _) = LaneDecoder::fed(&gap).to_receiver().unwrap().unwrap();
    assert_eq!(gap, skipped(GapReason::Expired));
    check(
        &frame(16, &[33, 1, 1], &[]),
        FrameError::Missing {
            kind: 16,
            what: "a base",
        },
    );
    check(&frame(200, &[], &[]), FrameError::Mandatory(200));
    // What comes back does not go there; unknown kinds are skipped.
    let mut both = frame(21, &[], &[]).to_vec();
    both.extend(frame(16, &[33, 1, 1, 34, 1, 9], &[]));
    let (open, _) = LaneDecoder::fed(&both).to_receiver().unwrap().unwrap();
    assert_eq!(
        open,
        ToReceiver::Open {
            epoch: 1,
            kind: LaneKind::Live,
            base: 9
        }
    );
}

// A relay that does not know the word ends the lane, and with the next lane it comes again.
#[test]
fn relays_that_know_nothing_of_moves_are_told_that_what_moved_was_purged() {
    let mut bytes = BytesMut::new();
    put_to_receiver(&mut bytes, &skipped(GapReason::Rerouted));
    let attributes: &[u8] = &[35, 1, 5, 36, 1, 5, 23, 1, 5, 39, 1, 6];
    assert!(bytes.ends_with(attributes), "{bytes:?}");
}

fn skipped(reason: GapReason) -> ToReceiver {
    ToReceiver::Gap {
        batch: 1,
        seqs: (5, 5),
        reason,
    }
}

impl LaneDecoder {
    fn fed(stream: &[u8]) -> Self {
        let mut decoder = Self::new();
        decoder.feed(stream);
        decoder
    }
}
