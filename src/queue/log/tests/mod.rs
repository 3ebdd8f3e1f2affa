//! What the log must hold to, case by case; all cases of crashes and damage are in the files beside this one.

mod corruption;
mod crashes;
mod faults;
mod real;
mod starts;
mod threads;
mod together;
mod torn;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::disk::Freed;
use super::format::OWN;
use super::*;
use crate::queue;

/// The line of most of the tests.
const LINE: LineId = LineId(0x1234_5678_9abc_def0);
const OTHER: LineId = LineId(7);

fn options() -> Options {
    Options {
        segment_bytes: 4096,
        bytes_max: 1 << 30,
        sync: queue::Sync::Group,
        seed: 1,
    }
}

fn open(storage: &MemoryStorage) -> (Log<MemoryStorage>, Recovery) {
    open_seeded(storage, fastrand::u64(..))
}

fn open_seeded(storage: &MemoryStorage, seed: u64) -> (Log<MemoryStorage>, Recovery) {
    Log::open(storage.clone(), Options { seed, ..options() }).unwrap()
}

/// A record of a line; its content can be told from that of all others.
fn entry(line: LineId, seq: Seq, bytes: usize) -> Entry {
    let mut content = format!("{:x}/{seq}/", line.0).into_bytes();
    content.resize(content.len() + bytes, u8::try_from(seq % 251).unwrap());
    Entry {
        kind: 1,
        lines: vec![(line, seq)],
        head: content.into(),
        message: None,
    }
}

fn entries(line: LineId, seqs: std::ops::RangeInclusive<Seq>) -> Vec<Entry> {
    seqs.map(|seq| entry(line, seq, 100)).collect()
}

/// All of a line, read with scans of a few records.
fn read(log: &mut Log<MemoryStorage>, line: LineId) -> BTreeMap<Seq, Bytes> {
    read_by(log, line, 7)
}

fn read_by(log: &mut Log<MemoryStorage>, line: LineId, messages_max: usize) -> BTreeMap<Seq, Bytes> {
    let mut all = BTreeMap::new();
    let mut from = 0;
    loop {
        let scanned = log
            .scan(Scan {
                line,
                from,
                messages_max,
                bytes_max: 1500 * messages_max,
            })
            .unwrap();
        for (seq, found) in scanned.found {
            assert!(seq >= from, "in order");
            assert!(found.lines.contains(&(line, seq)));
            assert!(all.insert(seq, found.content).is_none(), "{seq} twice");
        }
        match scanned.next {
            Some(next) => from = next,
            None => return all,
        }
    }
}

fn numbers(log: &mut Log<MemoryStorage>, line: LineId) -> Vec<Seq> {
    read(log, line).into_keys().collect()
}

fn replayed(log: &mut Log<MemoryStorage>, from: Position) -> Vec<Found> {
    let mut all = Vec::new();
    log.replay(from, |found| all.push(found)).unwrap();
    assert!(all.iter().all(|found| found.kind != OWN));
    assert!(all.is_sorted_by_key(|found| found.position));
    all
}

// M-A4
#[test]
fn what_was_written_is_read_by_line_by_number_and_in_the_order_of_writing() {
    let storage = MemoryStorage::default();
    let (mut log, recovery) = open(&storage);
    assert!(recovery.state.is_none() && !recovery.state_lost);
    let mut positions = Vec::new();
    for first in (1..200).step_by(5) {
        let mut batch = entries(LINE, first..=first + 4);
        batch.push(entry(OTHER, first, 3000));
        positions.extend(log.append(&batch, false).unwrap());
    }
    assert!(positions.is_sorted() && positions.last().unwrap().segment > 10);
    for again in [false, true] {
        if again {
            log = open(&storage).0;
        }
        assert_eq!(numbers(&mut log, LINE), (1..=200).collect::<Vec<_>>());
        assert_eq!(read(&mut log, OTHER).len(), 40);
        let all = replayed(&mut log, Position::default());
        assert_eq!(all.iter().map(|found| found.position).collect::<Vec<_>>(), positions);
        let rest = replayed(&mut log, positions[100].after());
        assert_eq!(rest.len(), positions.len() - 101);
        let found = log.fetch(LINE, 77).unwrap().unwrap();
        assert_eq!(found.content, entry(LINE, 77, 100).head);
        assert!(log.fetch(LINE, 201).unwrap().is_none() && log.fetch(OTHER, 2).unwrap().is_none());
    }
}

