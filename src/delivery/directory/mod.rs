//! The local services of this unit on one shard, by name: takes a call, finds an endpoint, hands it over.
//!
//! It stands between the story and the endpoint of each call, which costs one slab entry per call and one
//! look-up per event. For that, ids of ended calls are recognised whatever the endpoint, calls are
//! counted exactly, and an endpoint that breaks calls is noticed. A call that no endpoint has room for waits here
//! (`waiting`).
//!
//! # Invariants
//! - Y1. Each call that was opened counts in exactly one outcome, and leaves the counts of its service and
//!   endpoint at the same moment.
//! - Y2. A call is offered to another endpoint only if the one before took no byte of it (C-T1).
//!
//! # Not here
//! Deadlines (the stories cancel), retries after `open` (the origin relay decides, C-T2).

mod registrations;
mod reload;
#[cfg(test)]
mod tests;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use slotmap::{DefaultKey, Key, KeyData, SlotMap};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delivery::connector;
use crate::delivery::dial::{Dial, Transports};
use crate::delivery::metrics::{Metrics, outcome_of_cancel, outcome_of_error, outcome_of_status};
use crate::delivery::service::Service;
use crate::delivery::settings::{ServiceSettings, Services, Settings};
use crate::delivery::shared::SharedDirectory;
use crate::delivery::slot::{Link, Slot, Wish};
use crate::model::{
    CallId, Callee, Caller, CallerRef, Endpoint, Name, Outcome, Reason, Refused, RelayError, ReplyEvent, Request,
    RequestEvent, Retry, ServiceName,
};

/// Endpoints that one call is offered to before it is refused.
const OFFERS_MAX: usize = 3;
/// How often gauges and ejections are brought up to date.
const TICK: Duration = Duration::from_millis(250);

/// What the delivery of one shard is made of.
pub struct Parts {
    /// `[delivery]`.
    pub settings: Settings,
    /// All `[services."<name>"]`.
    pub services: Services,
    /// Number of the shard, below the number `directory` was made for.
    pub shard: usize,
    /// What all shards share.
    pub directory: Arc<SharedDirectory>,
    /// Series.
    pub metrics: Metrics,
    /// How connections speak.
    pub transports: Transports,
    /// Runs connections and bridges on the shard.
    pub tracker: TaskTracker,
}

/// The local services of this unit on one shard.
pub struct Delivery {
    me: Weak<Self>,
    shard: usize,
    settings: Settings,
    services: RefCell<HashMap<ServiceName, Rc<Service>>>,
    calls: RefCell<SlotMap<DefaultKey, Call>>,
    /// Endpoints that registered on other shards, by registration.
    elsewhere: RefCell<HashMap<u64, Rc<Slot>>>,
    /// Services with calls that wait.
    lines: RefCell<Vec<Rc<Service>>>,
    /// Something has changed for calls that wait.
    room: Notify,
    draining: Cell<bool>,
    directory: Arc<SharedDirectory>,
    metrics: Metrics,
    pub(in crate::delivery) dial: Rc<dyn Dial>,
    /// Keepers of endpoints end.
    pub(in crate::delivery) ends: CancellationToken,
    pub(in crate::delivery) tracker: TaskTracker,
}

/// A call under way.
struct Call {
    caller: CallerRef,
    service: Rc<Service>,
    /// Empty while the call waits or is being offered to endpoints.
    target: Option<Target>,
    /// Set while it waits for an endpoint with room.
    waits: Option<Box<waiting::Wait>>,
}

#[derive(Clone)]
struct Target {
    slot: Rc<Slot>,
    link: Link,
    id: CallId,
}

impl Delivery {
    /// The services in the settings. Until [`Delivery::run`] runs, only endpoints that registered on this
    /// shard are called.
    pub fn new(parts: Parts) -> Rc<Self> {
        let delivery = Rc::new_cyclic(|me| Self {
            me: me.clone(),
            shard: parts.shard,
            settings: parts.settings,
            services: RefCell::default(),
            calls: RefCell::default(),
            elsewhere: RefCell::default(),
            lines: RefCell::default(),
            room: Notify::new(),
            draining: Cell::new(false),
            directory: parts.directory,
            metrics: parts.metrics,
            dial: Rc::new(parts.transports),
            ends: CancellationToken::new(),
            tracker: parts.tracker,
        });
        for (name, settings) in parts.services {
            delivery.set_up(&name, settings);
        }
        delivery
    }

