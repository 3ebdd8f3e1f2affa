//! Mailbox of one owner on one shard: senders push without waiting, the owner is woken once per batch.
//!
//! # Invariants
//! - B1. The owner is woken when the first event after its last look arrives, not for each event.
//! - B2. A mailbox is never full: what may be pushed is bounded by its protocol (calls in flight and
//!   the credit of each call), not by the mailbox.
//!
//! # Not here
//! Crossing threads: a mailbox stays on its shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Events for one owner task.
pub struct Mailbox<T> {
    queue: RefCell<VecDeque<T>>,
    waker: RefCell<Option<Waker>>,
    open: Cell<bool>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self {
            queue: RefCell::new(VecDeque::new()),
            waker: RefCell::new(None),
            open: Cell::new(true),
        }
    }
}

impl<T> Mailbox<T> {
    /// An empty, open mailbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event and wakes the owner if it waits. Events for a closed mailbox vanish.
    pub fn push(&self, event: T) {
        if !self.open.get() {
            return;
        }
        self.queue.borrow_mut().push_back(event);
        self.wake();
    }

    /// Wakes the owner without an event, to make it look at other state.
    pub fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the oldest event.
    pub fn pop(&self) -> Option<T> {
        self.queue.borrow_mut().pop_front()
    }

    /// Events waiting.
    pub fn len(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Whether the owner still listens.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// The owner is gone: later events vanish. What waits can still be popped.
    pub fn close(&self) {
        self.open.set(false);
    }

    /// Ready when at least one event waits; otherwise the owner's task is woken by the next one.
    pub fn poll_some(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_empty() {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Waits until an event is there. Cancel safe: takes nothing.
    pub async fn some(&self) {
        poll_fn(|cx| self.poll_some(cx)).await;
    }
}
