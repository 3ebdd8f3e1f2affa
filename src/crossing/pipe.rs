//! Events from one thread to another.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Events from one thread to another. Ends when either side is dropped.
struct Pipe<T> {
    state: Mutex<PipeState<T>>,
    open: AtomicBool,
}

struct PipeState<T> {
    queue: VecDeque<T>,
    waker: Option<Waker>,
}

impl<T> Pipe<T> {
    fn new() -> Self {
        Self {
            state: Mutex::new(PipeState {
                queue: VecDeque::new(),
                waker: None,
            }),
            open: AtomicBool::new(true),
        }
    }

    fn state(&self) -> MutexGuard<'_, PipeState<T>> {
        // No code that can panic runs under the lock, and each statement under it leaves a valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let waker = {
            let mut state = self.state();
            self.open.store(false, Ordering::Release);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A pipe between two threads, for few events that must not be lost. What bounds it is up to its users (X2).
pub fn pipe<T>() -> (Sender<T>, Receiver<T>) {
    let pipe = Arc::new(Pipe::new());
    (Sender(Arc::clone(&pipe)), Receiver(pipe))
}

/// The end of a pipe that events are put into. Dropping it ends the pipe once it is empty.
pub struct Sender<T>(Arc<Pipe<T>>);

impl<T> Sender<T> {
    pub(super) fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
    }

    /// Adds an event; it vanishes if the receiver is gone.
    pub fn push(&self, event: T) {
        if !self.is_open() {
            return;
        }
        let waker = {
            let mut state = self.0.state();
            state.queue.push_back(event);
            state.waker.take()
        };
        // Outside of the lock: waking a task on another thread may be a system call.
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Sender<T> {
    /// Adds events, in their order; the receiver is woken once.
    pub fn extend(&self, events: impl IntoIterator<Item = T>) {
        if !self.is_open() {
            return;
        }
        let waker = {
            let mut state = self.0.state();
            state.queue.extend(events);
            if state.queue.is_empty() {
                None
            } else {
                state.waker.take()
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The end of a pipe that events come out of. Dropping it ends the pipe.
pub struct Receiver<T>(Arc<Pipe<T>>);

impl<T> Receiver<T> {
    /// Waits for events and takes all of them into the empty `batch`; false once no more will come.
    /// Cancel safe.
    pub async fn take(&self, batch: &mut VecDeque<T>) -> bool {
        poll_fn(|cx| self.poll_take(batch, cx)).await
    }

    fn poll_take(&self, batch: &mut VecDeque<T>, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.0.state();
        let open = self.0.open.load(Ordering::Acquire);
        if state.queue.is_empty() && open {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        mem::swap(&mut state.queue, batch);
        Poll::Ready(open)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}
