//! The way from the admin address to the queue: asks, and sorts the answers by who asked.
//!
//! # Invariants
//! - D1. Each question ends with one answer that is no progress, or when the asker has gone; work that has begun
//!   goes on without him.
//! - D2. What waits for an asker is bounded: of progress only the last is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::crossing::Receiver;
use crate::queue::Handle;
use crate::queue::api::{Input, Output, Ticket};
use crate::queue::operator::{Answer, Command};

/// Asks the queue for the admin address.
pub struct Desk {
    queue: Handle,
    /// Taken by [`Desk::run`].
    outputs: Mutex<Option<Receiver<Output>>>,
    last: AtomicU64,
    askers: Mutex<BTreeMap<u64, Asker>>,
}

#[derive(Default)]
struct Asker {
    answers: VecDeque<Answer>,
    some: Arc<Notify>,
}

/// A question that was asked.
pub(super) struct Asked {
    desk: Arc<Desk>,
    number: u64,
    some: Arc<Notify>,
}

impl Desk {
    /// A desk at the queue whose outputs for [`Ticket::ADMIN`] come out of `outputs`.
    pub fn new(queue: Handle, outputs: Receiver<Output>) -> Self {
        Self {
            queue,
            outputs: Mutex::new(Some(outputs)),
            last: AtomicU64::new(0),
            askers: Mutex::default(),
        }
    }

    /// Sorts answers until the queue ends.
    pub(super) async fn run(&self) {
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(outputs) = outputs else { return };
        let mut batch = VecDeque::new();
        while outputs.take(&mut batch).await {
            for output in batch.drain(..) {
                if let Output::Answer(ticket, answer) = output {
                    self.on_answer(ticket, *answer);
                }
            }
        }
    }

    /// Asks.
    pub(super) fn ask(self: &Arc<Self>, command: Command) -> Asked {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let asker = Asker::default();
        let some = Arc::clone(&asker.some);
        self.askers().insert(number, asker);
        let shard = Ticket::ADMIN;
        self.queue
            .send(Input::Operate(Ticket { shard, number }, Box::new(command)));
        let desk = Arc::clone(self);
        Asked { desk, number, some }
    }

    fn on_answer(&self, ticket: Ticket, answer: Answer) {
        let mut askers = self.askers();
        let Some(asker) = askers.get_mut(&ticket.number) else {
            return;
        };
        if asker.answers.back().is_some_and(|last| !last.is_last()) {
            asker.answers.pop_back();
        }
        asker.answers.push_back(answer);
        asker.some.notify_one();
    }

    fn askers(&self) -> MutexGuard<'_, BTreeMap<u64, Asker>> {
        // Sections under this lock move values; they cannot panic half-way.
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// The next answer; `None` if the queue says nothing for [`SILENCE`].
    pub(super) async fn next(&self) -> Option<Answer> {
        let next = async {
            loop {
                let answer = self.desk.askers().get_mut(&self.number)?.answers.pop_front();
                match answer {
                    Some(answer) => return Some(answer),
                    None => self.some.notified().await,
                }
            }
        };
        tokio::time::timeout(SILENCE, next).await.ok().flatten()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.desk.askers().remove(&self.number);
    }
}

/// Long work says how far it is more often than that.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
