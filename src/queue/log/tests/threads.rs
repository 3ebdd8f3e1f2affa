//! The two threads of the disk.

use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::disk::{Batch, Disk, Event, Request};
use super::real::{Dir, open_dir, scan};
use super::*;
use crate::queue::effects;

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
    /// So many syncs more succeed, if that is limited.
    good: Option<usize>,
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
            match &mut gate.good {
                Some(0) => return Err(io::Error::other("a fault of the test")),
                Some(good) => *good -= 1,
                None => {}
            }
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

// D1, D2, M-A2: what shares a sync shares how it ends.
#[test]
fn of_batches_that_share_a_sync_each_is_told_its_places_and_none_is_acknowledged_if_it_fails() {
    let slow = Slow::default();
    let options = Options {
        segment_bytes: 1 << 20,
        ..options()
    };
    let (disk, events) = start(Log::open(slow.clone(), options).unwrap().0);
    let appended = |expected: u64| match next(&events) {
        Event::Appended { number, result, .. } if number == expected => result,
        event => panic!("{event:?}"),
    };
    // Those behind the first one come while its sync goes on, and share the next.
    let send = |batches: Vec<Request>| {
        slow.set_closed(true);
        for (at, batch) in batches.into_iter().enumerate() {
            disk.send(batch);
            if at == 0 {
                slow.wait_for_sync();
            }
        }
    };
    let all = [1..=2, 3..=5, 6..=6, 7..=10];
    let numbered = all.iter().cloned().zip(1..);
    send(numbered.map(|(seqs, number)| batch(number, 1, seqs)).collect());
    slow.set_closed(false);
    let places: Vec<Position> = (1..=4).flat_map(|number| appended(number).unwrap()).collect();
    assert_eq!(places.len(), 10);
    for (seq, place) in (1..).zip(places) {
        let reader = effects::Reader::Job(1);
        let line = LINE;
        disk.send(Request::Fetch { reader, line, seq });
        let Event::Fetched { result, .. } = next(&events) else {
            panic!()
        };
        assert_eq!(result.unwrap().unwrap().position, place, "{seq}");
    }

    send(vec![batch(5, 1, 11..=11), batch(6, 1, 12..=12), batch(7, 1, 13..=13)]);
    slow.gate.0.lock().unwrap().good = Some(1);
    slow.set_closed(false);
    assert!(appended(5).is_ok());
    assert!(matches!(appended(6), Err(AppendError::Failed(_))));
    assert!(matches!(appended(7), Err(AppendError::Behind)));
    slow.gate.0.lock().unwrap().good = None;
    disk.send(batch(8, 2, 12..=12));
    assert!(appended(8).is_ok());
    disk.close();
    assert_eq!(numbers(&mut open(&slow.files).0, LINE), (1..=12).collect::<Vec<_>>());
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
