//! A disk that fails, is full, or takes less than it is given (M-G6, I16).

use super::*;

fn fail_after(more: u64) -> Faults {
    Faults {
        fail_after: Some(more),
        ..Faults::default()
    }
}

fn full_at(bytes: u64) -> Faults {
    Faults {
        bytes_max: Some(bytes),
        ..Faults::default()
    }
}

fn bytes(storage: &MemoryStorage) -> u64 {
    storage.contents().values().map(|file| format::long(file.len())).sum()
}

/// After the power went out and nothing survived that was not synced.
fn after_power_cut(storage: &MemoryStorage) -> Log<MemoryStorage> {
    // Ten states: one of them loses all that can be lost.
    let mut dice = fastrand::Rng::with_seed(1);
    let states = (0..10).map(|_| storage.crashed(&mut dice, 512));
    let logs = states.map(|state| open(&state).0);
    logs.min_by_key(|log| log.space().unwrap().used).unwrap()
}

// I16
#[test]
fn a_batch_whose_sync_failed_is_written_again_into_another_file() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    let before = log.append(&entries(LINE, 1..=3), false).unwrap()[0];
    // The write succeeds, its sync does not.
    storage.set_faults(fail_after(1));
    storage.record();
    let after = log.append(&entries(LINE, 4..=6), false).unwrap()[0];
    assert!(after.segment > before.segment);
    let operations = storage.take_recorded();
    let failed = operations
        .iter()
        .position(|operation| matches!(operation, Operation::SyncFailed(_)))
        .unwrap();
    let Operation::SyncFailed(file) = operations[failed] else {
        unreachable!()
    };
    let again =
        |operation: &Operation| matches!(operation, Operation::Sync(it) | Operation::Write(it, ..) if *it == file);
    assert!(
        !operations[failed + 1..].iter().any(again),
        "the file is not trusted again"
    );
    assert_eq!(numbers(&mut log, LINE), [1, 2, 3, 4, 5, 6]);
    assert_eq!(numbers(&mut after_power_cut(&storage), LINE), [1, 2, 3, 4, 5, 6]);
}

// I16, M-G6
#[test]
fn a_disk_that_fails_twice_takes_nothing_and_numbers_can_be_given_again() {
    for step in 0..8 {
        let storage = MemoryStorage::default();
        let (mut log, _) = open(&storage);
        log.append(&entries(LINE, 1..=3), false).unwrap();
        storage.set_faults(Faults {
            keep_failing: true,
            ..fail_after(step)
        });
        let lost = log.append(&[entry(LINE, 4, 1500)], false);
        if lost.is_ok() {
            continue;
        }
        assert!(matches!(lost, Err(AppendError::Failed(_))), "{lost:?}");
        assert_eq!(numbers(&mut log, LINE), [1, 2, 3], "what was synced can be read");
        storage.set_faults(Faults::default());
        // By itself it goes on when the disk does; the number is another record's now.
        let other = entry(LINE, 4, 10);
        storage.record();
        log.append(std::slice::from_ref(&other), false).unwrap();
        // Where the failed segment ends is on the disk before its number is another's (L3).
        let operations = storage.take_recorded();
        let is_batch = |operation: &Operation| matches!(operation, Operation::Write(_, offset, _) if *offset > 64);
        let batch = operations.iter().position(is_batch).unwrap();
        assert!(matches!(
            operations[..batch],
            [.., Operation::Write(_, 64, _), Operation::Sync(_)]
        ));
        log.append(&entries(LINE, 5..=6), false).unwrap();
        for mut log in [log, open(&storage).0, after_power_cut(&storage)] {
            assert_eq!(numbers(&mut log, LINE), [1, 2, 3, 4, 5, 6]);
            assert_eq!(log.fetch(LINE, 4).unwrap().unwrap().content, other.head, "step {step}");
            let fours = replayed(&mut log, Position::default());
            assert_eq!(fours.iter().filter(|found| found.lines[0].1 == 4).count(), 1);
        }
    }
}

// L10
#[test]
fn a_restart_after_a_failed_sync_serves_what_the_disk_has_and_not_what_memory_shows() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    log.append(&entries(LINE, 1..=3), false).unwrap();
    storage.set_faults(Faults {
        keep_failing: true,
        ..fail_after(1)
    });
    log.append(&entries(LINE, 4..=6), false).unwrap_err();
    drop(log);
    storage.set_faults(Faults::default());
    let (mut log, _) = open(&storage);
    let served = numbers(&mut log, LINE);
    assert_eq!(numbers(&mut after_power_cut(&storage), LINE), served);
}

