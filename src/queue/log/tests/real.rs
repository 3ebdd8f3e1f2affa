//! The real file system, and the threads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::disk::{Batch, Disk, Event, Request};
use super::*;
use crate::queue::effects;

/// A directory that is removed at the end of the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("strait-log-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open_dir(path: &Path) -> (Log<DirStorage>, Recovery) {
    let storage = DirStorage::open(path).unwrap();
    let options = Options {
        segment_bytes: 64 * 1024,
        seed: fastrand::u64(..),
        ..options()
    };
    Log::open(storage, options).unwrap()
}

fn scan(line: LineId, from: Seq) -> Scan {
    Scan {
        line,
        from,
        messages_max: 100,
        bytes_max: 1 << 20,
    }
}

// I24
#[test]
fn one_process_has_the_directory_and_only_its_user_can_read_it() {
    let dir = Dir::new("lock");
    let (mut log, _) = open_dir(&dir.0);
    log.append(&entries(LINE, 1..=3), false).unwrap();
    let refused = DirStorage::open(&dir.0).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("in use by process {}", std::process::id())),
        "{refused}"
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.0), 0o700);
    for file in fs::read_dir(&dir.0).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    drop(log);
    let (mut log, _) = open_dir(&dir.0);
    assert_eq!(log.scan(scan(LINE, 1)).unwrap().found.len(), 3);
}

// Symptom: a checkpoint could not remove an old one, or the queue could not start: "no such file". Cause: between the name of a file
// and what it is like, somebody gave the file another name. Fix: a file that is gone by then is left out.
#[test]
fn files_that_get_other_names_meanwhile_do_not_spoil_a_list() {
    let dir = Dir::new("list");
    let storage = DirStorage::open(&dir.0).unwrap();
    storage.create("stays").unwrap();
    for number in 0..FILES {
        storage.create(&format!("{number}.a")).unwrap();
    }
    let lists = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut names = ["a", "b"];
            // Until the other one has seen them change often enough.
            while lists.load(Ordering::Relaxed) < LISTS {
                for number in 0..FILES {
                    let [from, to] = names.map(|end| format!("{number}.{end}"));
                    storage.rename(&from, &to).unwrap();
                }
                names.reverse();
            }
        });
        for _ in 0..LISTS {
            let listed = storage.list();
            lists.fetch_add(1, Ordering::Relaxed);
            let listed = listed.map(|files| files.iter().any(|(name, _)| name == "stays"));
            // The other thread ends also if this one fails.
            if !listed.as_ref().is_ok_and(|stays| *stays) {
                lists.store(LISTS, Ordering::Relaxed);
            }
            assert!(listed.unwrap(), "a file that nobody touches is not there");
        }
    });
}

/// Enough that the directory is not read in one go.
const FILES: usize = 300;
const LISTS: usize = 200;

// M-G6: real ENOSPC, on a tmpfs of 1 MiB.
#[test]
fn a_full_file_system_is_survived() {
    let dir = Dir::new("full");
    fs::create_dir_all(&dir.0).unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(&dir.0).status();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "none"]).is_ok_and(|status| status.success()) {
        println!("skipped: this user cannot mount a tmpfs");
        return;
    }
    let result = std::panic::catch_unwind(|| fill(&dir.0.join("queue")));
    assert!(mount(&["umount"]).unwrap().success());
    result.unwrap();
}

fn fill(path: &Path) {
    let (mut log, _) = open_dir(path);
    while log.upkeep().unwrap() {}
    let mut seq = 0;
    let error = loop {
        match log.append(&[entry(LINE, seq + 1, 1000)], false) {
            Ok(_) => seq += 1,
            Err(error) => break error,
        }
        drop(log.upkeep());
    };
    assert!(matches!(error, AppendError::Full), "{error:?}");
    assert!(
        seq > 500 && log.space().unwrap().percent() > 85,
        "{seq} {:?}",
        log.space()
    );
    for essential in 1..=30 {
        log.append(&[entry(OTHER, essential, 1000)], true).unwrap();
    }
    drop(log);
    let (mut log, recovery) = open_dir(path);
    assert_eq!((recovery.damage, recovery.torn), (Vec::new(), None));
    let mut last = Position::default();
    log.replay(Position::default(), |found| last = found.position).unwrap();
    assert_eq!(
        log.fetch(LINE, seq).unwrap().unwrap().content,
        entry(LINE, seq, 1000).head
    );
    assert_eq!(log.scan(scan(OTHER, 1)).unwrap().found.len(), 30);
    let _ = log.checkpoint(b"one", last.after());
    let _ = log.checkpoint(b"two", last.after());
    if log.release(|_, _, _| true).segments > 0 {
        log.append(&[entry(LINE, seq + 1, 1000)], false).unwrap();
    }
}

