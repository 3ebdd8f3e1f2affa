//! The thread that owns the queue: it takes what comes in, lets the engine decide, and hands on what comes out.
//!
//! # Invariants
//! - N1. One process has a directory (I24): a second one is refused when it starts.
//! - N2. A panic on this thread ends the process: what the state is then is unknown, and a restart is safe.
//! - N3. At the end all that was decided is brought to the disk, with a checkpoint.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::api::{Input, Output, Ticket};
use super::effects::Now;
use super::engine::{Engine, Recovered};
use super::handle::{Inlet, Outlets};
use super::log::disk::{Disk, Event};
use super::log::{DirStorage, Log, OpenError, Options, StorageError};
use super::{Metrics, Setup};
use crate::model::UnixMillis;

/// Why the queue cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The directory cannot be used, or another process has it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk does not give what it has, or there is no thread.
    #[error("the queue cannot start")]
    Io(#[from] io::Error),
}

/// A queue at work. Stop it, or what was not written yet is read from the log at the next start.
pub struct Running {
    thread: Option<JoinHandle<()>>,
    inlet: Arc<Inlet>,
}

/// Opens the log in a directory and starts the threads of the queue, which take what waits at the inlet. `seed` must be another one at each start.
///
/// # Errors
/// [`QueueError`]. Damage is none: it is told and counted.
pub fn start(
    setup: Setup,
    dir: &Path,
    seed: u64,
    (inlet, outlets): (Arc<Inlet>, Outlets),
    metrics: Metrics,
) -> Result<Running, QueueError> {
    let storage = DirStorage::open(dir)?;
    let options = Options {
        segment_bytes: u32::try_from(setup.queue.segment_bytes.as_u64()).unwrap_or(u32::MAX),
        bytes_max: setup.queue.bytes_max.as_u64(),
        sync: setup.queue.sync,
        seed,
    };
    let clock = Clock::start();
    let (mut log, recovery) = Log::open(storage, options)?;
    let (engine, recovered) = Engine::recover((setup, metrics), seed, clock.now(), &mut log, &recovery)?;
    tell(&recovered, &clock);
    let events = Arc::new(Events::default());
    let disk = {
        let (events, inlet) = (Arc::clone(&events), Arc::clone(&inlet));
        Disk::start(
            log,
            Arc::new(move |event| {
                events.push(event);
                inlet.wake();
            }),
        )?
    };
    let worker = Worker {
        engine,
        disk,
        outlets,
        events,
        inlet: Arc::clone(&inlet),
        clock,
    };
    let thread = thread::Builder::new().name("strait-queue".to_owned()).spawn(move || {
        let _end = EndOnPanic;
        worker.run();
    })?;
    let thread = Some(thread);
    Ok(Running { thread, inlet })
}

impl Running {
    /// Takes no more inputs, and waits until all is on disk. Blocks: not for a thread that serves others.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.inlet.close();
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

struct Worker {
    engine: Engine,
    disk: Disk<DirStorage>,
    outlets: Outlets,
    events: Arc<Events>,
    inlet: Arc<Inlet>,
    clock: Clock,
}

/// What the disk did.
#[derive(Default)]
struct Events {
    waiting: Mutex<Vec<Event>>,
    some: Condvar,
}

struct Clock(Instant);

/// See N2.
struct EndOnPanic;

impl Worker {
    fn run(mut self) {
        let (mut inputs, mut wait) = (Vec::new(), Duration::ZERO);
        while self.inlet.take(&mut inputs, wait) {
            wait = self.turn(&mut inputs);
        }
        self.finish();
        self.disk.close();
    }

    /// One look at all that happened. Says how long nothing will be due.
    fn turn(&mut self, inputs: &mut Vec<Input>) -> Duration {
        let now = self.clock.now();
        for input in inputs.drain(..) {
            self.engine.on_input(now, input);
        }
        for event in self.events.take() {
            self.engine.on_disk(now, event);
        }
        let next = self.engine.poll(now);
        if self.engine.wants_checkpoint(now) {
            self.checkpoint(now);
        }
        self.hand_on();
        next.map_or(LONGEST_WAIT, |at| at.saturating_sub(now.mono).min(LONGEST_WAIT))
    }

    fn checkpoint(&mut self, now: Now) {
        let disk = &self.disk;
        self.engine.checkpoint(now, &mut |wanted| disk.sparse(wanted));
    }

    fn hand_on(&mut self) {
        for request in self.engine.take_requests() {
            self.disk.send(request);
        }
        self.inlet.on_answered(self.engine.take_answered());
        let mut by_shard: Vec<VecDeque<Output>> = Vec::new();
        for output in self.engine.take_outputs() {
            match usize::from(output.shard()) {
                ADMIN => self.outlets.admin.push(output),
                shard => {
                    if by_shard.len() <= shard {
                        by_shard.resize_with(shard + 1, VecDeque::new);
                    }
                    if let Some(of) = by_shard.get_mut(shard) {
                        of.push_back(output);
                    }
                }
            }
        }
        for (sender, outputs) in self.outlets.shards.iter().zip(by_shard) {
            sender.extend(outputs);
        }
    }

    /// Brings all to the disk (N3); not for ever, if the disk fails.
    fn finish(&mut self) {
        let end = self.clock.now().mono + FINISH_MAX;
        let mut saved = false;
        loop {
            let now = self.clock.now();
            for event in self.events.wait(FINISH_STEP) {
                self.engine.on_disk(now, event);
            }
            self.engine.poll(now);
            if !saved {
                saved = true;
                self.engine.close(now);
                self.checkpoint(now);
            }
            self.hand_on();
            if self.engine.is_idle() || now.mono >= end {
                return;
            }
        }
    }
}

impl Events {
    fn push(&self, event: Event) {
        self.waiting().push(event);
        self.some.notify_one();
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.waiting())
    }

    fn wait(&self, time: Duration) -> Vec<Event> {
        let waiting = self.waiting();
        if waiting.is_empty() {
            let waited = self.some.wait_timeout(waiting, time);
            return std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0);
        }
        drop(waiting);
        self.take()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Event>> {
        // Sections under this lock move values; they cannot panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the driver that reads the time")]
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = wall.unwrap_or_default().as_millis();
        Now {
            mono: self.0.elapsed(),
            wall: UnixMillis(u64::try_from(wall).unwrap_or(u64::MAX)),
        }
    }
}

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the thread of the queue failed; the relay ends, and starts again from what is on disk");
            std::process::abort();
        }
    }
}

impl Output {
    /// The shard it is for.
    fn shard(&self) -> u16 {
        match self {
            Self::Answer(ticket, _) | Self::Published { ticket, .. } | Self::Subscribed { ticket, .. } => ticket.shard,
            Self::CloseLane { lane, .. } | Self::ToReceiver { lane, .. } | Self::ToSender { lane, .. } => lane.shard(),
            Self::Deliver(deliver) => deliver.shard,
            Self::Overdue { shard, .. } => *shard,
        }
    }
}

fn tell(recovered: &Recovered, clock: &Clock) {
    let millis = u64::try_from(clock.now().mono.as_millis()).unwrap_or(u64::MAX);
    let Recovered { records, new_life } = recovered;
    tracing::info!(records, new_life, millis, "the queue is ready");
}

#[expect(clippy::as_conversions, reason = "a small number that fits")]
const ADMIN: usize = Ticket::ADMIN as usize;
/// The engine is asked so often at least.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const FINISH_STEP: Duration = Duration::from_millis(20);
const FINISH_MAX: Duration = Duration::from_secs(10);
