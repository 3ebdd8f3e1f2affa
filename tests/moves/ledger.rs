//! What services did and what callers were told: each write, when, where, and under which epoch.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A write at a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Its number.
    pub write: u64,
    /// The key, by position.
    pub key: usize,
    /// The relay it came through, by position.
    pub relay: usize,
    /// Since when the unit of that relay owned the key, as the service was told.
    pub epoch: u64,
    /// When the service began with it.
    pub begun: Instant,
    /// When it was done; `None` while it is under way.
    pub ended: Option<Instant>,
    /// Whether it was given up half-way: it has changed nothing.
    pub cancelled: bool,
}

/// A write as its caller saw it. It was sent once: nobody but relays tries it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its number.
    pub write: u64,
    /// The key, by position.
    pub key: usize,
    /// The relay that was asked, by position.
    pub from: usize,
    /// When it was sent.
    pub begun: Instant,
    /// Until it was answered, or given up.
    pub took: Duration,
    /// What the caller was told.
    pub said: Said,
}

/// What a caller was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// It is done.
    Done {
        /// The unit, as the relay says.
        unit: String,
        /// Under which epoch, as the service says.
        epoch: u64,
    },
    /// It is not, or nobody knows; why.
    Failed(String),
}

impl Attempt {
    /// When it was answered, or given up.
    pub fn ended(&self) -> Instant {
        self.begun + self.took
    }

    /// Whether the caller was told that it is done.
    pub fn is_done(&self) -> bool {
        matches!(self.said, Said::Done { .. })
    }
}

/// Written by services and writers, read when they are still. Clones share it.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    executions: Vec<Execution>,
    attempts: Vec<Attempt>,
}

/// A write under way at a service; one that is dropped was given up.
pub struct Begun {
    ledger: Ledger,
    at: usize,
    is_done: bool,
}

impl Ledger {
    /// A service begins with a write.
    pub fn begin(&self, (write, key): (u64, usize), relay: usize, epoch: u64) -> Begun {
        let mut book = self.0.lock().unwrap();
        book.executions.push(Execution {
            write,
            key,
            relay,
            epoch,
            begun: Instant::now(),
            ended: None,
            cancelled: false,
        });
        Begun {
            ledger: self.clone(),
            at: book.executions.len() - 1,
            is_done: false,
        }
    }

    /// A caller was told how its write ended.
    pub fn on_attempt(&self, attempt: Attempt) {
        self.0.lock().unwrap().attempts.push(attempt);
    }

    /// All of it so far.
    pub fn read(&self) -> (Vec<Execution>, Vec<Attempt>) {
        let book = self.0.lock().unwrap();
        (book.executions.clone(), book.attempts.clone())
    }

    /// Writes that callers were told are done.
    pub fn acknowledged(&self) -> usize {
        let book = self.0.lock().unwrap();
        book.attempts.iter().filter(|attempt| attempt.is_done()).count()
    }
}

impl Begun {
    /// The write is done: from now on it counts.
    pub fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut book = self.ledger.0.lock().unwrap();
        let execution = &mut book.executions[self.at];
        execution.ended = Some(Instant::now());
        execution.cancelled = !self.is_done;
    }
}