#[test]
fn a_write_may_take_less_than_it_is_given() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    storage.set_faults(Faults {
        write_max: Some(7),
        ..Faults::default()
    });
    log.append(&entries(LINE, 1..=30), false).unwrap();
    assert_eq!(
        numbers(&mut after_power_cut(&storage), LINE),
        (1..=30).collect::<Vec<_>>()
    );
}

// M-G6
#[test]
fn a_full_disk_refuses_messages_and_still_takes_what_is_essential() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    while log.upkeep().unwrap() {}
    let (mut seq, mut essential) = (0, 0);
    storage.set_faults(full_at(bytes(&storage) + 8000));
    loop {
        match log.append(&[entry(LINE, seq + 1, 300)], false) {
            Ok(_) => seq += 1,
            Err(error) => {
                assert!(matches!(error, AppendError::Full), "{error}");
                break;
            }
        }
        drop(log.upkeep());
    }
    assert!(seq > 10);
    storage.set_faults(full_at(bytes(&storage)));
    for _ in 0..3 {
        assert!(matches!(
            log.append(&[entry(LINE, seq + 1, 3000)], false),
            Err(AppendError::Full)
        ));
    }
    assert!(storage.contents().contains_key("reserve"), "it is not for messages");
    assert!(log.upkeep().is_err());
    // The reserve is one segment.
    while log.append(&[entry(OTHER, essential + 1, 300)], true).is_ok() {
        essential += 1;
        assert!(matches!(
            log.append(&[entry(LINE, seq + 1, 300)], false),
            Err(AppendError::Full)
        ));
    }
    assert!(essential >= 8, "{essential}");
    assert_eq!(numbers(&mut log, LINE), (1..=seq).collect::<Vec<_>>());
    assert_eq!(
        numbers(&mut after_power_cut(&storage), OTHER),
        (1..=essential).collect::<Vec<_>>()
    );

    // It recovers by itself when there is space, and the reserve comes back first.
    storage.set_faults(Faults::default());
    while log.upkeep().unwrap() {}
    assert!(storage.contents().contains_key("reserve"));
    log.append(&[entry(LINE, seq + 1, 300)], false).unwrap();
    log.append(&[entry(OTHER, essential + 1, 300)], true).unwrap();
    assert_eq!(numbers(&mut open(&storage).0, LINE), (1..=seq + 1).collect::<Vec<_>>());
}

// M-G6
#[test]
fn a_log_on_a_full_disk_can_be_opened_read_and_tidied_up() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    while log.upkeep().unwrap() {}
    for seq in 1..=50 {
        let at = log.append(&[entry(LINE, seq, 300)], false).unwrap()[0];
        if seq == 40 {
            log.checkpoint(b"one", at.after()).unwrap();
            log.checkpoint(b"two", at.after()).unwrap();
        }
    }
    drop(log);
    storage.set_faults(full_at(bytes(&storage)));
    let (mut log, _) = open(&storage);
    assert_eq!(numbers(&mut log, LINE), (1..=50).collect::<Vec<_>>());
    log.append(&[entry(LINE, 51, 300)], true).unwrap();
    assert!(log.release(|_, _, to| to <= 40).segments > 2);
    while log.upkeep().unwrap() {}
    log.append(&[entry(LINE, 52, 300)], false).unwrap();
}

// M-G6
#[test]
fn the_share_of_the_queue_is_a_limit_for_messages() {
    let storage = MemoryStorage::default();
    let options = Options {
        bytes_max: 40_000,
        ..options()
    };
    let (mut log, _) = Log::open(storage, options).unwrap();
    let mut seq = 0;
    while log.append(&[entry(LINE, seq + 1, 500)], false).is_ok() {
        seq += 1;
    }
    let space = log.space().unwrap();
    assert!(space.used <= 40_000 && space.percent() >= 85, "{space:?}");
    log.append(&[entry(LINE, seq + 1, 500)], true).unwrap();
}

