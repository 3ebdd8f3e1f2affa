//! Points in time of one owner, and the one timer that waits for the earliest.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;

/// What is due when. Several things may be due at the same time; they keep their order.
pub(super) struct Alarms<T> {
    set: RefCell<BTreeMap<At, T>>,
    last: Cell<u64>,
    earlier: Notify,
}

type At = (Instant, u64);

/// One alarm; dropping it takes it back.
pub(super) struct Alarm<T> {
    alarms: Rc<Alarms<T>>,
    at: At,
}

impl<T> Alarms<T> {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            set: RefCell::default(),
            last: Cell::new(0),
            earlier: Notify::new(),
        })
    }

    /// Sets an alarm that can be taken back.
    pub(super) fn set(self: &Rc<Self>, time: Instant, what: T) -> Alarm<T> {
        let at = self.keep(time, what);
        let alarms = self.clone();
        Alarm { alarms, at }
    }

    /// Sets an alarm that goes off in any case.
    pub(super) fn keep(&self, time: Instant, what: T) -> At {
        self.last.set(self.last.get().wrapping_add(1));
        let at = (time, self.last.get());
        let mut set = self.set.borrow_mut();
        set.insert(at, what);
        if set.first_key_value().is_some_and(|(first, _)| *first == at) {
            self.earlier.notify_one();
        }
        at
    }

    /// Takes what is due next, if it is due.
    pub(super) fn due(&self, now: Instant) -> Option<T> {
        let mut set = self.set.borrow_mut();
        let (time, _) = set.first_key_value()?.0;
        if *time > now {
            return None;
        }
        set.pop_first().map(|(_, what)| what)
    }

    /// Waits until something is due. Cancel safe.
    pub(super) async fn wait(&self) {
        loop {
            let first = self.set.borrow().first_key_value().map(|((time, _), _)| *time);
            let Some(time) = first else {
                self.earlier.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(time.into()) => return,
                () = self.earlier.notified() => {}
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.set.borrow().len()
    }
}

impl<T> Drop for Alarm<T> {
    fn drop(&mut self) {
        let taken = self.alarms.set.borrow_mut().remove(&self.at);
        // After the borrow: what was to be done may have a `Drop` of its own.
        drop(taken);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn alarms_go_off_in_order_and_not_once_taken_back() {
        let now = || tokio::time::Instant::now().into_std();
        let start = now();
        let at = |millis| start + Duration::from_millis(millis);
        let alarms = Alarms::new();
        alarms.keep(at(20), "second");
        let back = alarms.set(at(1), "never");
        let first = alarms.set(at(10), "first");
        drop(back);
        assert_eq!(alarms.due(at(9)), None);
        assert_eq!(alarms.due(at(10)), Some("first"));
        assert_eq!(alarms.due(at(10)), None);
        drop(first);
        alarms.wait().await;
        assert!(now() >= at(20));
        assert_eq!((alarms.due(now()), alarms.len()), (Some("second"), 0));
        // One that is set while the timer waits for a later one wakes it.
        alarms.keep(at(3_600_000), "late");
        let soon = async {
            tokio::task::yield_now().await;
            alarms.keep(at(30), "soon");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = alarms.wait() => {}
            () = soon => {}
        }
        assert_eq!(alarms.due(now()), Some("soon"));
    }
}