/// A disk whose events a test takes one by one.
fn start<S: Storage>(log: Log<S>) -> (Disk<S>, Receiver<Event>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let events = Arc::new(move |event| drop(sender.lock().unwrap().send(event)));
    (Disk::start(log, events).unwrap(), receiver)
}

fn batch(number: u64, era: u64, seqs: std::ops::RangeInclusive<Seq>) -> Request {
    Request::Append(Batch {
        number,
        era,
        entries: entries(LINE, seqs),
        essential: false,
    })
}

fn next(events: &Receiver<Event>) -> Event {
    events.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn what_the_threads_are_asked_is_answered_and_done_before_they_end() {
    let dir = Dir::new("threads");
    let (disk, events) = start(open_dir(&dir.0).0);
    disk.send(batch(1, 1, 1..=10));
    let Event::Appended {
        number: 1,
        result,
        sync: Some(_),
    } = next(&events)
    else {
        panic!()
    };
    let last = *result.unwrap().last().unwrap();
    let reader = effects::Reader::Job(5);
    disk.send(Request::Read {
        reader: reader.clone(),
        scan: scan(LINE, 3),
    });
    let Event::Read {
        reader: asked,
        result: Ok(scanned),
        ..
    } = next(&events)
    else {
        panic!()
    };
    assert_eq!((asked, scanned.found.len()), (reader.clone(), 8));
    disk.send(Request::Fetch {
        reader,
        line: LINE,
        seq: 4,
    });
    assert!(matches!(
        next(&events),
        Event::Fetched {
            seq: 4,
            result: Ok(Some(_)),
            ..
        }
    ));
    disk.send(Request::Checkpoint {
        state: b"state".to_vec(),
        covers: last.after(),
    });
    assert!(matches!(next(&events), Event::Checkpointed(Ok(()))));
    disk.send(Request::Release(Box::new(|_, _, _| true)));
    assert!(matches!(next(&events), Event::Released(_)));
    disk.send(Request::Merge {
        segments: vec![1, 2],
        keep: Box::new(|_, _| true),
    });
    assert!(matches!(next(&events), Event::Merged(Ok(_))));
    disk.send(Request::Space);
    assert!(matches!(next(&events), Event::Space(space) if space.used > 0 && space.total > 0));
    for number in 2..=100 {
        disk.send(batch(number, 1, number * 10..=number * 10 + 9));
    }
    disk.close();
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, Event::Appended { result: Ok(_), .. }))
            .count(),
        99
    );
    let (mut log, recovery) = open_dir(&dir.0);
    assert_eq!(recovery.state.unwrap(), b"state");
    assert!(log.fetch(LINE, 1009).unwrap().is_some());
}

/// A disk whose syncs wait until they are let go.
#[derive(Clone, Default)]
struct Slow {
    files: MemoryStorage,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Default)]
struct Gate {
    is_closed: bool,
    waiting: usize,
}

impl Slow {
    fn set_closed(&self, is_closed: bool) {
        self.gate.0.lock().unwrap().is_closed = is_closed;
        self.gate.1.notify_all();
    }

    fn wait_for_sync(&self) {
        let gate = self.gate.0.lock().unwrap();
        let limit = Duration::from_secs(60);
        let waited = self
            .gate
            .1
            .wait_timeout_while(gate, limit, |gate| gate.waiting == 0)
            .unwrap();
        assert!(!waited.1.timed_out());
    }
}

