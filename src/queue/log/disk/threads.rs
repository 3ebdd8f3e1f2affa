//! The two threads of the disk.

use std::collections::VecDeque;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Batch, Event, Events, Request};
use crate::queue::log::storage::Storage;
use crate::queue::log::{AppendError, Entry, Keeper, Position, Reader, Writer};

/// What a thread is to do next.
enum Next<T> {
    /// This.
    Item(T),
    /// Nothing came.
    Nothing,
    /// Nothing will come.
    End,
}

/// What waits for a thread.
pub(super) struct Inlet<T> {
    waiting: Mutex<Waiting<T>>,
    some: Condvar,
}

struct Waiting<T> {
    items: VecDeque<T>,
    woken: bool,
    closed: bool,
}

/// The one who writes: the thread for it, or who asks, if that is sooner done (D6).
pub(super) struct Writing<S: Storage> {
    writer: Writer<S>,
    reading: Arc<Inlet<Request>>,
    events: Events,
    /// Batches of this era and those before it come too late (D2).
    failed_era: Option<u64>,
    segment: u64,
    pace: Pace,
}

/// How long syncs take.
#[derive(Debug, Default)]
pub(super) struct Pace {
    recent: Option<Duration>,
}

/// The thread that reads and tidies up.
pub(super) struct Reading<S: Storage> {
    reader: Reader<S>,
    keeper: Keeper<S>,
    requests: Arc<Inlet<Request>>,
    events: Events,
}

/// Ends the process if its thread panics (D4).
pub(super) struct EndOnPanic;

impl<S: Storage> Writing<S> {
    pub(super) fn new(writer: Writer<S>, reading: Arc<Inlet<Request>>, events: Events) -> Self {
        Self {
            writer,
            reading,
            events,
            failed_era: None,
            segment: 0,
            pace: Pace::default(),
        }
    }

    /// Whether a batch is on the disk before a thread would have been woken, as far as one can tell.
    pub(super) fn is_soon_done(&self, batch: &Batch) -> bool {
        self.pace.is_quick()
            && batch.entries.len() <= HERE_ENTRIES
            && batch.entries.iter().map(bytes_of).sum::<usize>() <= HERE_BYTES
    }

    /// One write and one sync for all of them (D1).
    pub(super) fn append(&mut self, group: Vec<Batch>) {
        let (late, group): (Vec<_>, Vec<_>) = group
            .into_iter()
            .partition(|batch| self.failed_era.is_some_and(|failed| batch.era <= failed));
        for batch in late {
            self.answer(batch.number, Err(AppendError::Behind));
        }
        let Some(last) = group.last().map(|batch| batch.number) else {
            return;
        };
        let era = group.iter().map(|batch| batch.era).max();
        let essential = group.iter().all(|batch| batch.essential);
        let mut entries = Vec::new();
        let mut lens = Vec::with_capacity(group.len());
        for batch in group {
            lens.push((batch.number, batch.entries.len()));
            entries.extend(batch.entries);
        }
        match self.writer.append(&entries, essential) {
            Ok(positions) => {
                self.pace.on_sync(self.writer.synced());
                let mut positions = positions.into_iter();
                for (number, len) in lens {
                    let result: Vec<Position> = positions.by_ref().take(len).collect();
                    self.on_written(&result);
                    let sync = self.writer.synced().filter(|_| number == last);
                    (self.events)(Event::Appended {
                        number,
                        result: Ok(result),
                        sync,
                    });
                }
            }
            Err(error) => {
                self.failed_era = self.failed_era.max(era);
                let mut error = Some(error);
                for (number, _) in lens {
                    // The first one says why.
                    self.answer(number, Err(error.take().unwrap_or(AppendError::Behind)));
                }
            }
        }
    }

    fn answer(&self, number: u64, result: Result<Vec<Position>, AppendError>) {
        (self.events)(Event::Appended {
            number,
            result,
            sync: None,
        });
    }

    fn on_written(&mut self, positions: &[Position]) {
        if let Some(last) = positions.last().filter(|last| last.segment != self.segment) {
            // A new segment: the one after it is to be prepared.
            self.segment = last.segment;
            self.reading.wake();
        }
    }
}

/// The thread that writes: takes what waits, in groups.
pub(super) fn write_all<S: Storage>(writing: &Mutex<Writing<S>>, appends: &Inlet<Batch>, pending: &AtomicUsize) {
    while let Some(batches) = appends.take_all() {
        let mut batches = batches.into_iter().peekable();
        while batches.peek().is_some() {
            let (mut group, mut bytes) = (Vec::new(), 0);
            while let Some(batch) = batches.next_if(|_| bytes < GROUP_BYTES) {
                bytes += batch.entries.iter().map(bytes_of).sum::<usize>();
                group.push(batch);
            }
            let done = group.len();
            writing.lock().append(group);
            pending.fetch_sub(done, Ordering::Release);
        }
    }
    if let Err(error) = writing.lock().writer.sync() {
        tracing::warn!(%error, "the queue was not synced at its end");
    }
}

