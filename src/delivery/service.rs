//! One service on one shard: its settings, its endpoints, how many calls it may have.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::address::EndpointAddress;
use super::balance;
use super::metrics::ServiceMetrics;
use super::settings::ServiceSettings;
use super::slot::{Link, Slot, Willing, Wish};
use super::waiting::Waiting;
use crate::model::{Reason, RelayError, Retry, ServiceName};

/// Pushback of a service at its limit: about the time in which some of its calls end.
const PUSHBACK: Duration = Duration::from_millis(50);

pub(super) struct Service {
    pub(super) name: ServiceName,
    settings: RefCell<Rc<ServiceSettings>>,
    /// Keepers of the endpoints in the settings.
    pub(super) kept: RefCell<Vec<Kept>>,
    pub(super) metrics: ServiceMetrics,
    /// The relay itself answers; not of the settings.
    pub(super) attached: Cell<bool>,
    slots: RefCell<Vec<Rc<Slot>>>,
    /// Calls of this shard that wait for an endpoint with room.
    pub(super) waiting: RefCell<Waiting>,
    /// Calls of all shards.
    in_flight: Arc<AtomicUsize>,
}

/// The keeper of one line of `endpoints`.
pub(super) struct Kept {
    pub(super) address: EndpointAddress,
    /// Label of its series.
    pub(super) label: usize,
    pub(super) retired: CancellationToken,
}

impl Service {
    pub(super) fn new(
        name: ServiceName,
        settings: ServiceSettings,
        metrics: ServiceMetrics,
        in_flight: Arc<AtomicUsize>,
    ) -> Rc<Self> {
        Rc::new(Self {
            name,
            settings: RefCell::new(Rc::new(settings)),
            kept: RefCell::default(),
            metrics,
            attached: Cell::new(false),
            slots: RefCell::default(),
            waiting: RefCell::default(),
            in_flight,
        })
    }

    /// The settings in force.
    pub(super) fn settings(&self) -> Rc<ServiceSettings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Puts other settings in force.
    pub(super) fn set_settings(&self, settings: ServiceSettings) {
        self.settings.replace(Rc::new(settings));
    }

    /// Asks all connections of all endpoints to end when their calls have, and keeps none.
    pub(super) fn retire(&self) {
        for kept in self.kept.take() {
            kept.retired.cancel();
        }
        for slot in self.slots.take() {
            slot.retire();
        }
        // Nobody brings the gauge up to date any more.
        self.metrics.set_in_flight(0);
    }

    pub(super) fn add(&self, slot: Rc<Slot>) {
        self.slots.borrow_mut().push(slot);
    }

    pub(super) fn remove(&self, slot: &Rc<Slot>) {
        self.slots.borrow_mut().retain(|other| !Rc::ptr_eq(other, slot));
    }

    /// Takes a place for a call, or says that there is none.
    pub(super) fn admit(&self) -> Result<(), RelayError> {
        let limit = self.settings.borrow().in_flight_max;
        if self.in_flight.fetch_add(1, Ordering::Relaxed) < limit {
            return Ok(());
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.metrics.on_limited();
        let detail = format!(
            "service {} has {limit} calls under way, the limit; slow down",
            self.name
        );
        Err(RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(PUSHBACK))
    }

    /// Gives the place back.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The endpoint for the next call and a connection to it, but none of `tried`.
    pub(super) fn pick(
        &self,
        tried: &[Rc<Slot>],
        wish: Wish,
        mut dice: impl FnMut() -> u64,
    ) -> Option<(Rc<Slot>, Link)> {
        let slots = self.slots.borrow();
        Willing::ORDER.into_iter().find_map(|willing| {
            let chosen = balance::choose(slots.len(), dice(), |index| {
                let slot = slots.get(index)?;
                let is_new = !tried.iter().any(|other| Rc::ptr_eq(other, slot));
                if is_new { slot.load(willing) } else { None }
            })?;
            let slot = slots.get(chosen)?;
            slot.link(wish).map(|link| (Rc::clone(slot), link))
        })
    }

    /// Why a call that came later must not be tried before those that wait.
    pub(super) fn limited(&self) -> RelayError {
        let detail = format!(
            "the endpoints of service {} have as many calls as they may, and too many wait; slow down",
            self.name
        );
        RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(PUSHBACK)
    }

    /// Why `pick` found nothing.
    pub(super) fn unavailable(&self) -> RelayError {
        let slots = self.slots.borrow();
        let open = slots.iter().filter(|slot| slot.open_links() > 0);
        let (open, healthy) = open.fold((0_usize, 0_usize), |(open, healthy), slot| {
            (open + 1, healthy + usize::from(slot.is_healthy()))
        });
        let name = &self.name;
        let (reason, detail) = if healthy > 0 {
            let detail = format!("all {healthy} endpoints of service {name} have as many calls as they may; slow down");
            (Reason::Limited, detail)
        } else if open > 0 {
            let detail = format!("all {open} connected endpoints of service {name} fail their health check");
            (Reason::ServiceUnavailable, detail)
        } else if slots.is_empty() {
            let detail = format!(
                "no endpoint of service {name} is registered now; start it, or add endpoints to [services.{:?}]",
                name.as_str()
            );
            (Reason::ServiceUnavailable, detail)
        } else {
            let detail = format!(
                "none of the {} endpoints of service {name} can be reached now; check that the service runs and listens",
                slots.len()
            );
            (Reason::ServiceUnavailable, detail)
        };
        RelayError::new(reason, Retry::Safe, detail).pushed_back(PUSHBACK)
    }

    /// Endpoints with a connection.
    pub(super) fn connected(&self) -> usize {
        self.slots.borrow().iter().filter(|slot| slot.open_links() > 0).count()
    }

    /// Whether a call would be handed over now.
    pub(super) fn is_available(&self) -> bool {
        let slots = self.slots.borrow();
        slots
            .iter()
            .any(|slot| Willing::ORDER.into_iter().any(|willing| slot.load(willing).is_some()))
    }

    /// Brings gauges and ejections up to date.
    pub(super) fn on_tick(&self, now: Instant) {
        self.metrics.set_in_flight(self.in_flight.load(Ordering::Relaxed));
        for slot in self.slots.borrow().iter() {
            slot.on_tick(now);
        }
    }
}
