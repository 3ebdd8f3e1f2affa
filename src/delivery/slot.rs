//! One endpoint of a service as one shard sees it: its connections, its health, its failures.
//!
//! # Invariants
//! - E1. A connection that broke counts as one failure, however many calls it took with it; and an
//!   attempt to connect that failed counts as none, since an endpoint without a connection gets no
//!   calls anyway and must get them as soon as it is back.
//! - E2. Calls whose bodies are still to come leave one connection to the small ones, where bodies share a
//!   window and the settings allow more than one connection: a body that the service does not read then holds
//!   up no small call, and no new stream while another connection can be opened (C-F1).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use super::metrics::{EndpointMetrics, EndpointState};
use super::outlier::Outlier;
use super::settings::OutlierSettings;
use crate::model::{Endpoint, Reason, RelayError};

/// What the keeper of a connection can say and do beside sending calls.
pub(super) trait Control {
    /// Whether it takes calls, now or when one of those under way has ended.
    fn is_open(&self) -> bool;
    /// Takes no more calls and ends when those under way have ended.
    fn retire(&self);
    /// Calls that can use up a window all calls of the connection share.
    fn streaming(&self) -> usize {
        0
    }
    /// Whether they have used it up.
    fn is_blocked(&self) -> bool {
        false
    }
}

/// A connection to an endpoint, or an endpoint that came by itself (`control` is `None`).
#[derive(Clone)]
pub(super) struct Link {
    pub(super) endpoint: Rc<dyn Endpoint>,
    pub(super) control: Option<Rc<dyn Control>>,
}

impl Link {
    pub(super) fn is_open(&self) -> bool {
        self.control.as_ref().is_none_or(|control| control.is_open())
    }

    fn has_streaming(&self) -> bool {
        self.control.as_ref().is_some_and(|control| control.streaming() > 0)
    }

    fn is_blocked(&self) -> bool {
        self.control.as_ref().is_some_and(|control| control.is_blocked())
    }
}

/// What a call asks of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wish {
    /// Its body is still to come, or is large.
    pub(super) streams: bool,
    /// It rather waits for a connection that is being opened than to share one.
    pub(super) waits: bool,
}

/// How willing an endpoint must be to be considered for a call; tried in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Willing {
    /// A connection takes the call at once.
    Ready,
    /// All connections are at their limit: the call waits at one of them.
    Full,
    /// Left out for failures: better than no endpoint at all.
    Ejected,
}

impl Willing {
    pub(super) const ORDER: [Self; 3] = [Self::Ready, Self::Full, Self::Ejected];
}

/// One endpoint of a service on one shard.
pub(super) struct Slot {
    links: RefCell<Vec<Link>>,
    outlier: RefCell<Outlier>,
    ejected: Cell<bool>,
    healthy: Cell<bool>,
    in_flight: Cell<usize>,
    /// Calls of all shards at this endpoint and how many there may be, if the settings limit that.
    limit: Option<(Arc<AtomicUsize>, usize)>,
    /// Tells the keeper that another connection is of use.
    pub(super) is_full: Notify,
    /// Whether it is, although there may be one with room.
    wants_more: Cell<bool>,
    /// The last attempt to make another one failed: calls do not wait for it.
    is_short: Cell<bool>,
    /// Connections there may be if bodies share a window on each, else 0.
    sharing_max: Cell<usize>,
    /// Tells the health check that there is a new connection.
    pub(super) connected: Notify,
    pub(super) metrics: EndpointMetrics,
    shown: Cell<Option<EndpointState>>,
}

impl Slot {
    pub(super) fn new(metrics: EndpointMetrics, limit: Option<(Arc<AtomicUsize>, usize)>) -> Rc<Self> {
        let slot = Rc::new(Self {
            links: RefCell::default(),
            outlier: RefCell::default(),
            ejected: Cell::new(false),
            healthy: Cell::new(true),
            in_flight: Cell::new(0),
            limit,
            is_full: Notify::new(),
            wants_more: Cell::new(false),
            is_short: Cell::new(false),
            sharing_max: Cell::new(0),
            connected: Notify::new(),
            metrics,
            shown: Cell::new(None),
        });
        slot.show();
        slot
    }

    pub(super) fn add(&self, link: Link) {
        self.links.borrow_mut().push(link);
        self.wants_more.set(false);
        self.is_short.set(false);
        self.show();
    }

    pub(super) fn remove(&self, endpoint: &Rc<dyn Endpoint>) {
        self.links
            .borrow_mut()
            .retain(|link| !Rc::ptr_eq(&link.endpoint, endpoint));
        self.show();
    }

    /// Asks all connections to end when their calls have.
    pub(super) fn retire(&self) {
        for link in self.links.take() {
            if let Some(control) = link.control {
                control.retire();
            }
        }
        self.show();
    }

    /// Connections that take calls, now or later.
    pub(super) fn open_links(&self) -> usize {
        self.links.borrow().iter().filter(|link| link.is_open()).count()
    }

    /// A connection that takes calls, now or later.
    pub(super) fn any_link(&self) -> Option<Link> {
        self.links.borrow().iter().find(|link| link.is_open()).cloned()
    }

    /// Bodies share a window on each of up to so many connections (E2).
    pub(super) fn set_sharing(&self, links_max: usize) {
        self.sharing_max.set(links_max);
    }

