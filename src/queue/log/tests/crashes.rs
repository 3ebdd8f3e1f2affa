//! Crashes at every step: the operations of a run on the storage are recorded; for each prefix of them, and parts of what was
//! not synced then, the log is opened and checked (M-A4, L10, L11).
//!
//! `LOG_CRASH_STATES` says how many states; 100,000 by default, the long form takes 1,000,000.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// What a run wrote and what it was told, with the number of operations on the storage at that moment.
#[derive(Default)]
struct Ledger {
    /// In the order of writing: when it was submitted, and when it was acknowledged.
    written: Vec<Written>,
    /// Numbers that were declared done.
    done: Vec<(usize, LineId, Seq)>,
    /// Checkpoints that were acknowledged, and how many acknowledged records their state has.
    checkpoints: Vec<(usize, u64)>,
    /// The disk took writes in pieces that were no sectors: a half of one may be there (L15).
    pieces: bool,
}

struct Written {
    line: LineId,
    seq: Seq,
    content: Bytes,
    submitted: usize,
    acked: Option<usize>,
    /// Number among those acknowledged.
    index: u64,
}

/// A run under way.
struct Run {
    storage: MemoryStorage,
    log: Log<MemoryStorage>,
    dice: fastrand::Rng,
    ledger: Ledger,
    next: BTreeMap<LineId, Seq>,
    done: BTreeSet<(LineId, Seq)>,
    last: Position,
    acked: u64,
    faults: bool,
}

const LINES: [LineId; 3] = [LineId(3), LineId(u64::MAX), LineId(77)];

/// Steps of a run, at least: every third is short, every third long.
const STEPS: u64 = 30;

fn small(seed: u64) -> Options {
    Options {
        segment_bytes: 2048,
        seed,
        ..options()
    }
}

impl Run {
    fn new(seed: u64, faults: bool) -> Self {
        let storage = MemoryStorage::default();
        storage.record();
        Self {
            log: Log::open(storage.clone(), small(seed)).unwrap().0,
            storage,
            dice: fastrand::Rng::with_seed(seed),
            ledger: Ledger {
                pieces: faults,
                ..Ledger::default()
            },
            next: LINES.iter().map(|line| (*line, 1)).collect(),
            done: BTreeSet::new(),
            last: Position::default(),
            acked: 0,
            faults,
        }
    }

    fn step(&mut self) {
        match self.dice.u8(..20) {
            0..=11 => self.append(),
            12 | 13 => drop(self.log.upkeep()),
            14 | 15 => self.checkpoint(),
            16 | 17 => self.release(),
            18 => self.merge(),
            _ if self.dice.u8(..8) == 0 => self.reopen(),
            _ if self.faults => self.storage.set_faults(Faults {
                fail_after: Some(self.dice.u64(..9)),
                keep_failing: self.dice.u8(..4) == 0,
                write_max: Some(self.dice.usize(1..2000)),
                ..Faults::default()
            }),
            _ => {}
        }
    }

    /// What is found is stored now, and its numbers are taken, whatever was said when it was written.
    fn reopen(&mut self) {
        self.storage.set_faults(Faults::default());
        self.log = Log::open(self.storage.clone(), small(self.dice.u64(..))).unwrap().0;
        let now = self.storage.recorded_len();
        for found in replayed(&mut self.log, Position::default()) {
            self.last = self.last.max(found.position);
            let mut is_new = false;
            for (line, seq) in &found.lines {
                let next = self.next.get_mut(line).unwrap();
                *next = (*next).max(seq + 1);
                let of_it = |written: &&mut Written| written.content == found.content && written.line == *line;
                let written = self.ledger.written.iter_mut().find(of_it).unwrap();
                if written.acked.is_none() {
                    (written.acked, written.index) = (Some(now), self.acked);
                    is_new = true;
                }
            }
            self.acked += u64::from(is_new);
        }
    }