    /// Keeps connections to the endpoints in the settings, follows registrations on other shards and keeps
    /// gauges up to date, until `shutdown`. From then on connections end with the calls they have.
    pub async fn run(self: Rc<Self>, shutdown: CancellationToken) {
        for service in self.services() {
            connector::keep(&self, &service, &self.dial, &self.ends, false);
        }
        let news = self.directory.news(self.shard);
        let mut batch = VecDeque::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.ends.cancel();
                    return self.end_waiting();
                }
                () = registrations::next_news(news.as_ref(), &mut batch) => {}
                () = self.room.notified() => {}
                () = tokio::time::sleep(self.tick()) => {}
            }
            for news in batch.drain(..) {
                self.on_news(news);
            }
            self.advance();
            let now = tokio::time::Instant::now().into_std();
            for service in self.services.borrow().values() {
                service.on_tick(now);
            }
        }
    }

    /// Makes a service of the relay itself callable on this shard, with default settings.
    pub fn attach(&self, service: &ServiceName, endpoint: Rc<dyn Endpoint>) {
        let service = self.set_up(service, ServiceSettings::default());
        service.attached.set(true);
        service.add(self.slot(&service, "attached", "pipe", Some(endpoint)));
    }

    /// Takes no new calls from now on (C-L1).
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Calls under way on this shard.
    pub fn open_calls(&self) -> usize {
        self.calls.borrow().len()
    }

    /// Whether a call to this service would be handed over now; `None` if it is not known here.
    pub fn is_available(&self, service: &str) -> Option<bool> {
        let services = self.services.borrow();
        services.get(service).map(|service| service.is_available())
    }

    /// The services and their settings.
    pub(in crate::delivery) fn services(&self) -> Vec<Rc<Service>> {
        self.services.borrow().values().cloned().collect()
    }

    /// An endpoint of `service` that is not among its endpoints yet.
    pub(in crate::delivery) fn slot(
        &self,
        service: &Service,
        label: &str,
        kind: &str,
        fixed: Option<Rc<dyn Endpoint>>,
    ) -> Rc<Slot> {
        let limit = match service.settings().endpoint_in_flight_max {
            0 => None,
            limit => Some((
                self.directory.counter(&format!("{}|{label}|{kind}", service.name)),
                limit,
            )),
        };
        let slot = Slot::new(self.metrics.endpoint(service.name.as_str(), label, kind), limit);
        if let Some(endpoint) = fixed {
            slot.add(Link {
                endpoint,
                control: None,
            });
        }
        slot
    }

    fn set_up(&self, name: &ServiceName, settings: ServiceSettings) -> Rc<Service> {
        let mut services = self.services.borrow_mut();
        let make = || {
            let metrics = self.metrics.service(name.as_str());
            Service::new(name.clone(), settings, metrics, self.directory.counter(name.as_str()))
        };
        Rc::clone(services.entry(name.clone()).or_insert_with(make))
    }

    fn find(&self, request: &Request) -> Result<Rc<Service>, RelayError> {
        if self.draining.get() {
            let detail = "this relay is shutting down; try another relay of the unit";
            return Err(RelayError::new(Reason::Draining, Retry::Safe, detail));
        }
        let Some(name) = request.service() else {
            let detail = "the path must have the form /service/method";
            return Err(RelayError::new(Reason::BadInput, Retry::Never, detail));
        };
        self.services.borrow().get(name).cloned().ok_or_else(|| {
            // Text that is no name is not repeated: it may be anything.
            let shown = Name::new(name).map_or_else(|_| "of this name".to_owned(), |name| name.to_string());
            let detail = format!(
                "no service {shown} is known at this relay; check the spelling, or add [services.\"<name>\"] with its \
                 endpoints to the configuration (endpoints = [] if it registers itself over the framed socket)"
            );
            RelayError::new(Reason::UnknownService, Retry::Never, detail)
        })
    }

    /// Offers the call to endpoints until one takes it.
    fn offer(
        &self,
        key: DefaultKey,
        service: &Service,
        mut request: Box<Request>,
        waits: bool,
    ) -> Result<Target, Refused> {
        let streams = request.body.is_partial();
        let wish = Wish { streams, waits };
        let Some(me) = self.me.upgrade() else {
            let error = RelayError::new(Reason::Draining, Retry::Safe, "this relay is shutting down");
            return Err(refused(error, request));
        };
        let mut tried = Vec::new();
        let mut last = None;
        while tried.len() < OFFERS_MAX {
            let Some((slot, link)) = service.pick(&tried, wish, || fastrand::u64(..)) else {
                break;
            };
            let caller = CallerRef {
                port: me.clone(),
                id: CallId(key.data().as_ffi()),
            };
            match link.endpoint.open(request, caller) {
                Ok(id) => return Ok(Target { slot, link, id }),
                Err(refused) if refused.error.retry == Retry::Safe => {
                    tried.push(slot);
                    last = Some(refused.error);
                    request = refused.request;
                }
                Err(refused) => return Err(refused),
            }
        }
        let error = last.map_or_else(|| service.unavailable(), |error| *error);
        Err(refused(error, request))
    }

    fn end(&self, id: CallId, event: ReplyEvent) {
        let Some(call) = self.calls.borrow_mut().remove(key_of(id)) else {
            return;
        };
        let outcome = match &event {
            ReplyEvent::Failed(error) => {
                if let Some(target) = &call.target {
                    let settings = call.service.settings();
                    target.slot.on_call_failed(&target.link, error, &settings.outlier);
                }
                outcome_of_error(error)
            }
            ReplyEvent::Part(part) => {
                if let Some(target) = &call.target {
                    target.slot.on_answered();
                }
                outcome_of_status(part.end.as_ref().map(|end| end.status).unwrap_or_default())
            }
            ReplyEvent::Credit(_) => Outcome::Failed,
        };
        self.on_ended(&call, outcome);
        call.caller.send(event);
    }

    /// A call is over, and may have left its place to one that waits.
    fn on_ended(&self, call: &Call, outcome: Outcome) {
        call.on_ended(outcome);
        if call.service.waiting.borrow().len() > 0 {
            self.on_room();
        }
    }

    fn hand_over(&self, key: DefaultKey, target: Target) {
        target.slot.on_opened();
        if let Some(call) = self.calls.borrow_mut().get_mut(key) {
            call.target = Some(target);
        }
    }
}