#[test]
fn a_record_may_be_longer_than_a_segment() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    log.append(&[entry(LINE, 1, 10)], false).unwrap();
    log.append(&[entry(LINE, 2, 50_000)], false).unwrap();
    log.append(&[entry(LINE, 3, 10)], false).unwrap();
    assert_eq!(numbers(&mut log, LINE), [1, 2, 3]);
    assert_eq!(numbers(&mut open(&storage).0, LINE), [1, 2, 3]);
}

#[test]
fn a_message_is_written_behind_the_head() {
    use crate::model::{Message, MessageId, Metadata, Name, UnixMillis};
    let name = |text| Name::new(text).unwrap();
    let message = Message {
        id: MessageId {
            unit: name("a"),
            relay: name("r"),
            epoch: 1,
            number: 2,
        },
        topic: name("t"),
        key: None,
        accepted_at: UnixMillis(3),
        deadline: None,
        visited: Vec::new(),
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: Bytes::from_static(b"body"),
    };
    let (mut log, _) = open(&MemoryStorage::default());
    let entry = Entry {
        head: Bytes::from_static(b"head"),
        message: Some(message.clone()),
        ..entry(LINE, 1, 0)
    };
    log.append(&[entry], false).unwrap();
    let content = log.fetch(LINE, 1).unwrap().unwrap().content;
    let written = content.strip_prefix(b"head").unwrap();
    assert_eq!(
        crate::wire::message::read(Bytes::copy_from_slice(written)).unwrap(),
        message
    );
}

// L8
#[test]
fn segments_are_removed_when_their_lines_are_done_and_two_checkpoints_cover_them() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    let mut last = Position::default();
    for seq in 1..=100 {
        last = log.append(&[entry(LINE, seq, 200)], false).unwrap()[0];
    }
    let space = log.space().unwrap();
    let segments = space.segments;
    assert_eq!(log.release(|_, _, _| true), Freed::default());
    log.checkpoint(b"one", last.after()).unwrap();
    assert_eq!(log.release(|_, _, _| true), Freed::default());
    log.checkpoint(b"two", last.after()).unwrap();
    let freed = log.release(|_, _, to| to <= 50);
    assert!(freed.segments > 2 && freed.bytes > 0);
    let left = log.space().unwrap();
    assert_eq!(left.segments, segments - freed.segments);
    assert!(left.used < space.used, "{left:?} of {space:?}");
    let left = numbers(&mut log, LINE);
    assert!((2..=51).contains(&left[0]) && *left.last().unwrap() == 100);

    // A restart reads only what no checkpoint knows, and a damaged checkpoint costs only the time to read more.
    let (mut log, recovery) = open(&storage);
    assert_eq!(recovery.state.unwrap(), b"two");
    assert_eq!(recovery.segments_read, 1);
    assert_eq!(numbers(&mut log, LINE), left);
    drop(log);
    let mut contents = storage.contents();
    let newest = contents
        .keys()
        .filter(|name| name.starts_with("checkpoint"))
        .max()
        .unwrap()
        .clone();
    contents.get_mut(&newest).unwrap()[30] ^= 1;
    let (mut log, recovery) = open(&MemoryStorage::with(contents.clone()));
    assert_eq!(recovery.state.unwrap(), b"one");
    assert_eq!(recovery.damaged_checkpoints, [newest]);
    assert_eq!(numbers(&mut log, LINE), left);
    contents.retain(|name, _| !name.starts_with("checkpoint"));
    let (mut log, recovery) = open(&MemoryStorage::with(contents));
    assert!(recovery.state.is_none() && recovery.state_lost);
    assert_eq!(numbers(&mut log, LINE), left);
}

// L9
#[test]
fn sparse_neighbours_become_one_segment_in_their_place() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    let mut last = Position::default();
    for seq in 1..=200 {
        last = log.append(&[entry(LINE, seq, 200)], false).unwrap()[0];
    }
    for state in [b"one", b"two"] {
        log.checkpoint(state, last.after()).unwrap();
    }
    let wanted = |seq: Seq| seq.is_multiple_of(17) || seq > 150;
    let many = |_, from, to| u64::try_from((from..=to).filter(|seq| wanted(*seq)).count()).unwrap();
    let sparse = log.sparse(many).unwrap();
    assert!(sparse.len() > 5);
    let freed = log.merge(&sparse, |_, seq| wanted(seq)).unwrap();
    assert!(freed.bytes > 10_000);
    let kept = |log: &mut Log<_>| {
        let left = numbers(log, LINE);
        assert!((1..=200).filter(|seq| wanted(*seq)).all(|seq| left.contains(&seq)));
        left
    };
    let left = kept(&mut log);
    assert!(left.len() < 100);
    assert_eq!(log.sparse(many), None);
    let (mut log, recovery) = open(&storage);
    assert_eq!(recovery.damage, []);
    assert_eq!(kept(&mut log), left);
    assert!(replayed(&mut log, Position::default()).is_sorted_by_key(|found| found.lines[0].1));
    // Merged ones can be merged again, and are removed like others.
    log.append(&[entry(LINE, 201, 10)], false).unwrap();
    let all = log.sparse(|_, _, _| 1).unwrap();
    log.merge(&all, |_, seq| seq == 17).unwrap();
    assert!(numbers(&mut log, LINE).starts_with(&[17]));
    log.release(|_, _, to| to <= 17);
    assert!(numbers(&mut log, LINE)[0] > 17);
}

