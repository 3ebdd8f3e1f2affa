//! Keeps connections to the endpoints in the settings: connects, connects again, adds and retires.
//!
//! # Invariants
//! - K1. While an endpoint can be reached and takes calls, it has a connection before a call needs one.
//! - K2. Attempts that fail are spread out with full jitter; the first one after a loss is made at once.
//! - K3. What a name resolves to is kept when the resolver fails: a broken resolver breaks no service.
//! - K4. An endpoint that leaves the settings goes when those that take its place are connected.
//!
//! # Not here
//! Protocols (`dial`), choice of endpoint (`directory`).

use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::delivery::address::{EndpointAddress, HostPort, Protocol, Site};
use crate::delivery::backoff;
use crate::delivery::dial::{Dial, DialError, Opened, Place, Work};
use crate::delivery::directory::Delivery;
use crate::delivery::health;
use crate::delivery::service::{self, Service};
use crate::delivery::slot::{Link, Slot};

/// Addresses of one name that are used; the rest is ignored.
const ADDRESSES_MAX: usize = 64;
/// A connection that lived for less counts like an attempt that failed.
const SETTLED: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

/// Keeps the endpoints in the settings of a service, until `shutdown`; then connections end with their calls. Endpoints
/// that are kept already are left alone. Those that the settings no longer have end with their calls, as soon as those
/// that take their place are connected or had time to (K4). With `anew`, all are replaced like this.
pub(in crate::delivery) fn keep(
    delivery: &Rc<Delivery>,
    service: &Rc<Service>,
    dial: &Rc<dyn Dial>,
    shutdown: &CancellationToken,
    anew: bool,
) {
    let wanted = service.settings().endpoints.clone();
    let (stay, go): (Vec<_>, Vec<_>) = service
        .kept
        .take()
        .into_iter()
        .partition(|kept| !anew && wanted.contains(&kept.address));
    let added: Vec<_> = wanted
        .into_iter()
        .filter(|address| !stay.iter().any(|kept| kept.address == *address))
        .collect();
    let mut kept = stay;
    let connected = service.connected() + added.len();
    for address in added {
        // Series are told apart by the line; those that go have theirs until they are gone.
        let taken = |label: &usize| kept.iter().chain(&go).any(|kept| kept.label == *label);
        let label = (0..=kept.len() + go.len())
            .find(|label| !taken(label))
            .unwrap_or_default();
        let retired = shutdown.child_token();
        let line = Kept {
            delivery: Rc::clone(delivery),
            service: Rc::clone(service),
            dial: Rc::clone(dial),
            protocol: address.protocol,
            label: label.to_string(),
            kind: address.kind(),
        };
        match &address.site {
            Site::Dns(name) => {
                let follow = line.follow(name.clone(), retired.clone());
                delivery.tracker.spawn_local(follow);
            }
            Site::Tcp(_) | Site::Unix(_) => line.keep(place_of(&address), retired.clone()),
        }
        kept.push(service::Kept {
            address,
            label,
            retired,
        });
    }
    service.kept.replace(kept);
    if !go.is_empty() {
        let retire = retire(Rc::clone(service), go, connected, shutdown.clone());
        delivery.tracker.spawn_local(retire);
    }
}

/// Ends keepers once so many endpoints are connected, or time is over.
async fn retire(service: Rc<Service>, go: Vec<service::Kept>, connected: usize, shutdown: CancellationToken) {
    let others = async {
        while service.connected() < connected {
            sleep(POLL).await;
        }
    };
    let limit = service.settings().connect_timeout;
    tokio::select! {
        _ = timeout(limit, others) => {}
        () = shutdown.cancelled() => {}
    }
    for kept in go {
        kept.retired.cancel();
    }
}

/// What all keepers of one line in the settings have in common.
struct Kept {
    delivery: Rc<Delivery>,
    service: Rc<Service>,
    dial: Rc<dyn Dial>,
    protocol: Protocol,
    label: String,
    kind: &'static str,
}

impl Kept {
    /// Starts to keep connections to one place until `retired`.
    fn keep(&self, place: Place, retired: CancellationToken) {
        let slot = self.delivery.slot(&self.service, &self.label, self.kind, None);
        if self.protocol == Protocol::Grpc {
            slot.set_sharing(self.service.settings().connections_max);
        }
        self.service.add(Rc::clone(&slot));
        let health = self.service.settings().health.clone();
        if health.enabled && self.protocol == Protocol::Grpc {
            let watch = health::watch(Rc::clone(&slot), health, retired.clone());
            self.delivery.tracker.spawn_local(watch);
        }
        let keeper = Keeper {
            delivery: Rc::clone(&self.delivery),
            service: Rc::clone(&self.service),
            dial: Rc::clone(&self.dial),
            protocol: self.protocol,
            place,
            slot,
            changed: Rc::new(Notify::new()),
        };
        self.delivery.tracker.spawn_local(keeper.run(retired));
    }