impl Storage for Slow {
    type File = Arc<u64>;

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<u64>> {
        self.files.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<u64>> {
        self.files.open(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }
    fn read_at(&self, file: &Arc<u64>, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.files.read_at(file, offset, bytes)
    }
    fn write_at(&self, file: &Arc<u64>, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.files.write_at(file, offset, bytes)
    }
    fn set_len(&self, file: &Arc<u64>, len: u64) -> io::Result<()> {
        self.files.set_len(file, len)
    }
    fn sync_data(&self, file: &Arc<u64>) -> io::Result<Duration> {
        if std::thread::current().name() == Some("strait-write") {
            let mut gate = self.gate.0.lock().unwrap();
            gate.waiting += 1;
            self.gate.1.notify_all();
            let mut gate = self.gate.1.wait_while(gate, |gate| gate.is_closed).unwrap();
            gate.waiting -= 1;
        }
        // So long that nobody waits for it but the thread that is there for it (D6).
        self.files.sync_data(file).map(|_| Duration::from_secs(1))
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.files.sync_dir()
    }
    fn settle(&self, file: &Arc<u64>) -> io::Result<()> {
        self.files.settle(file)
    }
    fn free_and_total(&self) -> io::Result<(u64, u64)> {
        self.files.free_and_total()
    }
}

// M-A5, D1, D3, L1
#[test]
fn a_slow_sync_holds_up_no_reader_and_all_that_came_meanwhile_share_the_next() {
    let slow = Slow::default();
    let options = Options {
        segment_bytes: 1 << 20,
        ..options()
    };
    let (disk, events) = start(Log::open(slow.clone(), options).unwrap().0);
    disk.send(batch(1, 1, 1..=10));
    assert!(matches!(next(&events), Event::Appended { number: 1, .. }));
    slow.files.record();
    slow.set_closed(true);
    disk.send(batch(2, 1, 11..=20));
    slow.wait_for_sync();
    for number in 3..=50 {
        disk.send(batch(number, 1, number * 10 - 9..=number * 10));
    }
    disk.send(Request::Read {
        reader: effects::Reader::Job(1),
        scan: scan(LINE, 1),
    });
    let Event::Read {
        result: Ok(scanned), ..
    } = next(&events)
    else {
        panic!("the reader waits")
    };
    assert_eq!(scanned.found.len(), 10, "what is not synced is not read");
    slow.set_closed(false);
    let mut synced = Vec::new();
    for number in 2..=50 {
        let Event::Appended {
            number: next,
            result: Ok(_),
            sync,
        } = next(&events)
        else {
            panic!()
        };
        assert_eq!(next, number);
        synced.extend(sync.map(|_| number));
    }
    assert_eq!(synced, [2, 50], "two syncs");
    disk.close();
}

// D2, M-G6
#[test]
fn after_a_failure_all_of_that_era_fails() {
    let slow = Slow::default();
    let (disk, events) = start(Log::open(slow.clone(), options()).unwrap().0);
    slow.set_closed(true);
    disk.send(batch(1, 1, 1..=2));
    slow.wait_for_sync();
    slow.files.set_faults(Faults {
        fail_after: Some(0),
        keep_failing: true,
        ..Faults::default()
    });
    disk.send(batch(2, 1, 3..=4));
    slow.set_closed(false);
    assert!(matches!(
        next(&events),
        Event::Appended {
            number: 1,
            result: Err(AppendError::Failed(_)),
            ..
        }
    ));
    assert!(matches!(
        next(&events),
        Event::Appended {
            number: 2,
            result: Err(AppendError::Behind),
            ..
        }
    ));
    slow.files.set_faults(Faults::default());
    disk.send(batch(3, 1, 5..=6));
    assert!(matches!(
        next(&events),
        Event::Appended {
            number: 3,
            result: Err(AppendError::Behind),
            ..
        }
    ));
    disk.send(batch(4, 2, 1..=2));
    assert!(matches!(
        next(&events),
        Event::Appended {
            number: 4,
            result: Ok(_),
            ..
        }
    ));
    disk.close();
    assert_eq!(numbers(&mut open(&slow.files).0, LINE), [1, 2]);
}

// D4
#[test]
fn a_panic_of_a_thread_ends_the_process() {
    if std::env::var_os("LOG_PANIC").is_some() {
        let (disk, _events) = start(open(&MemoryStorage::default()).0);
        disk.send(Request::Release(Box::new(|_, _, _| true)));
        disk.send(Request::Merge {
            segments: vec![],
            keep: Box::new(|_, _| true),
        });
        let events = Arc::new(|_| panic!("as this test wants it"));
        let disk = Disk::start(open(&MemoryStorage::default()).0, events).unwrap();
        disk.send(Request::Space);
        disk.close();
        std::process::exit(0);
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .env("LOG_PANIC", "1")
        .output()
        .unwrap();
    assert!(!child.status.success() && child.status.code().is_none(), "{child:?}");
}
