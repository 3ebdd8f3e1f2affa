//! Two ends in a row: a process that tidies up is killed, and the start after it is killed too, or the power goes out in the middle of it;
//! both wherever names change. And files that are gone.

use super::*;
use crate::queue::line::Settled;
use crate::queue::planted::{Bug, plant};

/// What a process has of the log, and where its last record is.
struct Written {
    files: MemoryStorage,
    last: Position,
    done: Settled,
}

impl Written {
    /// Some segments; one message of `wanted` is not done with.
    fn new(wanted: u64) -> Self {
        let files = MemoryStorage::default();
        let (mut log, _) = open_seeded(&files, 1);
        let mut last = Position::default();
        for first in (1..LAST).step_by(5) {
            last = *log
                .append(&entries(LINE, first..=first + 4), false)
                .unwrap()
                .last()
                .unwrap();
        }
        let mut done = Settled::default();
        for seq in (1..=LAST).filter(|seq| !seq.is_multiple_of(wanted)) {
            done.insert(seq);
        }
        Self { files, last, done }
    }

    fn tidy(&self, files: &MemoryStorage) {
        let (mut log, _) = open_seeded(files, 2);
        for _ in 0..2 {
            log.checkpoint(b"state", self.last.after()).unwrap();
        }
        let wanted = |_, from: Seq, to: Seq| to - from + 1 - self.done.done_between(from, to);
        let sparse = log.sparse(wanted);
        log.release(|line, from, to| wanted(line, from, to) == 0);
        let freed = log.merge(&sparse.unwrap(), |_, seq| !self.done.contains(seq));
        assert!(freed.unwrap().segments > 0);
    }

    /// Whether all that is wanted is there, and whether what comes next is written behind it.
    fn check(&self, files: &MemoryStorage) {
        let (mut log, recovery) = open_seeded(files, 3);
        assert!(recovery.damage.is_empty() && !recovery.state_lost, "{recovery:?}");
        let found = numbers(&mut log, LINE);
        for seq in (1..=LAST).filter(|seq| !self.done.contains(*seq)) {
            assert!(found.contains(&seq), "{seq} is gone");
        }
        let position = log.append(&[entry(LINE, LAST + 1, 9)], false).unwrap()[0];
        assert!(position > self.last, "{position:?} is not behind {:?}", self.last);
    }
}

/// What something does to files.
fn operations(files: &MemoryStorage, act: impl FnOnce(&MemoryStorage)) -> Vec<Operation> {
    let files = files.fork();
    files.record();
    act(&files);
    files.take_recorded()
}

/// What is there if a process is killed before each of its changes of names, or at its end.
fn killed<'a>(files: &'a MemoryStorage, all: &'a [Operation]) -> impl Iterator<Item = MemoryStorage> + 'a {
    let is_end = |at: &usize| {
        all.get(*at).is_none_or(|operation| {
            matches!(
                operation,
                Operation::Create(..) | Operation::Remove(_) | Operation::Rename(..) | Operation::SyncDir
            )
        })
    };
    (0..=all.len()).filter(is_end).map(|end| {
        let left = files.fork();
        all[..end].iter().for_each(|operation| left.apply(operation));
        left
    })
}

fn check_two_ends() {
    let written = Written::new(9);
    let tidies = operations(&written.files, |files| written.tidy(files));
    let mut dice = fastrand::Rng::with_seed(1);
    for left in killed(&written.files, &tidies) {
        let starts = operations(&left, |files| drop(open_seeded(files, 4)));
        for half in killed(&left, &starts) {
            written.check(&half.fork());
            for _ in 0..CUTS {
                written.check(&half.crashed(&mut dice, 512));
            }
        }
    }
}

// L9, L11, M-A4. A name that only the operating system knew is not what the files that it replaces are removed for: a power cut would
// leave neither.
#[test]
fn a_start_that_ends_on_its_way_loses_nothing_of_what_a_kill_left_half_done() {
    check_two_ends();
    plant(Some(Bug::ReplacedBeforeSync));
    let found = std::panic::catch_unwind(check_two_ends);
    plant(None);
    assert!(found.is_err(), "this test is blind");
}

// M-A1. No release removes the segment in which a checkpoint ends, so that one says which numbers were given; whoever loses its file, or
// moves it away, has only the checkpoint to say so. Lower numbers would count as covered by it, and be gone with the next start.
#[test]
fn numbers_of_segments_go_on_behind_those_that_are_gone() {
    let check = || {
        let written = Written::new(LAST + 1);
        {
            let (mut log, _) = open_seeded(&written.files, 2);
            log.checkpoint(b"state", written.last.after()).unwrap();
        }
        let left = written.files.contents().into_iter();
        let files = MemoryStorage::with(left.filter(|(name, _)| !name.ends_with(".segment")));
        written.check(&files);
        let (mut log, _) = open_seeded(&files, 5);
        assert_eq!(numbers(&mut log, LINE), [LAST + 1], "it is there after another start");
    };
    check();
    plant(Some(Bug::NextForgotten));
    let found = std::panic::catch_unwind(check);
    plant(None);
    assert!(found.is_err(), "this test is blind");
}

const LAST: Seq = 120;
/// Power cuts of each state.
const CUTS: usize = 12;