    /// Whether a call asked for another connection, to keep bodies apart, since the last one was made.
    pub(super) fn wants_more(&self) -> bool {
        self.wants_more.get()
    }

    /// An attempt to connect failed.
    pub(super) fn on_connect_failed(&self) {
        self.is_short.set(true);
        self.metrics.on_connect_failed();
    }

    /// Whether a connection takes a call at once.
    pub(super) fn has_room(&self) -> bool {
        self.links.borrow().iter().any(|link| link.endpoint.is_ready())
    }

    /// The calls of this shard under way here, or `None` if it is not as willing as asked.
    pub(super) fn load(&self, willing: Willing) -> Option<usize> {
        let in_turn = match willing {
            Willing::Ready => !self.ejected.get() && self.has_room(),
            Willing::Full => !self.ejected.get() && self.open_links() > 0,
            Willing::Ejected => self.ejected.get() && self.open_links() > 0,
        };
        let below_limit = || {
            let limit = self.limit.as_ref();
            limit.is_none_or(|(calls, limit)| calls.load(Ordering::Relaxed) < *limit)
        };
        (in_turn && self.healthy.get() && below_limit()).then(|| self.in_flight.get())
    }

    /// The connection for the next call, or `None` if it is to wait for one. Has the keeper told if another
    /// one would be of use.
    pub(super) fn link(&self, wish: Wish) -> Option<Link> {
        let links = self.links.borrow();
        if wish.streams && self.sharing_max.get() > 1 {
            return self.link_for_stream(&links, wish);
        }
        let free = fewest(&links, |link| link.endpoint.is_ready() && !link.has_streaming());
        free.or_else(|| {
            self.wants_more.set(self.sharing_max.get() > 1);
            self.is_full.notify_one();
            fewest(&links, |link| link.endpoint.is_ready() && !link.is_blocked())
                .or_else(|| fewest(&links, |link| link.endpoint.is_ready()))
                .or_else(|| fewest(&links, Link::is_open))
        })
    }

    /// The same for a call with a body to come (E2).
    fn link_for_stream(&self, links: &[Link], wish: Wish) -> Option<Link> {
        let among_streams = |link: &Link| link.endpoint.is_ready() && link.has_streaming() && !link.is_blocked();
        if let Some(link) = fewest(links, among_streams) {
            return Some(link);
        }
        let is_free = |link: &Link| link.endpoint.is_ready() && !link.has_streaming();
        if links.iter().filter(|link| is_free(link)).count() > 1 {
            return fewest(links, is_free);
        }
        let open = links.iter().filter(|link| link.is_open());
        if open.count() < self.sharing_max.get() {
            self.wants_more.set(true);
            self.is_full.notify_one();
            if wish.waits && !self.is_short.get() {
                return None;
            }
        }
        // Better behind another stream than in front of all small calls.
        fewest(links, |link| link.is_open() && link.has_streaming()).or_else(|| fewest(links, Link::is_open))
    }

    pub(super) fn on_opened(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        if let Some((calls, _)) = &self.limit {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn on_ended(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if let Some((calls, _)) = &self.limit {
            calls.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The service answered a call, with whatever status (C-F8).
    pub(super) fn on_answered(&self) {
        self.outlier.borrow_mut().on_success();
    }

    /// A relay ended a call that `link` had.
    pub(super) fn on_call_failed(&self, link: &Link, error: &RelayError, settings: &OutlierSettings) {
        // What came by itself goes by itself, and a broken connection is counted by its keeper (E1).
        let counts = error.reason == Reason::ServiceLost && link.control.is_some() && link.is_open();
        if counts {
            self.on_failure(settings);
        }
    }

    /// A connection broke that had calls, or a call broke on one that lives on.
    pub(super) fn on_failure(&self, settings: &OutlierSettings) {
        let now = tokio::time::Instant::now().into_std();
        if self.outlier.borrow_mut().on_failure(now, settings) {
            self.ejected.set(true);
            self.metrics.on_ejected();
            self.show();
        }
    }

    /// The health check came to a result.
    pub(super) fn on_health(&self, healthy: bool) {
        self.healthy.set(healthy);
        self.show();
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.get()
    }

    /// Lets an ejected endpoint back in when its time is over. `now` may be some time old.
    pub(super) fn on_tick(&self, now: Instant) {
        if self.ejected.get() && !self.outlier.borrow().is_ejected(now) {
            self.ejected.set(false);
        }
        self.show();
    }

    pub(super) fn state(&self) -> EndpointState {
        if self.open_links() == 0 {
            EndpointState::Down
        } else if !self.healthy.get() {
            EndpointState::Unhealthy
        } else if self.ejected.get() {
            EndpointState::Ejected
        } else {
            EndpointState::Ready
        }
    }

    fn show(&self) {
        let state = Some(self.state());
        let shown = self.shown.replace(state);
        if shown != state {
            self.metrics.on_state(shown, state);
        }
    }
}

/// Of the connections that are fit, the one with the fewest calls.
fn fewest(links: &[Link], is_fit: impl Fn(&Link) -> bool) -> Option<Link> {
    let fit = links.iter().filter(|link| is_fit(link));
    fit.min_by_key(|link| link.endpoint.in_flight()).cloned()
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.metrics.on_state(self.shown.get(), None);
    }
}
