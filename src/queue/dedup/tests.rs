use super::*;

fn settings(window_s: u64, messages_max: u64) -> DedupSettings {
    DedupSettings {
        window: Duration::from_secs(window_s),
        messages_max,
    }
}

fn print(n: u32) -> Print {
    Print([n, n.wrapping_mul(0x9e37_79b9), 7])
}

fn first(number: u64) -> First {
    First { epoch: 5, number }
}

fn at(seconds: u64) -> UnixMillis {
    UnixMillis(seconds * 1000)
}

/// Stores messages `numbers`, one each second.
fn store(dedup: &mut Dedup, numbers: std::ops::Range<u32>) {
    for n in numbers {
        dedup.on_stored(print(n), first(u64::from(n)), at(u64::from(n)));
    }
}

#[test]
fn a_duplicate_is_known_for_the_window_and_an_eighth_more_at_most() {
    // M-B3, U2
    let mut dedup = Dedup::new(&settings(800, 1000));
    store(&mut dedup, 1..200);
    assert_eq!(dedup.look_up(&print(7)), Some(first(7)));
    dedup.expire(at(806));
    assert_eq!(dedup.look_up(&print(7)), Some(first(7)));
    dedup.expire(at(7 + 901));
    assert_eq!(dedup.look_up(&print(7)), None);
    assert_eq!(dedup.look_up(&print(150)), Some(first(150)));
}

#[test]
fn too_many_messages_push_out_the_oldest_and_are_counted() {
    let mut dedup = Dedup::new(&settings(1_000_000, 80));
    store(&mut dedup, 1..101);
    assert!(dedup.len() <= 80 && dedup.len() > 70 - 10, "{}", dedup.len());
    assert_eq!(dedup.look_up(&print(100)), Some(first(100)));
    assert_eq!(dedup.look_up(&print(1)), None);
    assert_eq!(dedup.evicted() + u64::try_from(dedup.len()).unwrap(), 100);
}

#[test]
fn what_is_remembered_survives_a_restart_by_snapshot_and_chunks() {
    // M-B3, U1
    let mut dedup = Dedup::new(&settings(86_400, 1_000_000));
    store(&mut dedup, 1..5001);
    let chunk = dedup.take_chunk().unwrap();
    assert!(dedup.take_chunk().is_none(), "one at a time");
    assert_eq!((chunk.number, chunk.entries.len()), (1, CHUNK_ENTRIES));
    let before = dedup.snapshot();
    dedup.on_chunk(&chunk);
    let after = dedup.snapshot();
    assert!(after.fresh.len() < before.fresh.len());
    for (snapshot, in_log) in [(before, true), (after, false)] {
        let mut restarted = Dedup::new(&settings(86_400, 1_000_000));
        restarted.restore(snapshot);
        if !in_log {
            restarted.on_chunk_read(&chunk);
        }
        restarted.on_all_read();
        if in_log {
            restarted.on_chunk(&chunk);
            restarted.on_chunk_read(&chunk);
        }
        assert_eq!(restarted.first_chunk(), Some(1));
        for n in 1..5001 {
            assert_eq!(restarted.look_up(&print(n)), Some(first(u64::from(n))), "{n}");
        }
        assert_eq!(restarted.len(), 5000);
        assert_eq!(restarted.fresh.len(), 5000 - CHUNK_ENTRIES);
    }
}

#[test]
fn a_chunk_is_done_when_the_window_has_passed_it() {
    let mut dedup = Dedup::new(&settings(1000, 1_000_000));
    store(&mut dedup, 1..10_001);
    for _ in 0..2 {
        let chunk = dedup.take_chunk().unwrap();
        dedup.on_chunk(&chunk);
    }
    assert_eq!(dedup.done_between(1, 2), 0);
    dedup.expire(at(4096 + 1000));
    assert_eq!((dedup.done_between(1, 2), dedup.done_between(2, 2)), (1, 0));
    dedup.expire(at(20_000));
    assert_eq!((dedup.done_between(1, 2), dedup.first_chunk()), (2, None));
    assert!(dedup.is_empty());
}

#[test]
fn after_a_failed_write_the_same_entries_are_written_again() {
    let mut dedup = Dedup::new(&settings(86_400, 1_000_000));
    store(&mut dedup, 1..5001);
    let lost = dedup.take_chunk().unwrap();
    dedup.rollback();
    assert_eq!(dedup.take_chunk(), Some(lost));
}

#[test]
fn entries_are_read_as_they_were_written() {
    let chunk = Chunk {
        number: 1,
        epoch: 2,
        at: at(3),
        entries: (0..100).map(|n| (print(n), u64::from(n) << 40)).collect(),
    };
    assert_eq!(
        Chunk::entries_from_bytes(&chunk.entries_as_bytes()),
        Some(chunk.entries)
    );
    assert_eq!(Chunk::entries_from_bytes(&[0; 21]), None);
}

#[test]
fn after_a_restart_the_newest_are_not_forgotten_before_older_ones() {
    // M-B3, U2
    let settings = settings(1_000_000, 80_000);
    let mut dedup = Dedup::new(&settings);
    let mut chunks = Vec::new();
    for n in 1..=76_000 {
        store(&mut dedup, n..n + 1);
        if let Some(chunk) = dedup.take_chunk() {
            dedup.on_chunk(&chunk);
            chunks.push(chunk);
        }
    }
    let mut restarted = Dedup::new(&settings);
    restarted.restore(dedup.snapshot());
    for chunk in &chunks {
        restarted.on_chunk_read(chunk);
    }
    restarted.on_all_read();
    store(&mut restarted, 76_001..90_000);
    for n in [75_000, 76_000, 89_999] {
        assert_eq!(restarted.look_up(&print(n)), Some(first(u64::from(n))));
    }
    assert_eq!(restarted.look_up(&print(1)), None);
}
