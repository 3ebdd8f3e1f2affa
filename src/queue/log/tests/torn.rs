//! A power cut in a write, and damage that looks nearly like it (L15, L16).

use super::*;

/// Three writes of some records each, then the one that nobody was told of.
fn written() -> (MemoryStorage, String, Vec<Found>) {
    let storage = MemoryStorage::default();
    let options = Options {
        segment_bytes: 64 * 1024,
        ..options()
    };
    let (mut log, _) = Log::open(storage.clone(), options).unwrap();
    for first in [1, 6, 11] {
        let batch: Vec<Entry> = (first..first + 5).map(|seq| entry(LINE, seq, 690)).collect();
        log.append(&batch, false).unwrap();
    }
    let all = replayed(&mut log, Position::default());
    let segments = storage.contents().into_keys();
    (storage, segments.max_by_key(String::len).unwrap(), all)
}

/// What is served, and damage and torn of opening, with the file as it is made.
fn opened(change: impl FnOnce(&mut Vec<u8>, &[Found])) -> (Vec<Seq>, Vec<Damage>, Option<Damage>) {
    let (storage, name, all) = written();
    let mut contents = storage.contents();
    change(contents.get_mut(&name).unwrap(), &all);
    let storage = MemoryStorage::with(contents);
    let (mut log, recovery) = open(&storage);
    let served = numbers(&mut log, LINE);
    // What was cut away may be written again, and is not there a second time.
    let next = served.last().unwrap() + 1;
    drop(log);
    let (mut log, again) = open(&storage);
    assert_eq!((numbers(&mut log, LINE), again.torn), (served.clone(), None));
    log.append(&[entry(LINE, next, 30)], false).unwrap();
    let mut log = open(&storage).0;
    assert_eq!(
        log.fetch(LINE, next).unwrap().unwrap().content,
        entry(LINE, next, 30).head
    );
    assert_eq!(numbers(&mut log, LINE).len(), served.len() + 1);
    (served, recovery.damage, recovery.torn)
}

/// The first sector that has only bytes of this record.
fn sector_of(all: &[Found], seq: Seq) -> usize {
    let found = all.iter().find(|found| found.lines[0].1 == seq).unwrap();
    let offset = usize::try_from(found.position.offset).unwrap();
    offset.next_multiple_of(512)
}

fn without(gone: &[Seq]) -> Vec<Seq> {
    (1..=15).filter(|seq| !gone.contains(seq)).collect()
}

#[test]
fn what_survived_behind_a_hole_in_a_write_that_was_not_finished_is_cut_off() {
    // M-C1, M-A4
    for lost in 11..=15 {
        let (served, damage, torn) = opened(|bytes, all| {
            let at = sector_of(all, lost);
            bytes[at..at + 512].fill(0);
        });
        // The sector may have the beginning of the next record too, but nothing of the one before.
        assert_eq!(served, (1..lost).collect::<Vec<_>>());
        assert_eq!(damage, []);
        assert!(torn.unwrap().unfinished);
    }
    // The first sector of the write has bytes of the write before, which are there.
    let (served, _, torn) = opened(|bytes, all| {
        let at = usize::try_from(all[10].position.offset).unwrap();
        assert!(at % 512 > 8, "{at}");
        bytes[at..at.next_multiple_of(512)].fill(0);
    });
    assert_eq!(served, (1..=10).collect::<Vec<_>>());
    assert!(torn.is_some());
}

#[test]
fn damage_of_what_was_acknowledged_costs_the_damaged_records_and_no_others() {
    // M-A4: a later write says that the one before was finished.
    let (served, damage, torn) = opened(|bytes, all| {
        let at = sector_of(all, 8);
        bytes[at..at + 200].fill(0);
    });
    assert_eq!((served, damage.len(), torn), (without(&[8]), 1, None));
    let (served, damage, torn) = opened(|bytes, all| {
        let at = sector_of(all, 8);
        bytes[at..at + 512].fill(0);
    });
    assert!(served.starts_with(&[1, 2, 3, 4, 5, 6, 7]) && served.ends_with(&[10, 11, 12, 13, 14, 15]));
    assert!(damage.iter().all(|damage| !damage.unfinished) && torn.is_none());
    // In the very last write, what is no power cut.
    for lost in 11..15 {
        let (served, damage, torn) = opened(|bytes, all| bytes[sector_of(all, lost) + 100] ^= 4);
        assert_eq!((served, torn), (without(&[lost]), None));
        assert_eq!(damage.len(), 1);
    }
}

#[test]
fn a_hole_in_the_write_before_a_torn_one_stays_damage() {
    // L11: the torn one alone says that the one before was finished.
    let (served, damage, torn) = opened(|bytes, all| {
        for seq in [8, 11] {
            let at = sector_of(all, seq);
            bytes[at..at + 512].fill(0);
        }
        let at = usize::try_from(all[10].position.offset).unwrap();
        bytes[at] ^= 1;
    });
    assert!(served.ends_with(&[14, 15]) && served.contains(&10), "{served:?}");
    assert!(damage.iter().any(|damage| !damage.unfinished) && torn.is_none());
}