// A2 of the queue: without a checkpoint, or with one that failed, everything is still there.
#[test]
fn a_checkpoint_that_fails_leaves_the_last_one() {
    for step in 0..6 {
        let storage = MemoryStorage::default();
        let (mut log, _) = open(&storage);
        let at = log.append(&entries(LINE, 1..=3), false).unwrap()[0];
        log.checkpoint(b"good", at).unwrap();
        storage.set_faults(fail_after(step));
        let result = log.checkpoint(b"later", at);
        storage.set_faults(Faults::default());
        for (storage, is_crash) in [
            (storage.clone(), false),
            (storage.crashed(&mut fastrand::Rng::with_seed(step), 512), true),
        ] {
            let state = open(&storage).1.state.unwrap();
            assert!(
                state == b"later" || (state == b"good" && result.is_err()),
                "step {step} {is_crash}"
            );
        }
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_an_error_and_no_damage() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    log.append(&entries(LINE, 1..=3), false).unwrap();
    storage.set_faults(Faults {
        fail_reads: true,
        ..Faults::default()
    });
    assert!(log.fetch(LINE, 1).is_err());
    assert!(log.replay(Position::default(), |_| ()).is_err());
    storage.set_faults(Faults::default());
    assert_eq!(numbers(&mut log, LINE), [1, 2, 3]);
    assert_eq!(log.take_damage(), []);
}

// L3: the long form of the crash states found this one.
#[test]
fn a_file_that_failed_and_could_not_be_removed_is_no_segment_of_a_log_that_has_a_checkpoint() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    log.append(&[entry(LINE, 1, 3900)], false).unwrap();
    // Creating the next segment takes four operations, and the batch is written; then everything fails.
    storage.set_faults(Faults {
        keep_failing: true,
        ..fail_after(5)
    });
    log.append(&[entry(LINE, 2, 100)], false).unwrap_err();
    storage.set_faults(Faults::default());
    let other = entry(LINE, 2, 50);
    log.append(std::slice::from_ref(&other), false).unwrap();
    let last = log.append(&[entry(LINE, 3, 3900)], false).unwrap()[0];
    log.checkpoint(b"state", last).unwrap();
    drop(log);
    let files = storage.contents().len();
    let (mut log, _) = open(&storage);
    assert_eq!(log.fetch(LINE, 2).unwrap().unwrap().content, other.head);
    assert_eq!(storage.contents().len(), files, "one is gone, and one is new");
}

// L3, M-B2. Symptom: after a power cut a segment looked damaged, and messages came again. Cause: a file that failed and could not be
// removed was told from segments by those that a checkpoint knows, and all of them had been released. Fix: what a checkpoint
// covers tells them, too.
#[test]
fn a_file_that_failed_is_no_segment_either_when_all_that_the_checkpoint_knew_are_released() {
    let storage = MemoryStorage::default();
    let (mut log, _) = open(&storage);
    log.append(&[entry(LINE, 1, 3900)], false).unwrap();
    storage.set_faults(Faults {
        keep_failing: true,
        ..fail_after(5)
    });
    log.append(&[entry(LINE, 2, 100)], false).unwrap_err();
    storage.set_faults(Faults::default());
    log.append(&[entry(LINE, 2, 50)], false).unwrap();
    let last = log.append(&[entry(LINE, 3, 3900)], false).unwrap()[0];
    for state in [b"one", b"two"] {
        log.checkpoint(state, last.after()).unwrap();
    }
    assert_eq!(log.release(|_, _, to| to <= 2).segments, 2);
    log.checkpoint(b"three", last.after()).unwrap();
    drop(log);
    let (mut log, recovery) = open(&storage);
    assert_eq!((recovery.damage, recovery.torn), (Vec::new(), None));
    assert_eq!(numbers(&mut log, LINE), [3]);
}

// F5, M-A4: the number of a damaged record may be there again, in the same file or in another one.
#[test]
fn a_damaged_record_does_not_hide_a_good_one_with_its_number() {
    for (bytes, only_one) in [(100, false), (4000, false), (100, true)] {
        let storage = MemoryStorage::default();
        let (mut log, _) = open(&storage);
        log.append(&[entry(LINE, 1, bytes)], false).unwrap();
        log.append(&[entry(LINE, 2, bytes)], false).unwrap();
        log.append(&[entry(LINE, 2, bytes)], false).unwrap();
        let last = if only_one { 2 } else { 3 };
        log.append(&[entry(LINE, last, bytes)], false).unwrap();
        let mut contents = storage.contents();
        let content = format!("{:x}/2/", LINE.0).into_bytes();
        let place = |file: &Vec<u8>| file.windows(content.len()).position(|window| window == content);
        let (file, at) = contents
            .values_mut()
            .find_map(|file| Some((place(file)?, file)))
            .map(|(at, file)| (file, at))
            .unwrap();
        file[at] ^= 1;
        let (mut log, _) = open(&MemoryStorage::with(contents));
        let expected: Vec<Seq> = (1..=last).collect();
        assert_eq!(numbers(&mut log, LINE), expected);
        assert_eq!(
            log.fetch(LINE, 2).unwrap().map(|found| found.lines),
            Some(vec![(LINE, 2)])
        );
    }
}