impl Pace {
    /// A sync took so long; without one the operating system has it.
    fn on_sync(&mut self, time: Option<Duration>) {
        let time = time.unwrap_or_default();
        // The last ones count most, and a slow one at once.
        self.recent = Some(match self.recent {
            Some(recent) if time <= QUICK => (recent.min(QUICK * 4) * 3 + time) / 4,
            _ => time,
        });
    }

    fn is_quick(&self) -> bool {
        self.recent.is_some_and(|recent| recent <= QUICK)
    }
}

impl<S: Storage> Reading<S> {
    pub(super) fn new(reader: Reader<S>, keeper: Keeper<S>, requests: Arc<Inlet<Request>>, events: Events) -> Self {
        Self {
            reader,
            keeper,
            requests,
            events,
        }
    }

    pub(super) fn run(mut self) {
        // Between two requests there is time for a step of upkeep.
        let mut wait = Duration::ZERO;
        loop {
            match self.requests.take_one(wait) {
                Next::End => return,
                Next::Item(request) => self.answer(request),
                Next::Nothing => {}
            }
            wait = match self.keeper.upkeep() {
                Ok(true) if self.keeper.is_late() => Duration::ZERO,
                Ok(true) => PAUSE,
                Ok(false) => IDLE,
                Err(error) => {
                    tracing::debug!(%error, "no space could be prepared for the queue");
                    AGAIN
                }
            };
        }
    }

    fn answer(&mut self, request: Request) {
        let event = match request {
            // Goes to the other thread.
            Request::Append(_) => return,
            Request::Checkpoint { state, covers } => {
                let result = self.keeper.checkpoint(&state, covers);
                Event::Checkpointed(result.map_err(|error| error.to_string()))
            }
            Request::Fetch { reader, line, seq } => Event::Fetched {
                reader,
                line,
                seq,
                result: self.reader.fetch(line, seq).map_err(|error| error.to_string()),
            },
            Request::Merge { segments, keep } => {
                let result = self.keeper.merge(&segments, keep);
                Event::Merged(result.map_err(|error| error.to_string()))
            }
            Request::Read { reader, scan } => Event::Read {
                reader,
                scan,
                result: self.reader.scan(scan).map_err(|error| error.to_string()),
            },
            Request::Release(done) => Event::Released(self.keeper.release(done)),
            Request::Space => match self.keeper.space() {
                Ok(space) => Event::Space(space),
                Err(error) => {
                    tracing::warn!(%error, "the file system does not say how full it is");
                    return;
                }
            },
        };
        (self.events)(event);
        for damage in self.reader.take_damage() {
            (self.events)(Event::Damaged(damage));
        }
    }
}

impl<T> Inlet<T> {
    pub(super) fn push(&self, item: T) {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return;
        }
        waiting.items.push_back(item);
        let is_first = waiting.items.len() == 1;
        drop(waiting);
        if is_first {
            self.some.notify_one();
        }
    }

    /// Ends the wait without an item.
    pub(super) fn wake(&self) {
        self.waiting.lock().woken = true;
        self.some.notify_one();
    }

    /// Takes no more; what waits is still done.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.some.notify_one();
    }

    /// Waits for items; `None` at the end.
    fn take_all(&self) -> Option<VecDeque<T>> {
        let mut waiting = self.waiting.lock();
        let nothing = |waiting: &mut Waiting<T>| waiting.items.is_empty() && !waiting.closed;
        self.some.wait_while(&mut waiting, nothing);
        let items = std::mem::take(&mut waiting.items);
        (!items.is_empty()).then_some(items)
    }

    /// The next item, if there is one after so long at most.
    fn take_one(&self, wait: Duration) -> Next<T> {
        let mut waiting = self.waiting.lock();
        if !wait.is_zero() {
            let nothing = |waiting: &mut Waiting<T>| waiting.items.is_empty() && !waiting.woken && !waiting.closed;
            self.some.wait_while_for(&mut waiting, nothing, wait);
        }
        waiting.woken = false;
        match waiting.items.pop_front() {
            Some(item) => Next::Item(item),
            None if waiting.closed => Next::End,
            None => Next::Nothing,
        }
    }
}

impl<T> Default for Inlet<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                items: VecDeque::new(),
                woken: false,
                closed: false,
            }),
            some: Condvar::new(),
        }
    }
}

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

/// Bytes a record will have, about.
fn bytes_of(entry: &Entry) -> usize {
    entry.head.len() + entry.message.as_ref().map_or(0, crate::model::Message::bytes)
}

/// Syncs of so long are waited for (D6): waking a thread and being woken takes a good part of it.
const QUICK: Duration = Duration::from_micros(500);
/// Records of a batch that is written here.
const HERE_ENTRIES: usize = 64;
/// Bytes of it.
const HERE_BYTES: usize = 128 * 1024;
/// Bytes written and synced at once, about: the first of many need not wait for all.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Between two steps of upkeep that nobody waits for.
const PAUSE: Duration = Duration::from_millis(10);
/// Upkeep is looked after so often when nothing happens.
const IDLE: Duration = Duration::from_secs(10);
/// And so often while the disk has no space for it.
const AGAIN: Duration = Duration::from_secs(1);
