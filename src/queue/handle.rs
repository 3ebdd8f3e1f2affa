//! How shards reach the thread of the queue, and how it reaches them.
//!
//! # Invariants
//! - H1. The thread is woken by the first input after its last look, not by each (as in `mailbox`).
//! - H2. Messages of publishers that are not on disk yet are bounded in bytes; beyond, a publisher is refused at once.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::api::{Input, Output, Publish};
use crate::crossing;
use crate::model::{Reason, RelayError, Retry};

/// Way into the queue. Clones share it.
#[derive(Clone)]
pub struct Handle {
    inlet: Arc<Inlet>,
    publish_bytes_max: usize,
}

/// Where the thread of the queue takes its inputs from.
#[derive(Default)]
pub struct Inlet {
    inputs: Mutex<Inputs>,
    some: Condvar,
    publish_bytes: AtomicUsize,
}

#[derive(Default)]
struct Inputs {
    waiting: Vec<Input>,
    woken: bool,
    closed: bool,
}

/// Ways out: one for each shard, in their order, and those for other threads.
pub struct Outlets {
    /// To the shards.
    pub shards: Vec<crossing::Sender<Output>>,
    /// To the admin thread.
    pub admin: crossing::Sender<Output>,
    /// To the thread of the routes; `None` without a route store.
    pub routes: Option<crossing::Sender<Output>>,
}

impl Handle {
    /// A way into a new inlet. Publishers may have so many bytes on their way to the disk.
    pub fn new(publish_bytes_max: usize) -> (Self, Arc<Inlet>) {
        let inlet = Arc::new(Inlet::default());
        let handle = Self {
            inlet: Arc::clone(&inlet),
            publish_bytes_max,
        };
        (handle, inlet)
    }

    /// Publishes. The answer comes to the shard of the ticket.
    ///
    /// # Errors
    /// Refuses, with a time to wait, if too much waits for the disk.
    pub fn publish(&self, publish: Box<Publish>) -> Result<(), Box<RelayError>> {
        let bytes = publish.bytes();
        let before = self.inlet.publish_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before.saturating_add(bytes) > self.publish_bytes_max {
            self.inlet.publish_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let detail = "too many messages wait for the disk of this relay (queue.publish_bytes_max)";
            let error = RelayError::new(Reason::Limited, Retry::Safe, detail);
            return Err(Box::new(error.pushed_back(PUSHBACK)));
        }
        self.send(Input::Publish(publish));
        Ok(())
    }

    /// Hands something to the queue.
    pub fn send(&self, input: Input) {
        let mut inputs = self.inlet.inputs.lock();
        if inputs.closed {
            return;
        }
        inputs.waiting.push(input);
        let is_first = inputs.waiting.len() == 1;
        drop(inputs);
        if is_first {
            self.inlet.some.notify_one();
        }
    }
}

impl Handle {
    /// Whether so much waits for the thread that whoever can should wait before handing it more.
    pub fn is_behind(&self) -> bool {
        self.inlet.inputs.lock().waiting.len() > BEHIND
    }
}

impl Inlet {
    /// Takes all that waits; waits itself, at most so long, if nothing does. `false` once closed and empty.
    pub fn take(&self, into: &mut Vec<Input>, wait: Duration) -> bool {
        let mut inputs = self.inputs.lock();
        if inputs.waiting.is_empty() && !inputs.woken && !inputs.closed {
            self.some.wait_for(&mut inputs, wait);
        }
        inputs.woken = false;
        if into.is_empty() {
            mem::swap(&mut inputs.waiting, into);
        } else {
            into.append(&mut inputs.waiting);
        }
        !inputs.closed || !into.is_empty()
    }

    /// Ends the wait without an input: something else is there to do.
    pub fn wake(&self) {
        self.inputs.lock().woken = true;
        self.some.notify_one();
    }

    /// Takes no more inputs; those that wait are still given out.
    pub fn close(&self) {
        self.inputs.lock().closed = true;
        self.some.notify_one();
    }

    /// Messages of publishers, of so many bytes in all, are on disk or refused.
    pub fn on_answered(&self, bytes: usize) {
        self.publish_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Publish {
    /// Bytes it takes in memory, about. The same number is given back to [`Inlet::on_answered`].
    pub fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.dimension.len() + key.key.len());
        PUBLISH_BYTES + key + self.attributes.as_bytes().len() + self.body.len()
    }
}

/// Pushback of a publisher: some group commits.
const PUSHBACK: Duration = Duration::from_millis(20);
/// Inputs the thread takes in a few milliseconds.
const BEHIND: usize = 10_000;
/// A publish without its bytes, about.
const PUBLISH_BYTES: usize = 256;
