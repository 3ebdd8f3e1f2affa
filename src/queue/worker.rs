//! The thread that owns the queue: it takes what comes in, lets the engine decide, and hands on what comes out.
//!
//! # Invariants
//! - N1. One process has a directory (I24): a second one is refused when it starts.
//! - N2. A panic on this thread ends the process: what the state is then is unknown, and a restart is safe.
//! - N3. At the end all that was decided is brought to the disk, with a checkpoint.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::api::{Input, Output, Ticket};
use super::effects::Now;
use super::engine::{Engine, Recovered};
use super::handle::{Inlet, Outlets};
use super::log::disk::{Disk, Event};
use super::log::{DirStorage, Log, OpenError, Options, StorageError};
use super::rest::Rest;
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
        rest: Rest::default(),
        on_disk: Duration::ZERO,
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
    rest: Rest,
    /// How long this look has waited for the disk.
    on_disk: Duration,
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
            self.rest.on_look(self.clock.elapsed(), inputs.len());
            wait = self.turn(&mut inputs);
            let on_disk = std::mem::take(&mut self.on_disk);
            if let Some(rest) = self.rest.after_look(self.clock.elapsed(), on_disk) {
                thread::sleep(rest);
            }
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
        let requests = self.engine.take_requests();
        if !requests.is_empty() {
            let begun = self.clock.elapsed();
            for request in requests {
                self.disk.send(request);
            }
            self.on_disk += self.clock.elapsed().saturating_sub(begun);
        }
        self.inlet.on_answered(self.engine.take_answered());
        let mut by_shard: Vec<VecDeque<Output>> = Vec::new();
        for output in self.engine.take_outputs() {
            match usize::from(output.shard()) {
                ADMIN => self.outlets.admin.push(output),
                ROUTES => {
                    if let Some(routes) = &self.outlets.routes {
                        routes.push(output);
                    }
                }
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
        self.waiting.lock().push(event);
        self.some.notify_one();
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.waiting.lock())
    }

    fn wait(&self, time: Duration) -> Vec<Event> {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            self.some.wait_for(&mut waiting, time);
        }
        std::mem::take(&mut *waiting)
    }
}

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the driver that reads the time")]
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = wall.unwrap_or_default().as_millis();
        Now {
            mono: self.elapsed(),
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
            Self::Answer(ticket, _)
            | Self::Published { ticket, .. }
            | Self::Subscribed { ticket, .. }
            | Self::Undelivered { ticket, .. } => ticket.shard,
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
#[expect(clippy::as_conversions, reason = "a small number that fits")]
const ROUTES: usize = Ticket::ROUTES as usize;
/// The engine is asked so often at least.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const FINISH_STEP: Duration = Duration::from_millis(20);
const FINISH_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;

    use super::*;
    use crate::crossing::{self, Receiver};
    use crate::model::{AckLevel, MetadataBuilder, Name, Place};
    use crate::queue::api::{Progress, Publish};
    use crate::queue::{Handle, Neighbours, ReplaySettings, Settings, TopicSettings};

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    struct Queue {
        handle: Handle,
        running: Running,
        outputs: Receiver<Output>,
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn begin(dir: &Path) -> Result<Queue, QueueError> {
        let setup = Setup {
            place: Place {
                unit: name("a"),
                relay: name("a-1"),
            },
            geo: name("geo"),
            queue: Settings::default(),
            replay: ReplaySettings::default(),
            topics: Arc::new([("orders".to_owned(), TopicSettings::default())].into()),
            neighbours: Neighbours::default(),
        };
        let (handle, inlet) = Handle::new(1 << 20);
        let (shard, outputs) = crossing::pipe();
        let (admin, _) = crossing::pipe();
        let shards = vec![shard];
        let metrics = Metrics::register(&prometheus::Registry::new(), &setup.place.unit).unwrap();
        let routes = None;
        let ways = (inlet, Outlets { shards, admin, routes });
        let running = start(setup, dir, fastrand::u64(..), ways, metrics)?;
        Ok(Queue {
            handle,
            running,
            outputs,
        })
    }

    /// Publishes an event with this id; what the publisher is told.
    async fn publish(queue: &Queue, number: u64, id: &str) -> Progress {
        let mut attributes = MetadataBuilder::new();
        attributes.push(b"source", b"/orders").unwrap();
        attributes.push(b"id", id.as_bytes()).unwrap();
        let publish = Publish {
            ticket: Ticket { shard: 0, number },
            topic: name("orders"),
            key: None,
            attributes: attributes.build(),
            body: Bytes::from_static(b"body"),
            units: vec![name("b")],
            routed: 0,
            unrouted: None,
            patience: Duration::ZERO,
            deadline: None,
            wait: AckLevel::Accepted,
        };
        queue.handle.publish(Box::new(publish)).unwrap();
        let mut outputs = VecDeque::new();
        let told = tokio::time::timeout(Duration::from_secs(30), queue.outputs.take(&mut outputs));
        assert!(told.await.expect("an answer in time"));
        match outputs.pop_front() {
            Some(Output::Published {
                ticket,
                result: Ok(progress),
            }) if ticket.number == number => progress,
            other => panic!("{other:?}"),
        }
    }

    // N1, N3, M-A2, M-B3
    #[tokio::test]
    async fn a_queue_goes_on_where_it_was_and_no_second_one_has_its_directory() {
        let dir = Dir(std::env::temp_dir().join(format!("strait-queue-{}", std::process::id())));
        let queue = begin(&dir.0).unwrap();
        let first = publish(&queue, 1, "x").await;
        assert_eq!((first.level, first.duplicate), (AckLevel::Accepted, false));
        let second = begin(&dir.0).map(|_| ()).unwrap_err().to_string();
        assert!(second.contains("in use"), "{second}");
        queue.running.stop();
        let queue = begin(&dir.0).unwrap();
        let again = publish(&queue, 1, "x").await;
        assert_eq!((again.id, again.duplicate), (first.id.clone(), true));
        let next = publish(&queue, 2, "y").await;
        assert_eq!((next.id.epoch, next.id.number), (first.id.epoch, 2));
        queue.running.stop();
    }
}