#[test]
fn a_segment_is_prepared_while_nobody_waits() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    while log.upkeep().unwrap() {}
    storage.record();
    let mut last = Position::default();
    let mut seq = 0;
    while last.segment < 2 {
        seq += 1;
        last = log.append(&[entry(LINE, seq, 500)], false).unwrap()[0];
    }
    let all = storage.take_recorded();
    let names = |operation: &&Operation| matches!(operation, Operation::Create(..) | Operation::SyncDir);
    assert_eq!(
        all.iter().filter(names).count(),
        0,
        "the next segment was there, zeros and name and all"
    );
    assert_eq!(numbers(&mut log, LINE), (1..=seq).collect::<Vec<_>>());
    while log.upkeep().unwrap() {}
    assert_eq!(numbers(&mut open(&storage).0, LINE), (1..=seq).collect::<Vec<_>>());
}

#[test]
fn files_of_later_versions_and_of_others_are_refused_by_name() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    let at = log.append(&[entry(LINE, 1, 10)], false).unwrap()[0];
    log.checkpoint(b"state", at.after()).unwrap();
    let contents = storage.contents();
    for (name, bytes) in &contents {
        let mut newer = bytes.clone();
        newer[11] = 2;
        let len = if name.ends_with("segment") { 64 } else { newer.len() };
        let sum = crc32c::crc32c(&newer[..len - 4]);
        newer[len - 4..len].copy_from_slice(&sum.to_be_bytes());
        let mut contents = contents.clone();
        contents.insert(name.clone(), newer);
        let error = Log::open(MemoryStorage::with(contents), options()).err().unwrap();
        assert!(
            matches!(&error, OpenError::Newer { file, version: 2 } if file == name),
            "{error}"
        );
    }
    let mut foreign = contents.clone();
    foreign.insert("mine.segment".to_owned(), vec![1]);
    let error = Log::open(MemoryStorage::with(foreign), options()).err().unwrap();
    assert!(error.to_string().contains("mine.segment"));
    // Empty files are what a crash leaves of a segment's beginning.
    let mut empty = contents;
    let name = format::Identity {
        first: 9,
        last: 9,
        generation: 0,
        nonce: 1,
    };
    empty.insert(name.name(), Vec::new());
    empty.insert("notes.txt".to_owned(), vec![1]);
    let (mut log, recovery) = open(&MemoryStorage::with(empty));
    assert_eq!((recovery.damage, recovery.torn), (Vec::new(), None));
    assert_eq!(numbers(&mut log, LINE), [1]);
}

#[test]
fn without_a_sync_for_each_batch_the_end_of_the_process_costs_nothing_and_a_power_cut_the_last_segment_at_most() {
    // M-A5
    let storage = MemoryStorage::default();
    let buffered = Options {
        sync: queue::Sync::Buffered,
        ..options()
    };
    let (mut log, _) = Log::open(storage.clone(), buffered).unwrap();
    let line = LineId(7);
    let mut segments = Vec::new();
    for seq in 1..=100 {
        let positions = log.append(&[entry(line, seq, 100)], true).unwrap();
        segments.push((positions[0].segment, seq));
    }
    let (last, _) = *segments.last().unwrap();
    let sealed: Vec<Seq> = segments
        .iter()
        .filter(|(of, _)| *of != last)
        .map(|(_, seq)| *seq)
        .collect();
    assert!(!sealed.is_empty());
    drop(log);
    let left = |storage: MemoryStorage| numbers(&mut Log::open(storage, buffered).unwrap().0, line);
    assert_eq!(left(storage.fork()), (1..=100).collect::<Vec<_>>());
    let mut missing = 0;
    for seed in 0..50 {
        let found = left(storage.crashed(&mut fastrand::Rng::with_seed(seed), 512));
        assert!(found.starts_with(&sealed), "seed {seed}: {found:?}");
        missing += 100 - found.len();
    }
    assert!(missing > 0, "nobody would need another setting");
}