    /// Keeps connections to all addresses of a name and follows its changes.
    async fn follow(self, name: HostPort, shutdown: CancellationToken) {
        let mut known: HashMap<SocketAddr, CancellationToken> = HashMap::new();
        let mut failures = 0_u32;
        loop {
            let looked_up = tokio::select! {
                () = shutdown.cancelled() => return,
                looked_up = self.dial.resolve(&name) => looked_up,
            };
            let interval = self.service.settings().resolve_interval;
            let wait = match looked_up {
                Ok(addresses) if !addresses.is_empty() => {
                    failures = 0;
                    self.on_addresses(&mut known, addresses, &shutdown);
                    interval.mul_f64(0.9 + fastrand::f64() * 0.2)
                }
                result => {
                    failures = failures.saturating_add(1);
                    if failures == 1 {
                        let error = result
                            .err()
                            .map_or_else(|| "no address".to_owned(), |error| error.to_string());
                        tracing::warn!(local.service = %self.service.name, endpoint = %name, error,
                            kept = known.len(), "name of endpoint cannot be looked up");
                    }
                    backoff::wait(failures, fastrand::f64()).min(interval)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    fn on_addresses(
        &self,
        known: &mut HashMap<SocketAddr, CancellationToken>,
        addresses: Vec<SocketAddr>,
        shutdown: &CancellationToken,
    ) {
        let found: HashSet<_> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        known.retain(|address, retired| {
            let stays = found.contains(address);
            if !stays {
                retired.cancel();
            }
            stays
        });
        for address in found {
            known.entry(address).or_insert_with(|| {
                let retired = shutdown.child_token();
                self.keep(Place::Address(address), retired.clone());
                retired
            });
        }
    }
}

/// Keeps connections to one place.
struct Keeper {
    delivery: Rc<Delivery>,
    service: Rc<Service>,
    dial: Rc<dyn Dial>,
    protocol: Protocol,
    place: Place,
    slot: Rc<Slot>,
    /// A connection takes no more calls, or ended.
    changed: Rc<Notify>,
}

impl Keeper {
    async fn run(self, retired: CancellationToken) {
        tokio::select! {
            () = retired.cancelled() => {}
            () = self.keep() => {}
        }
        self.service.remove(&self.slot);
        self.slot.retire();
    }

    async fn keep(&self) {
        let mut failures = 0_u32;
        loop {
            self.wanted().await;
            let began = Instant::now();
            match self.connect().await {
                Ok(()) => {
                    if failures > 1 {
                        tracing::info!(local.service = %self.service.name, endpoint = %self.place, "endpoint is back");
                    }
                    // Until it has settled, a connection is not yet a success.
                    match timeout(SETTLED, self.lost_early()).await {
                        Err(_) => {
                            failures = 0;
                            continue;
                        }
                        Ok(Early::Wanted) => continue,
                        Ok(Early::Lost) => failures = failures.saturating_add(1),
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.slot.on_connect_failed();
                    self.delivery.on_room();
                    if failures == 1 {
                        tracing::warn!(local.service = %self.service.name, endpoint = %self.place,
                            error = %error, "endpoint cannot be reached; trying again");
                    }
                }
            }
            let wait = backoff::wait(failures, fastrand::f64());
            sleep(wait.saturating_sub(began.elapsed())).await;
        }
    }

    /// Waits until another connection is needed.
    async fn wanted(&self) {
        loop {
            let open = self.slot.open_links();
            let is_full = self.slot.wants_more() || !self.slot.has_room();
            if open == 0 || (is_full && open < self.max()) {
                return;
            }
            self.news().await;
        }
    }

    /// Waits until a new connection is all there was and is gone, or until a call asks for one more: each asks for
    /// one, so this cannot go round in circles.
    async fn lost_early(&self) -> Early {
        loop {
            let open = self.slot.open_links();
            if open == 0 {
                return Early::Lost;
            }
            if self.slot.wants_more() && open < self.max() {
                return Early::Wanted;
            }
            self.news().await;
        }
    }

    async fn news(&self) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = self.slot.is_full.notified() => {}
        }
    }

    /// Connections there may be. An HTTP/1.1 endpoint has connections of its own, as many as it may.
    fn max(&self) -> usize {
        match self.protocol {
            Protocol::Framed | Protocol::Grpc => self.service.settings().connections_max,
            Protocol::Http1 => 1,
        }
    }

    async fn connect(&self) -> Result<(), DialError> {
        let limit = self.service.settings().connect_timeout;
        let opened = timeout(
            limit,
            self.dial.dial(self.protocol, &self.place, &self.delivery.tracker),
        )
        .await;
        let Opened { link, work } = opened.map_err(|_| DialError::Timeout(limit))??;
        self.slot.metrics.on_connected();
        self.slot.add(link.clone());
        let (slot, service, changed) = (
            Rc::clone(&self.slot),
            Rc::clone(&self.service),
            Rc::clone(&self.changed),
        );
        self.delivery.tracker.spawn_local(async move {
            let ended = attend(work, &link, &changed).await;
            slot.remove(&link.endpoint);
            if !ended.orderly && ended.had_calls {
                slot.on_failure(&service.settings().outlier);
            }
            changed.notify_one();
        });
        self.slot.connected.notify_one();
        self.delivery.on_room();
        Ok(())
    }
}

/// What came before a connection had settled.
enum Early {
    Lost,
    Wanted,
}

/// How a connection ended.
struct Ended {
    orderly: bool,
    had_calls: bool,
}

/// Runs a connection, and has the keeper told as soon as it takes no more calls: the next one can be
/// there before calls have to be refused (K1).
async fn attend(mut work: Work, link: &Link, changed: &Notify) -> Ended {
    let mut was_open = true;
    let mut poll = |cx: &mut Context<'_>| {
        let had_calls = link.endpoint.in_flight() > 0;
        let polled = Pin::new(&mut work).poll(cx);
        if was_open && !link.is_open() {
            was_open = false;
            changed.notify_one();
        }
        match polled {
            Poll::Ready(orderly) => Poll::Ready(Ended { orderly, had_calls }),
            Poll::Pending => Poll::Pending,
        }
    };
    poll_fn(|cx| poll(cx)).await
}

fn place_of(address: &EndpointAddress) -> Place {
    match &address.site {
        Site::Dns(at) | Site::Tcp(at) => Place::Host(at.clone()),
        Site::Unix(path) => Place::Unix(path.clone()),
    }
}

#[cfg(test)]
mod tests;
