use proptest::prelude::*;

use super::*;
use crate::model::{DeadPlace, GapReason, Key, Message, MessageId, MetadataBuilder, Name, UnixMillis};
use crate::queue::dedup::Chunk;
use crate::queue::line::{LineId, StreamId};
use crate::queue::record::{DeadLetter, DeadSource, Kept, Pausable, Pause, Stored};

fn any_name() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9._-]{1,20}".prop_map(|text| Name::new(&text).unwrap())
}

fn any_seq() -> impl Strategy<Value = u64> {
    prop_oneof![1..1000_u64, 1..=SEQ_MAX]
}

fn any_run() -> impl Strategy<Value = (u64, u64)> {
    (any_seq(), 0..1000_u64).prop_map(|(first, more)| (first, (first + more).min(SEQ_MAX)))
}

fn any_message() -> impl Strategy<Value = Message> {
    let id = (any_name(), any_name(), any::<u64>(), any::<u64>());
    let key = proptest::option::of((any_name(), proptest::collection::vec(any::<u8>(), 0..30)));
    let body = proptest::collection::vec(any::<u8>(), 0..200);
    (id, any_name(), key, any::<u32>(), body).prop_map(|(id, topic, key, redrives, body)| {
        let mut attributes = MetadataBuilder::new();
        attributes.push(b"source", b"/orders").unwrap();
        Message {
            id: MessageId {
                unit: id.0.clone(),
                relay: id.1,
                epoch: id.2,
                number: id.3,
            },
            topic,
            key: key.map(|(dimension, key)| Key {
                dimension: Bytes::copy_from_slice(dimension.as_str().as_bytes()),
                key: key.into(),
            }),
            accepted_at: UnixMillis(5),
            deadline: Some(UnixMillis(u64::from(redrives))),
            visited: vec![id.0],
            redrives,
            routed: u64::from(redrives / 3),
            attributes: attributes.build(),
            body: body.into(),
        }
    })
}

fn any_stored() -> impl Strategy<Value = Record> {
    let from = proptest::option::of((any_name(), any_name(), any::<u64>(), any_seq()));
    let outs = proptest::collection::vec((any_name(), any_seq()), 0..4);
    let seq = || proptest::option::of(any_seq());
    let only = proptest::option::of(any_name());
    let rerouted = proptest::option::of((any_name(), any_seq()));
    (any_message(), from, outs, seq(), only, seq(), rerouted, seq()).prop_map(|parts| {
        let (message, from, outs, inbox, only, redriven, rerouted, mirror) = parts;
        Record::Stored(Box::new(Stored {
            message,
            from: from.map(|(unit, relay, epoch, seq)| (StreamId { unit, relay, epoch }, seq)),
            outs,
            inbox,
            only,
            redriven,
            rerouted,
            mirror,
        }))
    })
}

fn any_dead() -> impl Strategy<Value = Record> {
    let at = prop_oneof![
        Just(DeadSource::None),
        (any_name(), any_seq()).prop_map(|(unit, seq)| DeadSource::Outbox(unit, seq)),
        (any_name(), any_seq()).prop_map(|(group, seq)| DeadSource::Group(group, seq)),
    ];
    let place = proptest::sample::select(DeadPlace::ALL.to_vec());
    (
        any_message(),
        any_seq(),
        place,
        at,
        any::<u32>(),
        any::<u64>(),
        ".{0,40}",
    )
        .prop_map(|parts| {
            let (message, seq, place, at, attempts, failure, error) = parts;
            Record::Dead(Box::new(DeadLetter {
                seq,
                message,
                place,
                reason: "attempts".to_owned(),
                at,
                attempts,
                first_failure: UnixMillis(failure / 2),
                last_failure: UnixMillis(failure),
                error,
            }))
        })
}

