//! The threads that own the disk: one writes and syncs, one reads and tidies up.
//!
//! Requests go in, each is answered by one event, given to the engine by the thread that did the work. Whoever asks does not
//! wait for the disk, but for a small batch while nothing else waits and syncs are short (D6).
//!
//! # Invariants
//! - D1. Appends are done in the order they came in, all that wait in one write with one sync (M-A5).
//! - D2. After an append failed, all later ones of its era fail with [`AppendError::Behind`]: numbers that were given
//!   behind the failed ones are taken back, so nothing of them may reach the disk. The engine begins the next era with the
//!   first append that it makes after it has seen the failure.
//! - D3. Reading, checkpoints, merging and preparing segments do not hold up appends: they are on the other thread.
//! - D4. A thread that panics ends the process: what it was about to do is unknown, and a restart is safe.
//! - D5. What waits is bounded by those who ask: publishers by their bytes, each [`Reader`] by one read at a time.
//! - D6. Who asks writes himself if no batch is under way, this one is small, and the last syncs took less than half a
//!   millisecond: two threads need not wake each other then. A sync that takes longer sends the next batches to the thread.

mod threads;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use self::threads::{Inlet, Reading, Writing};
use super::storage::Storage;
use super::table::Shared;
use super::{AppendError, Damage, Entry, Found, Log, Position, Scan, Scanned, Space};
use crate::model::Seq;
use crate::queue::effects::Reader;
use crate::queue::line::LineId;

/// The disk, as those see it who ask.
pub struct Disk<S: Storage> {
    shared: Arc<Shared<S>>,
    writing: Arc<Mutex<Writing<S>>>,
    appends: Arc<Inlet<Batch>>,
    /// Batches that the thread has not answered.
    pending: Arc<AtomicUsize>,
    others: Arc<Inlet<Request>>,
    threads: Vec<JoinHandle<()>>,
}

/// Takes events, on the threads of the disk; must not wait for anything.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// Whether all numbers of a line from the first to the last one are done with.
pub type Done = Box<dyn FnMut(LineId, Seq, Seq) -> bool + Send>;

/// Whether a number of a line is still wanted.
pub type Keep = Box<dyn Fn(LineId, Seq) -> bool + Send>;

/// What the disk is to do.
pub enum Request {
    /// Write records. Answered by [`Event::Appended`].
    Append(Batch),
    /// Write a checkpoint. Answered by [`Event::Checkpointed`].
    Checkpoint {
        /// State of the engine, opaque here.
        state: Vec<u8>,
        /// What the records before this did is in it.
        covers: Position,
    },
    /// Read one record. Answered by [`Event::Fetched`].
    Fetch {
        /// Who asks.
        reader: Reader,
        /// The line.
        line: LineId,
        /// Its number.
        seq: Seq,
    },
    /// Make one segment of some neighbours. Answered by [`Event::Merged`].
    Merge {
        /// Their numbers, as `sparse` told them.
        segments: Vec<u64>,
        /// Which records it takes along.
        keep: Keep,
    },
    /// Read a line. Answered by [`Event::Read`].
    Read {
        /// Who asks.
        reader: Reader,
        /// What.
        scan: Scan,
    },
    /// Remove segments that nobody needs any more. Answered by [`Event::Released`].
    Release(Done),
    /// How full the disk is. Answered by [`Event::Space`].
    Space,
}

/// Records that are written together.
#[derive(Debug)]
pub struct Batch {
    /// Comes back with the answer.
    pub number: u64,
    /// See D2.
    pub era: u64,
    /// The records.
    pub entries: Vec<Entry>,
    /// They may use what is kept free for the case that the disk is full: acknowledgements, gaps, dead letters, state. If
    /// others that are not essential are written with them and fail, they fail as well, and can be tried again alone (D2).
    pub essential: bool,
}

/// What the disk did.
#[derive(Debug)]
pub enum Event {
    /// Records are on disk, or will never be.
    Appended {
        /// Number of the batch.
        number: u64,
        /// Where they begin, in their order.
        result: Result<Vec<Position>, AppendError>,
        /// How long the sync took that they shared with others; only the last batch that shared it says so.
        sync: Option<Duration>,
    },
    /// A checkpoint is on disk, or is not: the last one still holds.
    Checkpointed(Result<(), String>),
    /// Records were found damaged. Each place is told once.
    Damaged(Damage),
    /// One record was looked for.
    Fetched {
        /// Who asked.
        reader: Reader,
        /// The line.
        line: LineId,
        /// Its number.
        seq: Seq,
        /// The record, if it is on disk and whole.
        result: Result<Option<Found>, String>,
    },
    /// Segments were made one, or are as they were.
    Merged(Result<Freed, String>),
    /// A line was read.
    Read {
        /// Who asked.
        reader: Reader,
        /// What.
        scan: Scan,
        /// What was found.
        result: Result<Scanned, String>,
    },
    /// Segments were removed.
    Released(Freed),
    /// How full the disk is.
    Space(Space),
}

/// What tidying up brought.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Freed {
    /// Segments that are gone.
    pub segments: u64,
    /// Bytes that are free again.
    pub bytes: u64,
}

impl<S: Storage> Disk<S> {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(log: Log<S>, events: Events) -> io::Result<Self> {
        let (writer, reader, keeper) = log.split();
        let shared = Arc::clone(&keeper.shared);
        let (appends, others): (Arc<Inlet<Batch>>, _) = (Arc::default(), Arc::default());
        let writing = Writing::new(writer, Arc::clone(&others), Arc::clone(&events));
        let writing = Arc::new(Mutex::new(writing));
        let pending = Arc::new(AtomicUsize::new(0));
        let reading = Reading::new(reader, keeper, Arc::clone(&others), events);
        let mut disk = Self {
            shared,
            writing: Arc::clone(&writing),
            appends: Arc::clone(&appends),
            pending: Arc::clone(&pending),
            others,
            threads: Vec::new(),
        };
        disk.spawn("strait-write", move || threads::write_all(&writing, &appends, &pending))?;
        disk.spawn("strait-read", move || reading.run())?;
        Ok(disk)
    }

    /// Asks for something. The answer is an event, already given when this returns if the batch was written here (D6).
    pub fn send(&self, request: Request) {
        match request {
            Request::Append(batch) => self.append(batch),
            request => self.others.push(request),
        }
    }

    fn append(&self, batch: Batch) {
        // Nobody else sends batches: with none under way this one is the next (D1).
        if self.pending.load(Ordering::Acquire) == 0 {
            let mut writing = self.writing.lock();
            if writing.is_soon_done(&batch) {
                return writing.append(vec![batch]);
            }
        }
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.appends.push(batch);
    }

    /// See [`Keeper::sparse`](super::Keeper::sparse); needs no disk.
    pub fn sparse(&self, wanted: impl FnMut(LineId, Seq, Seq) -> u64) -> Option<Vec<u64>> {
        super::keeper::sparse(&self.shared, wanted)
    }

    /// Finishes what was asked for, appends first, and ends the threads.
    pub fn close(self) {
        drop(self);
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _end = threads::EndOnPanic;
            run();
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl<S: Storage> Drop for Disk<S> {
    fn drop(&mut self) {
        // The thread that reads last: events of the writer may make the engine want nothing more, and nothing is lost if so.
        for (thread, close) in self.threads.drain(..).zip([true, false]) {
            if close {
                self.appends.close();
            } else {
                self.others.close();
            }
            // A thread that panicked has ended the process (D4).
            let _ = thread.join();
        }
    }
}