    fn append(&mut self) {
        let mut batch = Vec::new();
        let before = self.next.clone();
        for _ in 0..self.dice.usize(1..6) {
            let mut lines = Vec::new();
            for line in LINES {
                if lines.is_empty() && line == LINES[2] || self.dice.u8(..3) == 0 {
                    let seq = self.next.get_mut(&line).unwrap();
                    lines.push((line, *seq));
                    *seq += 1;
                }
            }
            let mut content = vec![self.dice.u8(..); self.dice.usize(..400)];
            content.extend_from_slice(&self.dice.u64(..).to_be_bytes());
            batch.push(Entry {
                kind: 1,
                lines,
                head: content.into(),
                message: None,
            });
        }
        let submitted = self.storage.recorded_len();
        let result = self.log.append(&batch, self.dice.bool());
        let acked = result.is_ok().then(|| self.storage.recorded_len());
        for entry in batch {
            for (line, seq) in entry.lines {
                self.ledger.written.push(Written {
                    line,
                    seq,
                    content: entry.head.clone(),
                    submitted,
                    acked,
                    index: self.acked,
                });
            }
            self.acked += u64::from(acked.is_some());
        }
        match result {
            Ok(positions) => self.last = *positions.last().unwrap(),
            // Numbers that are not on disk are given again.
            Err(_) => self.next = before,
        }
        if self.dice.bool() {
            self.storage.set_faults(Faults::default());
        }
    }

    fn checkpoint(&mut self) {
        let state = self.acked.to_be_bytes();
        if self.log.checkpoint(&state, self.last.after()).is_ok() {
            self.ledger.checkpoints.push((self.storage.recorded_len(), self.acked));
        }
    }

    fn release(&mut self) {
        let now = self.storage.recorded_len();
        for (line, next) in &self.next {
            let to = next.saturating_sub(self.dice.u64(1..20));
            for seq in 1..=to {
                if self.dice.u8(..10) > 0 && self.done.insert((*line, seq)) {
                    self.ledger.done.push((now, *line, seq));
                }
            }
        }
        let done = &self.done;
        self.log
            .release(|line, from, to| (from..=to).all(|seq| done.contains(&(line, seq))));
    }

    fn merge(&mut self) {
        let done = &self.done;
        let open = |line, from: Seq, to: Seq| (from..=to).filter(|seq| !done.contains(&(line, *seq))).count();
        let sparse = self
            .log
            .sparse(|line, from, to| u64::try_from(open(line, from, to)).unwrap());
        if let Some(segments) = sparse {
            drop(self.log.merge(&segments, |line, seq| !done.contains(&(line, seq))));
        }
    }
}

/// What must hold for a log that is opened after so many operations.
struct Truth<'a> {
    ledger: &'a Ledger,
    /// What was acknowledged and is not done.
    open: BTreeMap<(LineId, Seq), &'a Written>,
    acked: BTreeMap<(LineId, Seq), &'a Written>,
    submitted: BTreeMap<(LineId, Seq), Vec<&'a Written>>,
    /// Acknowledged checkpoint.
    state: Option<u64>,
}

impl<'a> Truth<'a> {
    fn at(ledger: &'a Ledger, operations: usize) -> Self {
        let mut truth = Self {
            ledger,
            open: BTreeMap::new(),
            acked: BTreeMap::new(),
            submitted: BTreeMap::new(),
            state: None,
        };
        for written in ledger.written.iter().filter(|written| written.submitted <= operations) {
            let place = (written.line, written.seq);
            truth.submitted.entry(place).or_default().push(written);
            if written.acked.is_some_and(|acked| acked <= operations) {
                truth.acked.insert(place, written);
            }
        }
        truth.open = truth.acked.clone();
        for (_, line, seq) in ledger.done.iter().filter(|(at, ..)| *at <= operations) {
            truth.open.remove(&(*line, *seq));
        }
        let checkpoints = ledger.checkpoints.iter().filter(|(at, _)| *at <= operations);
        truth.state = checkpoints.map(|(_, acked)| *acked).max();
        truth
    }

    /// What the opened log says.
    fn check(&self, log: &mut Log<MemoryStorage>, recovery: &Recovery) -> Vec<BTreeMap<Seq, Bytes>> {
        let may_be = |damage: &Damage| damage.unfinished && self.ledger.pieces;
        assert!(recovery.damage.iter().all(may_be), "{recovery:?}");
        assert!(!recovery.state_lost);
        let state = recovery
            .state
            .as_ref()
            .map(|state| u64::from_be_bytes(state[..].try_into().unwrap()));
        assert!(
            state >= self.state,
            "an acknowledged checkpoint is lost: {state:?} {:?}",
            self.state
        );
        let mut replayed = BTreeMap::new();
        log.replay(recovery.replay_from, |found| {
            for place in found.lines {
                replayed.insert(place, found.content.clone());
            }
        })
        .unwrap();
        for (place, written) in &self.acked {
            if written.index >= state.unwrap_or_default() {
                assert_eq!(replayed.get(place), Some(&written.content), "replayed {place:?}");
            }
        }
        let all: Vec<_> = LINES.iter().map(|line| read_by(log, *line, 100)).collect();
        for (line, found) in LINES.iter().zip(&all) {
            for (seq, content) in found {
                let place = (*line, *seq);
                let submitted = self.submitted.get(&place).expect("nothing is invented");
                assert!(
                    submitted.iter().any(|written| written.content == *content),
                    "torn: {place:?}"
                );
                if let Some(acked) = self.acked.get(&place) {
                    assert_eq!(
                        acked.content, *content,
                        "an older record of a number that was given again: {place:?}"
                    );
                }
            }
        }
        for (line, seq) in self.open.keys() {
            let at = LINES.iter().position(|other| other == line).unwrap();
            assert!(
                all[at].contains_key(seq),
                "lost: {line:?} {seq}; {} written",
                self.ledger.written.len()
            );
        }
        all
    }
}