// L12, M-A4
#[test]
fn bytes_that_cannot_be_read_are_damage_after_some_patience_and_at_once_at_the_start() {
    let storage = MemoryStorage::default();
    let options = Options {
        segment_bytes: 64 * 1024,
        ..options()
    };
    let (mut log, _) = Log::open(storage.clone(), options).unwrap();
    // The second segment is shorter than where the fault is.
    for seq in 1..=150 {
        log.append(&[entry(LINE, seq, 400)], false).unwrap();
    }
    storage.set_faults(Faults {
        unreadable: Some((8192, 12_288)),
        ..Faults::default()
    });
    let scan = Scan {
        line: LINE,
        from: 1,
        messages_max: 1000,
        bytes_max: 1 << 20,
    };
    for _ in 0..PATIENCE {
        assert!(log.scan(scan).is_err());
    }
    let found: Vec<Seq> = log.scan(scan).unwrap().found.into_iter().map(|(seq, _)| seq).collect();
    let lost: Vec<Seq> = (1..=150).filter(|seq| !found.contains(seq)).collect();
    assert!((8..13).contains(&lost.len()), "{lost:?}");
    assert!(
        lost.iter().zip(lost.iter().skip(1)).all(|(a, b)| a + 1 == *b),
        "{lost:?}"
    );
    assert!(!log.take_damage().is_empty());
    let (mut log, recovery) = Log::open(storage, options).unwrap();
    assert!(!recovery.damage.is_empty());
    let mut replayed = 0;
    log.replay(Position::default(), |_| replayed += 1).unwrap();
    assert_eq!(replayed, found.len());
}

// L12: segments with bytes that cannot be read are merged nevertheless, and give their space back.
#[test]
fn segments_with_bytes_that_cannot_be_read_are_merged_after_some_patience() {
    let storage = MemoryStorage::default();
    let options = Options {
        segment_bytes: 32 * 1024,
        ..options()
    };
    let (mut log, _) = Log::open(storage.clone(), options).unwrap();
    let mut end = Position::default();
    for seq in 1..=400 {
        end = log.append(&[entry(LINE, seq, 200)], false).unwrap()[0];
    }
    for state in [b"one", b"two"] {
        log.checkpoint(state, end.after()).unwrap();
    }
    let is_wanted = |seq: Seq| seq.is_multiple_of(17);
    let count = |_, from, to| u64::try_from((from..=to).filter(|seq| is_wanted(*seq)).count()).unwrap();
    let sparse = log.sparse(count).unwrap();
    storage.set_faults(Faults {
        unreadable: Some((8192, 12_288)),
        ..Faults::default()
    });
    let mut tries = 0..PATIENCE * 10;
    assert!(log.merge(&sparse, |_, seq| is_wanted(seq)).is_err());
    assert!(tries.any(|_| log.merge(&sparse, |_, seq| is_wanted(seq)).is_ok()));
    storage.set_faults(Faults::default());
    let left = read(&mut log, LINE);
    let wanted = (1..=300).filter(|seq| is_wanted(*seq));
    let lost = wanted.clone().filter(|seq| !left.contains_key(seq)).count();
    assert!((1..6).contains(&lost), "{lost} of {}", wanted.count());
}

// L9: symptom: after a crash, records were gone that nobody was done with. Cause: a merge that failed at its very end left its file;
// a later one of more segments had the same generation, so that a restart could take the first for as good, and drop the rest.
#[test]
fn a_merge_that_failed_is_never_taken_for_a_later_one_of_more_segments() {
    let options = Options {
        segment_bytes: 32 * 1024,
        ..options()
    };
    for (fail_after, seed) in (0..12).flat_map(|fail_after| (0..8).map(move |seed| (fail_after, seed))) {
        let storage = MemoryStorage::default();
        let (mut log, _) = Log::open(storage.clone(), options).unwrap();
        let mut end = Position::default();
        for seq in 1..=600 {
            end = log.append(&[entry(LINE, seq, 200)], false).unwrap()[0];
        }
        for state in [b"one", b"two"] {
            log.checkpoint(state, end.after()).unwrap();
        }
        let is_wanted = |seq: Seq| seq.is_multiple_of(17);
        let count = |_, from, to| u64::try_from((from..=to).filter(|seq| is_wanted(*seq)).count()).unwrap();
        let sparse = log.sparse(count).unwrap();
        let before = read(&mut log, LINE);
        assert!(sparse.len() > 2);
        storage.set_faults(Faults {
            fail_after: Some(fail_after),
            ..Faults::default()
        });
        drop(log.merge(&sparse[..2], |_, seq| is_wanted(seq)));
        storage.set_faults(Faults::default());
        drop(log.merge(&sparse, |_, seq| is_wanted(seq)));
        let storage = storage.crashed(&mut fastrand::Rng::with_seed(seed), 512);
        let (mut log, _) = Log::open(storage, options).unwrap();
        let left = read(&mut log, LINE);
        let lost = before.keys().filter(|seq| is_wanted(**seq) && !left.contains_key(*seq));
        assert_eq!(lost.count(), 0, "fails after {fail_after}, seed {seed}");
    }
}