fn any_state() -> impl Strategy<Value = Record> {
    let runs = || proptest::collection::vec(any_run(), 1..5);
    let reason = || proptest::sample::select(GapReason::ALL.to_vec());
    let counts = || proptest::collection::vec((any_name(), any::<u64>()), 0..4);
    let stream = (any_name(), any_name(), any::<u64>());
    prop_oneof![
        (runs(), reason()).prop_map(|(seqs, reason)| Record::DeadGone { seqs, reason }),
        (any_name(), any_run(), reason(), counts()).prop_map(|(unit, seqs, reason, counts)| Record::Gap {
            unit,
            seqs,
            reason,
            counts
        }),
        (stream, any_run(), reason()).prop_map(|((unit, relay, epoch), seqs, reason)| Record::Skipped {
            stream: StreamId { unit, relay, epoch },
            seqs,
            reason
        }),
        (any_name(), runs(), counts()).prop_map(|(unit, seqs, counts)| Record::Relayed { unit, seqs, counts }),
        (any_name(), any_name(), runs(), proptest::option::of(reason())).prop_map(|(topic, group, seqs, reason)| {
            Record::Settled {
                topic,
                group,
                seqs,
                reason,
            }
        }),
        (
            any_name(),
            any_name(),
            any_seq(),
            any::<u32>(),
            any::<(u64, Option<u64>)>()
        )
            .prop_map(|(topic, group, seq, failed, (at, key))| {
                Record::Attempt {
                    topic,
                    group,
                    seq,
                    failed,
                    not_before: UnixMillis(at),
                    key,
                }
            }),
        any::<u64>().prop_map(Record::Epoch),
        (any_name(), ".{0,20}", proptest::option::of(any::<u64>())).prop_map(|(unit, reason, until)| {
            Record::Kept(Box::new(Kept::Pause {
                what: Pausable::Unit { unit },
                pause: Some(Pause { reason, until }),
            }))
        }),
        (any_name(), any::<u64>()).prop_map(|(unit, key)| Record::Kept(Box::new(Kept::Stays { unit, key }))),
        (any_name(), any::<u16>(), any::<u64>()).prop_map(|(unit, rate, bytes)| Record::Kept(Box::new(Kept::Limits {
            unit,
            topic: None,
            limits: Some((f64::from(rate), bytes, 3)),
        }))),
        (
            any_seq(),
            any::<u64>(),
            proptest::collection::vec(any::<[u8; 20]>(), 0..50)
        )
            .prop_map(|(number, epoch, bytes)| {
                Record::Remembered(Box::new(Chunk {
                    number,
                    epoch,
                    at: UnixMillis(7),
                    entries: Chunk::entries_from_bytes(&bytes.concat()).unwrap(),
                }))
            }),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![any_stored(), any_dead(), any_state()]
}

/// The content as the log gives it back.
fn content(entry: &Entry) -> Bytes {
    let mut content = BytesMut::from(&entry.head[..]);
    if let Some(message) = &entry.message {
        message::put(&mut content, message);
    }
    content.freeze()
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(record in any_record()) {
        let entry = encode(&record);
        prop_assert_eq!(decode_message(entry.kind, content(&entry)), Ok(entry.message.clone()));
        prop_assert_eq!(decode(entry.kind, content(&entry)), Ok(record));
    }

    // K1
    #[test]
    fn no_bytes_make_it_panic(kind in 0..14_u8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = decode_message(kind, bytes.clone());
        let _ = decode(kind, bytes);
    }

    // A later version may write what has to be understood.
    #[test]
    fn a_message_whose_head_must_be_understood_and_is_not_is_an_error(tag in 128..=255_u8) {
        let mut content = BytesMut::from(&[0, 0, 0, 2, tag, 0][..]);
        content.extend_from_slice(&[0, 0, 0, 0]);
        let error = Err(CodecError::Attributes(AttributeError::Mandatory(tag)));
        prop_assert_eq!(decode_message(STORED, content.freeze()), error);
    }

    // K1
    #[test]
    fn a_damaged_record_makes_it_panic_neither(record in any_record(), at in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<bool>()) {
        let entry = encode(&record);
        let mut bytes = content(&entry).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if cut {
            bytes.truncate(at);
        }
        let _ = decode(entry.kind, bytes.into());
    }

    // K2
    #[test]
    fn a_message_is_in_the_line_of_each_of_its_numbers(record in any_stored()) {
        let lines = encode(&record).lines;
        let Record::Stored(stored) = record else { unreachable!() };
        for (unit, seq) in &stored.outs {
            prop_assert!(lines.contains(&(LineId::outbox(unit), *seq)));
        }
        let inbox = stored.inbox.map(|seq| (LineId::inbox(&stored.message.topic), seq));
        let mirror = stored.mirror.map(|seq| (LineId::mirror(&stored.message.topic), seq));
        prop_assert!(inbox.into_iter().chain(mirror).all(|line| lines.contains(&line)));
        prop_assert_eq!(lines.len(), stored.outs.len() + usize::from(inbox.is_some()) + usize::from(mirror.is_some()));
    }
}
