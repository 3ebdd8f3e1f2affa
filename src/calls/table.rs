//! The open calls of a story, and the one timer that watches all their time limits.
//!
//! Most calls end long before their limit, so none has a timer of its own: the table remembers when
//! the next limit may pass, and looks at all its calls then. A call that ended early costs nothing.
//!
//! # Invariants
//! - K1. A call that is still open is reported within [`GRAIN`] after its limit, once per limit.
//! - K2. An id of a call that was taken out finds nothing, even if its slot is in use again.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use slotmap::{DefaultKey, Key, KeyData, SlotMap};
use tokio::sync::Notify;

use crate::model::CallId;

/// A call with a time limit.
pub trait Limited {
    /// When its time is over, as things stand now; `None` if never.
    fn limit(&self) -> Option<Instant>;
}

/// Open calls by id.
pub struct Calls<T> {
    table: RefCell<SlotMap<DefaultKey, T>>,
    next: Cell<Option<Instant>>,
    earlier: Notify,
}

impl<T: Limited> Default for Calls<T> {
    fn default() -> Self {
        Self {
            table: RefCell::new(SlotMap::new()),
            next: Cell::new(None),
            earlier: Notify::new(),
        }
    }
}

impl<T: Limited> Calls<T> {
    /// Adds a call. A limit that is set later must be told with [`Calls::expect`].
    pub fn insert(&self, call: T) -> CallId {
        let limit = call.limit();
        let key = self.table.borrow_mut().insert(call);
        if let Some(limit) = limit {
            self.expect(limit);
        }
        CallId(key.data().as_ffi())
    }

    /// Some call has this limit now.
    pub fn expect(&self, limit: Instant) {
        if self.next.get().is_none_or(|next| limit < next) {
            self.next.set(Some(limit));
            self.earlier.notify_one();
        }
    }

    /// Looks at a call. `look` must not use the table.
    pub fn with<R>(&self, id: CallId, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.table.borrow_mut().get_mut(key(id)).map(look)
    }

    /// Takes a call out.
    pub fn take(&self, id: CallId) -> Option<T> {
        self.table.borrow_mut().remove(key(id))
    }

    /// Open calls.
    pub fn len(&self) -> usize {
        self.table.borrow().len()
    }

    /// Whether no call is open.
    pub fn is_empty(&self) -> bool {
        self.table.borrow().is_empty()
    }

    /// All ids, for ending what is left.
    pub fn ids(&self) -> Vec<CallId> {
        self.table
            .borrow()
            .keys()
            .map(|key| CallId(key.data().as_ffi()))
            .collect()
    }

    /// The calls whose limit has passed, and when to look again.
    fn overdue(&self, now: Instant) -> Vec<CallId> {
        let mut overdue = Vec::new();
        let mut next: Option<Instant> = None;
        for (key, call) in self.table.borrow().iter() {
            match call.limit() {
                Some(limit) if limit <= now => overdue.push(CallId(key.data().as_ffi())),
                Some(limit) => next = Some(next.map_or(limit, |next| next.min(limit))),
                None => {}
            }
        }
        self.next.set(next);
        overdue
    }

    /// Reports calls whose limit has passed, for ever. `on_overdue` must end the call or move its limit.
    pub async fn watch<F: Fn(CallId)>(&self, on_overdue: F) {
        loop {
            self.wait_for_next().await;
            let now = tokio::time::Instant::now().into_std();
            for id in self.overdue(now) {
                on_overdue(id);
            }
        }
    }

    async fn wait_for_next(&self) {
        loop {
            let Some(next) = self.next.get() else {
                self.earlier.notified().await;
                continue;
            };
            // The grain keeps limits that follow closely from costing a look each.
            let at = tokio::time::Instant::from_std(next) + GRAIN;
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                () = self.earlier.notified() => {}
            }
        }
    }
}

fn key(id: CallId) -> DefaultKey {
    KeyData::from_ffi(id.0).into()
}

/// How late a limit may be seen.
pub const GRAIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    struct Until(Instant);

    impl Limited for Until {
        fn limit(&self) -> Option<Instant> {
            Some(self.0)
        }
    }

    // C-D1: the earliest limit counts, whatever the order in which calls came, and ended calls are silent.
    #[test]
    fn limits_are_reported_when_due_and_only_for_open_calls() {
        let start = tokio::time::Instant::now().into_std();
        let at = |millis| start + Duration::from_millis(millis);
        let calls = Calls::default();
        let late = calls.insert(Until(at(500)));
        let early = calls.insert(Until(at(50)));
        let ended = calls.insert(Until(at(40)));
        assert_eq!(calls.next.get(), Some(at(40)));
        assert!(calls.take(ended).is_some());
        assert_eq!(calls.overdue(at(49)), []);
        assert_eq!(calls.next.get(), Some(at(50)), "the next look is at the next limit");
        assert_eq!(calls.overdue(at(50)), [early]);
        calls.take(early);
        assert_eq!(calls.overdue(at(600)), [late]);
        calls.take(late);
        assert_eq!(calls.overdue(at(600)), []);
        assert_eq!(calls.next.get(), None);
    }

    #[tokio::test]
    async fn a_limit_set_later_and_earlier_wakes_the_watch() {
        let now = || tokio::time::Instant::now().into_std();
        let calls = Rc::new(Calls::default());
        let first = calls.insert(Until(now() + Duration::from_secs(3600)));
        let (added, seen) = (Cell::new(None), Cell::new(None));
        let watched = calls.watch(|id| {
            seen.set(Some(id));
            calls.take(id);
        });
        let add = async {
            tokio::task::yield_now().await;
            added.set(Some(calls.insert(Until(now()))));
            while seen.get().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = watched => {}
            () = add => {}
        }
        assert_eq!(seen.get(), added.get());
        assert!(calls.with(first, |_| ()).is_some());
    }

    #[test]
    fn an_id_of_an_ended_call_finds_nothing_in_the_reused_slot() {
        let calls = Calls::default();
        let now = tokio::time::Instant::now().into_std();
        let old = calls.insert(Until(now));
        calls.take(old);
        let new = calls.insert(Until(now));
        assert_ne!(old, new);
        assert!(calls.with(old, |_| ()).is_none());
        assert!(calls.with(new, |_| ()).is_some());
    }
}