/// Opens what a crash left, again, and after a crash on the way.
fn check_state(truth: &Truth<'_>, left: &MemoryStorage, dice: &mut fastrand::Rng) -> u64 {
    let again = (dice.u8(..4) == 0).then(|| left.fork());
    let (mut log, recovery) = Log::open(left.clone(), small(dice.u64(..))).unwrap();
    let all = truth.check(&mut log, &recovery);
    if dice.u8(..4) == 0 {
        let (mut log, recovery) = Log::open(left.fork(), small(dice.u64(..))).unwrap();
        assert_eq!(recovery.torn, None);
        assert_eq!(truth.check(&mut log, &recovery), all, "opening changed something");
    }
    let Some(again) = again else { return 1 };
    check_opening(truth, &again, dice);
    2
}

/// The power goes out while the log is opened.
fn check_opening(truth: &Truth<'_>, found: &MemoryStorage, dice: &mut fastrand::Rng) {
    let replica = found.fork();
    found.record();
    drop(Log::open(found.clone(), small(dice.u64(..))).unwrap());
    let operations = found.take_recorded();
    for operation in &operations[..dice.usize(..=operations.len())] {
        replica.apply(operation);
    }
    let left = replica.crashed(dice, 512);
    let (mut log, recovery) = Log::open(left, small(dice.u64(..))).unwrap();
    truth.check(&mut log, &recovery);
}

/// The process is killed, its successor opens the log, and then the power goes out: what the successor served was on the disk.
fn check_kill(truth: &Truth<'_>, left: &MemoryStorage, dice: &mut fastrand::Rng) -> u64 {
    let (mut log, recovery) = Log::open(left.clone(), small(dice.u64(..))).unwrap();
    let served = truth.check(&mut log, &recovery);
    for _ in 0..2 {
        let left = left.crashed(dice, 512);
        let (mut log, recovery) = Log::open(left, small(dice.u64(..))).unwrap();
        assert_eq!(
            truth.check(&mut log, &recovery),
            served,
            "what was served is not on the disk"
        );
    }
    3
}

fn check_run(seed: u64, samples: usize) -> u64 {
    let mut run = Run::new(seed, seed % 2 == 1);
    for _ in 0..STEPS * (1 + seed % 3) {
        run.step();
    }
    let operations = run.storage.take_recorded();
    let replica = MemoryStorage::default();
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut states = 0;
    for done in 0..=operations.len() {
        if let Some(operation) = done.checked_sub(1).map(|last| &operations[last]) {
            replica.apply(operation);
        }
        let truth = Truth::at(&run.ledger, done);
        states += check_kill(&truth, &replica.fork(), &mut dice);
        for sample in 0..samples {
            let left = replica.crashed(&mut dice, if sample % 2 == 0 { 512 } else { 4096 });
            states += check_state(&truth, &left, &mut dice);
        }
    }
    states
}

fn check_states(wanted: u64) {
    let (states, seed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while states.load(Ordering::Relaxed) < wanted {
                    let seed = seed.fetch_add(1, Ordering::Relaxed);
                    let result = std::panic::catch_unwind(|| check_run(seed, 9));
                    let more = result.unwrap_or_else(|_| {
                        states.store(u64::MAX / 2, Ordering::Relaxed);
                        panic!("seed {seed}")
                    });
                    states.fetch_add(more, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} crash states of {} runs", states.into_inner(), seed.into_inner());
}

// M-A4, I14
#[test]
fn whatever_a_crash_leaves_nothing_acknowledged_is_lost_and_nothing_torn_is_served() {
    let states = std::env::var("LOG_CRASH_STATES").ok();
    check_states(states.map_or(100_000, |states| states.parse().unwrap()));
}

#[test]
#[ignore = "the long form of the test above: minutes, ten times the states"]
fn whatever_a_crash_leaves_long() {
    check_states(1_000_000);
}
