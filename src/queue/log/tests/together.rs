//! One writes while another one reads and tidies up. Before each operation of either on the disk the other may have a turn: so
//! one thread does all that two can do to each other, and the same again for the same seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::queue::line::Settled;

/// A disk at which somebody else may have a turn before each operation.
#[derive(Clone, Default)]
struct Between {
    files: MemoryStorage,
    turn: Arc<Mutex<Option<Turn>>>,
}

type Turn = Box<dyn FnMut() + Send>;

impl Between {
    fn set_turn(&self, turn: Option<Turn>) {
        *self.turn.lock().unwrap() = turn;
    }

    /// The files, after the turn of the other one. Nobody has a turn within a turn.
    fn files(&self) -> &MemoryStorage {
        let turn = self.turn.lock().unwrap().take();
        if let Some(mut turn) = turn {
            turn();
            self.set_turn(Some(turn));
        }
        &self.files
    }
}

impl Storage for Between {
    type File = Arc<u64>;

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files().list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<u64>> {
        self.files().create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<u64>> {
        self.files().open(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files().rename(from, to)
    }
    fn read_at(&self, file: &Arc<u64>, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.files().read_at(file, offset, bytes)
    }
    fn write_at(&self, file: &Arc<u64>, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.files().write_at(file, offset, bytes)
    }
    fn set_len(&self, file: &Arc<u64>, len: u64) -> io::Result<()> {
        self.files().set_len(file, len)
    }
    fn sync_data(&self, file: &Arc<u64>) -> io::Result<Duration> {
        self.files().sync_data(file)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.files().sync_dir()
    }
    fn settle(&self, file: &Arc<u64>) -> io::Result<()> {
        self.files().settle(file)
    }
    fn free_and_total(&self) -> io::Result<(u64, u64)> {
        self.files().free_and_total()
    }
}

// Symptom: a message was told to be lost to damage on disk moments after it was acknowledged, and nothing was damaged. Cause: a
// scan read the segment that was written to up to where it ended when the scan came to it; more came into it, the next one
// began, and the scan went on there. Fix: what came while a scan read is left to the next one.
#[test]
fn a_scan_leaves_out_nothing_that_came_into_the_segment_that_it_read() {
    let disk = Between::default();
    let (log, _) = Log::open(disk.clone(), options()).unwrap();
    let (mut writer, mut reader, _keeper) = log.split();
    let first = writer.append(&entries(LINE, 1..=5), false).unwrap()[0];
    let mut more = (6..=200).step_by(5);
    disk.set_turn(Some(Box::new(move || {
        for first in more.by_ref() {
            writer.append(&entries(LINE, first..=first + 4), false).unwrap();
        }
    })));
    let mut scan = Scan {
        line: LINE,
        from: 1,
        messages_max: 1000,
        bytes_max: 1 << 20,
    };
    let mut all = Vec::new();
    loop {
        let scanned = reader.scan(scan).unwrap();
        all.extend(scanned.found.iter().map(|(seq, _)| *seq));
        scan.from = scanned.next.unwrap_or(all.last().unwrap() + 1);
        if scanned.found.is_empty() {
            break;
        }
    }
    let last = reader.fetch(LINE, 200).unwrap().unwrap();
    assert!(last.position.segment > first.segment + 1);
    assert_eq!(all, (1..=200).collect::<Vec<_>>());
}

/// What is known beside the log: what writers were told, and what groups are done with.
#[derive(Clone)]
struct Known {
    dice: fastrand::Rng,
    /// All of each line up to this number are acknowledged.
    acked: BTreeMap<LineId, Seq>,
    /// Where records are that are acknowledged; those that were merged are elsewhere now.
    records: BTreeSet<Position>,
    last: Position,
    groups: Vec<Group>,
}

/// Reads a line, beside others.
#[derive(Clone)]
struct Group {
    line: LineId,
    cursor: Seq,
    done: Settled,
}

/// The one who reads and tidies up.
struct Other {
    reader: Reader<Between>,
    keeper: Keeper<Between>,
    known: Arc<Mutex<Known>>,
    scans: u64,
}

/// What the end of a process left.
struct Left {
    files: MemoryStorage,
    /// The power went out, now or some time before.
    powerless: bool,
}

impl Known {
    fn new(seed: u64) -> Self {
        let mut known = Self {
            dice: fastrand::Rng::with_seed(seed),
            acked: BTreeMap::new(),
            records: BTreeSet::new(),
            last: Position::default(),
            groups: Vec::new(),
        };
        let lines = if seed.is_multiple_of(4) { 1 } else { known.roll(12) + 1 };
        for line in 0..lines {
            let line = LineId(known.dice.u64(..) << 8 | line);
            known.acked.insert(line, 0);
            for _ in 0..=known.roll(4) {
                known.groups.push(Group {
                    line,
                    cursor: 1,
                    done: Settled::default(),
                });
            }
        }
        known
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.dice.u64(..below)
    }

    /// Some records, each in up to three lines, and what will be acknowledged with them.
    fn batch(&mut self) -> (Vec<Entry>, BTreeMap<LineId, Seq>) {
        let lines: Vec<LineId> = self.acked.keys().copied().collect();
        let mut last = self.acked.clone();
        let count = self.roll(6) + 1;
        let batch = (0..count).map(|_| {
            let picked = (0..=self.roll(3)).map(|_| self.dice.choice(&lines).copied().unwrap());
            let picked: BTreeSet<LineId> = picked.collect::<Vec<_>>().into_iter().collect();
            let mut numbered = Vec::new();
            for line in picked {
                let number = last.get_mut(&line).unwrap();
                *number += 1;
                numbered.push((line, *number));
            }
            let longest = if self.roll(10) == 0 { 3000 } else { 300 };
            let bytes = usize::try_from(self.roll(longest)).unwrap();
            let mut content = text_of(&numbered).into_bytes();
            content.resize(content.len() + bytes, b'.');
            Entry {
                kind: 1,
                lines: numbered,
                head: content.into(),
                message: None,
            }
        });
        (batch.collect(), last)
    }

    /// What all groups of a line are done with.
    fn done(&self, line: LineId) -> Settled {
        let groups = self.groups.iter().filter(|group| group.line == line);
        let done = groups.map(|group| group.done.clone());
        done.reduce(|all, one| all.common(&one)).unwrap_or_default()
    }

    /// The log is open again: what it has counts, told or not. Of a write that a power cut tore nothing is there behind what is missing.
    fn find(&mut self, log: &mut Log<Between>, recovery: &Recovery) {
        let mut found: BTreeMap<LineId, BTreeSet<Seq>> = BTreeMap::new();
        let mut records = BTreeSet::new();
        log.replay(recovery.replay_from, |record| {
            self.last = self.last.max(record.position);
            records.insert(record.position);
            for (line, seq) in record.lines {
                found.entry(line).or_default().insert(seq);
            }
        })
        .unwrap();
        // What a checkpoint does not cover is there, whoever is done with it: the state is made of it (L8).
        for position in self.records.range(recovery.replay_from..) {
            assert!(records.contains(position), "{position:?} is not replayed");
        }
        self.records.append(&mut records);
        for (line, seqs) in found {
            let acked = self.acked.get_mut(&line).expect("nothing is invented");
            let highest = *seqs.last().unwrap();
            for seq in *acked + 1..=highest {
                assert!(seqs.contains(&seq), "{seq} is missing before {highest} (L16)");
            }
            *acked = highest.max(*acked);
        }
        for group in &mut self.groups {
            group.cursor = group.done.frontier() + 1;
        }
    }
}

/// What the content of a record begins with.
fn text_of(lines: &[(LineId, Seq)]) -> String {
    let texts: Vec<_> = lines.iter().map(|(line, seq)| format!("{:x}/{seq}/", line.0)).collect();
    texts.concat()
}

fn write(writer: &mut Writer<Between>, known: &Mutex<Known>) {
    let (batch, acked) = known.lock().unwrap().batch();
    let positions = writer.append(&batch, false).unwrap();
    let mut known = known.lock().unwrap();
    assert!(positions[0] > known.last, "a place was given again: {positions:?}");
    known.acked = acked;
    known.last = *positions.last().unwrap();
    known.records.extend(positions);
}

impl Other {
    fn act(&mut self) {
        let mut known = self.known.lock().unwrap();
        let (roll, groups) = (known.roll(20), known.groups.len());
        let which = known.dice.usize(..groups);
        if roll == 19 {
            let group = &mut known.groups[which];
            group.cursor = group.done.frontier() + 1;
        }
        drop(known);
        match roll {
            0..12 => self.scan(which),
            12..14 => self.fetch(which),
            14..18 => _ = self.keeper.upkeep().unwrap(),
            18 => self.tidy(),
            _ => {}
        }
    }

    /// As a group reads its line: what it does not find, it takes for lost.
    fn scan(&mut self, which: usize) {
        let (Group { line, cursor, done }, acked, messages_max) = {
            let mut known = self.known.lock().unwrap();
            let group = known.groups[which].clone();
            let messages_max = usize::try_from(known.roll(40) + 1).unwrap();
            (group.clone(), known.acked[&group.line], messages_max)
        };
        let from = done.next_open(cursor);
        let scan = Scan {
            line,
            from,
            messages_max,
            bytes_max: 8192,
        };
        let scanned = self.reader.scan(scan).unwrap();
        self.scans += 1;
        let mut expected = from;
        for (seq, found) in &scanned.found {
            assert!(*seq >= expected, "in order");
            expected = done.next_open(expected);
            assert!(
                *seq <= expected,
                "{expected} is missing before {seq}, of {acked}; {scan:?}"
            );
            assert!(found.lines.contains(&(line, *seq)));
            assert!(found.content.starts_with(text_of(&found.lines).as_bytes()));
            expected = seq + 1;
        }
        let end = scanned.next.map_or(acked, |next| next - 1);
        assert!(
            done.next_open(expected) > end,
            "{expected} is missing before {end}, of {acked}; {scan:?}"
        );
        let mut known = self.known.lock().unwrap();
        // What came meanwhile may be there, and is acknowledged by now (L4).
        let last = scanned.found.last().map_or(0, |(seq, _)| *seq);
        assert!(
            last <= known.acked[&line],
            "{last} was given out before it was acknowledged"
        );
        known.groups[which].cursor = expected.max(end + 1);
        for (seq, _) in scanned.found {
            if known.roll(20) > 0 {
                known.groups[which].done.insert(seq);
            }
        }
    }

    fn fetch(&mut self, which: usize) {
        let (line, seq, acked) = {
            let mut known = self.known.lock().unwrap();
            let line = known.groups[which].line;
            let acked = known.acked[&line];
            let from = known.roll(acked + 1);
            (line, known.groups[which].done.next_open(from), acked)
        };
        if seq <= acked {
            assert!(self.reader.fetch(line, seq).unwrap().is_some(), "{seq} of {acked}");
        }
    }

    fn tidy(&mut self) {
        let (covers, done) = {
            let known = self.known.lock().unwrap();
            let lines = known.acked.keys().map(|line| (*line, known.done(*line)));
            (known.last.after(), lines.collect::<BTreeMap<_, _>>())
        };
        let wanted = |line, from: Seq, to: Seq| to - from + 1 - done[&line].done_between(from, to);
        let sparse = self.keeper.sparse(wanted);
        self.keeper.checkpoint(b"state", covers).unwrap();
        self.keeper.release(|line, from, to| wanted(line, from, to) == 0);
        if let Some(sparse) = sparse {
            let keep = |line, seq| !done[&line].contains(seq);
            self.keeper.merge(&sparse, keep).unwrap();
        }
    }
}

impl Left {
    /// The process is killed now, or the power goes out.
    fn of(files: &MemoryStorage, dice: &mut fastrand::Rng) -> Self {
        let powerless = dice.u8(..3) == 0;
        let files = if powerless {
            files.crashed(dice, 512)
        } else {
            files.fork()
        };
        Self { files, powerless }
    }

    /// All that is acknowledged and wanted is there, also if the newest checkpoint is not (L8).
    fn check(&self, known: &Known) {
        let mut contents = self.files.contents();
        let checkpoints = contents.keys().filter(|name| name.starts_with("checkpoint-"));
        let damaged = checkpoints.max().cloned().map(|newest| {
            contents.get_mut(&newest).unwrap()[30] ^= 1;
            MemoryStorage::with(contents)
        });
        for files in [Some(self.files.fork()), damaged].into_iter().flatten() {
            let disk = Between {
                files,
                ..Between::default()
            };
            let (mut log, recovery) = Log::open(disk, options()).unwrap();
            self.check_recovery(&recovery);
            let mut known = known.clone();
            known.find(&mut log, &recovery);
            for (line, acked) in &known.acked {
                check_line(&mut log, *line, &known.done(*line), *acked);
            }
        }
    }

    /// A kill tears nothing, and a power cut only what nobody was told of.
    fn check_recovery(&self, recovery: &Recovery) {
        assert!(recovery.damage.is_empty(), "{recovery:?}");
        assert!(self.powerless || recovery.torn.is_none(), "{recovery:?}");
        assert!(!recovery.state_lost);
    }
}

/// Reads all of a line that not everybody is done with.
fn check_line(log: &mut Log<Between>, line: LineId, done: &Settled, acked: Seq) {
    let mut expected = done.next_open(1);
    while expected <= acked {
        let scan = Scan {
            line,
            from: expected,
            messages_max: 1000,
            bytes_max: 1 << 20,
        };
        let scanned = log.scan(scan).unwrap();
        for (seq, _) in &scanned.found {
            assert!(*seq <= expected, "{expected} is missing before {seq}, of {acked}");
            expected = expected.max(done.next_open(seq + 1));
        }
        let end = scanned.next.map_or(acked, |next| next - 1);
        assert!(expected > end, "{expected} is missing before {end}, of {acked}");
    }
}

/// Opens what is left. Now and then that process is killed on its way, and another one opens what is left then.
fn open(left: &mut Left, known: &mut Known) -> (Between, Log<Between>) {
    loop {
        let disk = Between {
            files: left.files.fork(),
            ..Between::default()
        };
        let killed = Arc::new(Mutex::new(None));
        let mut operations = if known.roll(2) == 0 { known.roll(80) } else { u64::MAX };
        let kill = {
            let (files, killed, mut dice) = (disk.files.clone(), Arc::clone(&killed), known.dice.fork());
            move || {
                if operations == 0 {
                    killed
                        .lock()
                        .unwrap()
                        .get_or_insert_with(|| Left::of(&files, &mut dice));
                }
                operations = operations.saturating_sub(1);
            }
        };
        disk.set_turn(Some(Box::new(kill)));
        let options = Options {
            segment_bytes: 1024 << (2 * known.roll(4)),
            seed: known.dice.u64(..),
            ..options()
        };
        let (mut log, recovery) = Log::open(disk.clone(), options).unwrap();
        disk.set_turn(None);
        left.check_recovery(&recovery);
        if let Some(killed) = killed.lock().unwrap().take() {
            let powerless = left.powerless || killed.powerless;
            *left = Left { powerless, ..killed };
            continue;
        }
        known.find(&mut log, &recovery);
        return (disk, log);
    }
}

/// A life of a log, ended by a kill or a power cut, wherever that comes. How many scans there were.
fn live((disk, log): (Between, Log<Between>), mut known: Known) -> (Left, Known, u64) {
    // Short ones mostly end in the middle of something.
    let longest = known.dice.choice([100, 400, 6000]).unwrap();
    let (turns, steps, mut operations) = (known.roll(60) + 4, known.roll(300), known.roll(longest));
    let mut dice = known.dice.fork();
    let known = Arc::new(Mutex::new(known));
    let (writer, reader, keeper) = log.split();
    let writer = Arc::new(Mutex::new(writer));
    let other = Arc::new(Mutex::new(Other {
        reader,
        keeper,
        known: Arc::clone(&known),
        scans: 0,
    }));
    let end = Arc::new(Mutex::new(None));
    let turn = {
        let (writer, other, known) = (Arc::clone(&writer), Arc::clone(&other), Arc::clone(&known));
        let (files, end, mut dice) = (disk.files.clone(), Arc::clone(&end), dice.fork());
        move || {
            if operations == 0 {
                let now = || (Left::of(&files, &mut dice), known.lock().unwrap().clone());
                end.lock().unwrap().get_or_insert_with(now);
            }
            operations = operations.saturating_sub(1);
            if known.lock().unwrap().roll(turns) > 2 {
                return;
            }
            // Whoever is not at work.
            if let Ok(mut writer) = writer.try_lock() {
                write(&mut writer, &known);
            } else if let Ok(mut other) = other.try_lock() {
                other.act();
            }
        }
    };
    disk.set_turn(Some(Box::new(turn)));
    for _ in 0..steps {
        if end.lock().unwrap().is_some() {
            break;
        }
        let is_write = known.lock().unwrap().roll(2) == 0;
        if is_write {
            write(&mut writer.lock().unwrap(), &known);
        } else {
            other.lock().unwrap().act();
        }
    }
    disk.set_turn(None);
    let now = || (Left::of(&disk.files, &mut dice), known.lock().unwrap().clone());
    let (left, known) = end.lock().unwrap().take().unwrap_or_else(now);
    (left, known, other.lock().unwrap().scans)
}

/// Some lives of a log, each with a segment of another size. How many scans there were.
fn check_lives(seed: u64) -> u64 {
    let mut known = Known::new(seed);
    let mut left = Left {
        files: MemoryStorage::default(),
        powerless: false,
    };
    let mut scans = 0;
    for _ in 0..16 {
        let opened = open(&mut left, &mut known);
        let powerless = left.powerless;
        let more;
        (left, known, more) = live(opened, known);
        left.powerless |= powerless;
        left.check(&known);
        scans += more;
    }
    scans
}

// M-A4, L4, L8 to L11, L14: many lines and groups, kills and power cuts anywhere, on the way of a recovery too.
#[test]
fn whatever_two_threads_do_at_the_same_time_nothing_acknowledged_is_missed() {
    let seeds = std::env::var("LOG_TOGETHER_SEEDS").map_or(15, |seeds| seeds.parse().unwrap());
    let mut scans = 0;
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| check_lives(seed));
        scans += result.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    println!("{scans} scans");
    assert!(scans > 0);
}