impl Call {
    /// The call is over: its service and endpoint have one less (Y1).
    fn on_ended(&self, outcome: Outcome) {
        self.service.leave();
        if let Some(target) = &self.target {
            target.slot.on_ended();
        }
        self.service.metrics.on_ended(outcome);
    }
}

impl Callee for Delivery {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let service = match self.find(&request) {
            Ok(service) => service,
            Err(error) => return Err(refused(error, request)),
        };
        if let Err(error) = service.admit() {
            return Err(refused(error, request));
        }
        let call = Call {
            caller,
            service: Rc::clone(&service),
            target: None,
            waits: None,
        };
        let key = self.calls.borrow_mut().insert(call);
        let offered = if service.waiting.borrow().has(request.body.is_partial()) {
            Err(refused(service.limited(), request))
        } else {
            self.offer(key, &service, request, true)
        };
        let taken = match offered {
            Ok(target) => {
                self.hand_over(key, target);
                Ok(())
            }
            Err(refused) => self.wait(key, &service, refused),
        };
        match taken {
            Ok(()) => Ok(CallId(key.data().as_ffi())),
            Err(refused) => {
                self.calls.borrow_mut().remove(key);
                service.leave();
                service.metrics.on_ended(outcome_of_error(&refused.error));
                Err(refused)
            }
        }
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        let target = if let RequestEvent::Cancel(reason) = &event {
            let Some(call) = self.calls.borrow_mut().remove(key_of(id)) else {
                return;
            };
            call.leave_line(key_of(id));
            self.on_ended(&call, outcome_of_cancel(*reason));
            call.target.map(|target| (target.link.endpoint, target.id))
        } else {
            if self
                .calls
                .borrow()
                .get(key_of(id))
                .is_some_and(|call| call.waits.is_some())
            {
                return self.on_early(id, event);
            }
            let calls = self.calls.borrow();
            let target = calls.get(key_of(id)).and_then(|call| call.target.as_ref());
            target.map(|target| (Rc::clone(&target.link.endpoint), target.id))
        };
        if let Some((endpoint, id)) = target {
            endpoint.on_request(id, event);
        }
    }
}

impl Caller for Delivery {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        let ends = match &event {
            ReplyEvent::Part(part) => part.end.is_some(),
            ReplyEvent::Failed(_) => true,
            ReplyEvent::Credit(_) => false,
        };
        if ends {
            self.end(id, event);
            return;
        }
        let caller = self.calls.borrow().get(key_of(id)).map(|call| call.caller.clone());
        if let Some(caller) = caller {
            caller.send(event);
        }
    }
}

fn refused(error: RelayError, request: Box<Request>) -> Refused {
    Refused {
        error: Box::new(error),
        request,
    }
}

fn key_of(id: CallId) -> DefaultKey {
    DefaultKey::from(KeyData::from_ffi(id.0))
}
