//! The links of one shard: keeps one to each relay that may be dialled, takes those that peers open,
//! and picks one for a call.
//!
//! # Invariants
//! - P1. A relay with an address is dialled again and again, with jitter, until the shard ends (C-L4).
//! - P2. A link carries calls of both sides, whoever dialled it (C-L5).
//! - P3. Two connections become one link only if both have the same link id and the same identity.
//!
//! # Not here
//! What happens on a link (`link`), who may connect (`tls`, `verify`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backoff::Backoff;
use super::elsewhere::{Elsewhere, Gate};
use super::handshake::{self, Greeted, HandshakeError, LaneStreams};
use super::link::{Limits, Link, LinkPeer};
use super::metrics::Metrics;
use super::quic::{self, Quic};
use super::refusals::Direction;
use super::session;
use super::settings::{RelaySettings, Settings, UnitSettings};
use super::verify::Dialled;
use crate::model::{Callee, Endpoint, Geo, Place, Reason, RelayError, RelayName, Retry, UnitId};
use crate::telemetry::Chain;
use crate::wire::hello::{Hello, Purpose};

/// What the links of a shard are made of.
pub struct Parts {
    /// This relay.
    pub place: Place,
    /// Its Geo.
    pub geo: Geo,
    /// `[peer]`.
    pub settings: Settings,
    /// `[units.*]`.
    pub units: BTreeMap<UnitId, UnitSettings>,
    /// Makes endpoints and configurations.
    pub quic: Quic,
    /// Takes the calls of peers.
    pub handler: Rc<dyn Callee>,
    /// Series of links.
    pub metrics: Metrics,
    /// Socket for connections we open.
    pub dialler: quinn::Endpoint,
    /// Number of this shard, and what the shards know of each other's links.
    pub elsewhere: (usize, std::sync::Arc<Elsewhere>),
}

/// The links of one shard. See the module documentation.
pub struct Peers {
    parts: Parts,
    units: HashMap<UnitId, UnitLinks>,
    /// Accepted connections for lanes that wait for the one for bodies (P3).
    half: RefCell<HashMap<Vec<u8>, Partner>>,
    /// Ways to the other shards.
    crossings: RefCell<HashMap<usize, Rc<dyn Callee>>>,
    handshakes: Cell<usize>,
    draining: Cell<bool>,
    closing: CancellationToken,
    tracker: TaskTracker,
}

/// Who waits for the second connection of a link, and how it is handed over.
type Partner = (LinkPeer, oneshot::Sender<quinn::Connection>);

#[derive(Default)]
struct UnitLinks {
    links: RefCell<Vec<Rc<Link>>>,
    /// Why the last attempt failed, for the error that callers get.
    trouble: RefCell<Option<String>>,
    relays: usize,
    /// By relay, whether it takes no new calls.
    draining: RefCell<HashMap<RelayName, Rc<Cell<bool>>>>,
}

/// Why a relay could not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address has no meaning.
    #[error("address {0:?} does not resolve")]
    Address(String, #[source] std::io::Error),
    /// The address has no meaning.
    #[error("address {0:?} resolves to nothing")]
    NoAddress(String),
    /// The QUIC or TLS handshake failed.
    #[error("no connection to {0}")]
    Connection(SocketAddr, #[source] quinn::ConnectionError),
    /// The attempt could not be made.
    #[error("cannot dial {0}")]
    Dial(SocketAddr, #[source] quinn::ConnectError),
    /// The relays do not understand each other.
    #[error("the handshake with {0} failed")]
    Handshake(SocketAddr, #[source] HandshakeError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] quic::QuicError),
    /// It took too long.
    #[error("no answer from {address} within {}", humantime::format_duration(*.limit))]
    Slow {
        /// Whom we asked.
        address: String,
        /// How long we waited.
        limit: Duration,
    },
}

impl Peers {
    /// The links of a shard; none is open before [`Peers::start`].
    pub fn new(parts: Parts) -> Rc<Self> {
        let units = parts.units.iter().map(|(unit, settings)| {
            parts.metrics.expect(unit);
            (
                unit.clone(),
                UnitLinks {
                    relays: settings.relays.len(),
                    ..UnitLinks::default()
                },
            )
        });
        let units = units.collect();
        Rc::new(Self {
            units,
            parts,
            half: RefCell::default(),
            crossings: RefCell::default(),
            handshakes: Cell::new(0),
            draining: Cell::new(false),
            closing: CancellationToken::new(),
            tracker: TaskTracker::new(),
        })
    }

    /// Starts dialling all relays that may be dialled, and accepting on `listener`.
    pub fn start(self: &Rc<Self>, listener: Option<quinn::Endpoint>) {
        for (unit, settings) in self.parts.units.iter().filter(|(_, settings)| settings.dial) {
            for relay in settings.relays.iter().filter(|relay| !relay.addresses.is_empty()) {
                self.tracker.spawn_local(self.clone().keep(unit.clone(), relay.clone()));
            }
        }
        if let Some(listener) = listener {
            self.tracker.spawn_local(self.clone().accept(listener));
        }
        self.cross();
    }

    /// Takes the ends of bridges that belong to this shard.
    fn cross(self: &Rc<Self>) {
        let (own, elsewhere) = &self.parts.elsewhere;
        let ends = elsewhere.ends(*own);
        for (shard, near) in ends.nears {
            let (endpoint, replies) = near.into_endpoint();
            let endpoint: Rc<dyn Callee> = endpoint;
            self.crossings.borrow_mut().insert(shard, endpoint);
            self.tracker.spawn_local(self.until_closing(replies));
        }
        for far in ends.fars {
            self.tracker.spawn_local(self.until_closing(far.run(Gate::new(self))));
        }
    }

    fn until_closing<F: Future<Output = ()> + 'static>(&self, task: F) -> impl Future<Output = ()> + use<F> {
        let closing = self.closing.clone();
        async move {
            tokio::select! {
                () = task => {}
                () = closing.cancelled() => {}
            }
        }
    }

    fn tell_links(&self, unit: &UnitId) {
        let (own, elsewhere) = &self.parts.elsewhere;
        let links = self.units.get(unit).map_or(0, |known| known.links.borrow().len());
        elsewhere.on_links(*own, unit, links);
    }

    /// A link to a unit: one of this shard, or the way to a shard that has one.
    ///
    /// # Errors
    /// The unit is not configured, or no link to it is up.
    pub fn to(&self, unit: &UnitId) -> Result<Rc<dyn Callee>, RelayError> {
        self.here(unit).or_else(|error| {
            let (own, elsewhere) = &self.parts.elsewhere;
            let shard = elsewhere.shard_for(unit, *own).ok_or_else(|| error.clone())?;
            let crossing = self.crossings.borrow().get(&shard).cloned();
            crossing.ok_or(error)
        })
    }

    /// A link of this shard, by power of two choices among those that take calls.
    pub(super) fn here(&self, unit: &UnitId) -> Result<Rc<dyn Callee>, RelayError> {
        let Some(known) = self.units.get(unit) else {
            let detail = format!("unit {unit} is not configured at this relay; add [units.{unit}] to its settings");
            return Err(RelayError::new(Reason::UnknownUnit, Retry::Never, detail));
        };
        let links = known.links.borrow();
        let mut ready = links.iter().filter(|link| link.is_ready());
        let (first, second) = (ready.next(), ready.next());
        let chosen = match (first, second) {
            (None, _) => return Err(known.away(unit)),
            (Some(only), None) => only,
            (Some(_), Some(_)) => {
                let count = links.iter().filter(|link| link.is_ready()).count();
                let dice = (fastrand::usize(..count), fastrand::usize(..count));
                let pick = |index: usize| links.iter().filter(|link| link.is_ready()).nth(index);
                match (pick(dice.0), pick(dice.1)) {
                    (Some(a), Some(b)) if b.in_flight() < a.in_flight() => b,
                    (Some(a), _) => a,
                    (None, _) => return Err(known.away(unit)),
                }
            }
        };
        let link: Rc<dyn Callee> = chosen.clone();
        Ok(link)
    }

    /// Links that take calls, by unit, for status pages.
    pub fn ready_links(&self) -> Vec<(UnitId, usize)> {
        let ready = |links: &UnitLinks| links.links.borrow().iter().filter(|link| link.is_ready()).count();
        self.units
            .iter()
            .map(|(unit, links)| (unit.clone(), ready(links)))
            .collect()
    }

    /// Calls open on the links of this shard, both ways.
    pub fn open_calls(&self) -> usize {
        let open = |links: &UnitLinks| {
            links
                .links
                .borrow()
                .iter()
                .map(|link| link.in_flight() + link.calls_in())
                .sum::<usize>()
        };
        self.units.values().map(open).sum()
    }

    /// Tells peers that no new calls are taken here (C-L1).
    pub fn drain(&self) {
        self.draining.set(true);
        for links in self.units.values() {
            for link in links.links.borrow().iter() {
                link.drain();
            }
        }
    }

    /// Closes all links and waits for their tasks.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.parts.dialler.wait_idle().await;
    }

    /// Keeps a link to one relay up (P1).
    async fn keep(self: Rc<Self>, unit: UnitId, relay: RelaySettings) {
        let configs = match self.configs(&unit, &relay) {
            Ok(configs) => configs,
            Err(error) => return self.on_trouble(&unit, &relay, &error.into()),
        };
        let mut backoff = Backoff::default();
        let mut address = 0_usize;
        while !self.closing.is_cancelled() {
            let text = relay
                .addresses
                .get(address % relay.addresses.len())
                .cloned()
                .unwrap_or_default();
            address = address.wrapping_add(1);
            let limit = self.parts.settings.handshake_timeout;
            let dialled = tokio::select! {
                dialled = timeout(limit, self.dial(&unit, &relay, &configs, &text)) => dialled,
                () = self.closing.cancelled() => return,
            };
            match dialled {
                Ok(Ok((lanes, streams, bodies))) => {
                    backoff.reset();
                    address = address.wrapping_sub(1);
                    self.run(lanes, streams, bodies, true).await;
                }
                Ok(Err(error)) => self.on_trouble(&unit, &relay, &error),
                Err(_) => self.on_trouble(&unit, &relay, &ConnectError::Slow { address: text, limit }),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.after_failure(fastrand::f64())) => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    fn configs(&self, unit: &UnitId, relay: &RelaySettings) -> Result<Configs, quic::QuicError> {
        let dialled = Dialled {
            unit: unit.clone(),
            relay: Some(relay.name.clone()),
        };
        let lanes = self.parts.quic.client_config(dialled.clone(), quic::Purpose::Lanes)?;
        let bodies = self.parts.quic.client_config(dialled, quic::Purpose::Bodies)?;
        Ok(Configs { lanes, bodies })
    }

    async fn dial(
        &self,
        unit: &UnitId,
        relay: &RelaySettings,
        configs: &Configs,
        address: &str,
    ) -> Result<(Greeted, Vec<LaneStreams>, quinn::Connection), ConnectError> {
        let resolved = tokio::net::lookup_host(address).await;
        let mut resolved = resolved.map_err(|error| ConnectError::Address(address.to_owned(), error))?;
        let at = resolved
            .next()
            .ok_or_else(|| ConnectError::NoAddress(address.to_owned()))?;
        let failed = |error| ConnectError::Handshake(at, error);
        let link_id: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(16).collect();
        let lanes = self.connect(&configs.lanes, at).await?;
        let lanes = handshake::greet(lanes, &self.hello(Purpose::Lanes, link_id.clone())).await;
        let lanes = lanes.inspect_err(|error| self.report(at, error)).map_err(failed)?;
        let streams = handshake::open_lanes(&lanes.connection, self.parts.settings.lanes.max(1))
            .await
            .map_err(failed)?;
        let bodies = self.connect(&configs.bodies, at).await?;
        let bodies = handshake::greet(bodies, &self.hello(Purpose::Bodies, link_id))
            .await
            .map_err(failed)?;
        tracing::debug!(peer.unit = %unit, peer.relay = %relay.name, peer.address = %at, "link dialled");
        Ok((lanes, streams, bodies.connection))
    }

    async fn connect(&self, config: &quinn::ClientConfig, at: SocketAddr) -> Result<quinn::Connection, ConnectError> {
        let connecting = self.parts.dialler.connect_with(config.clone(), at, quic::SERVER_NAME);
        let connecting = connecting.map_err(|error| ConnectError::Dial(at, error))?;
        connecting.await.map_err(|error| {
            self.parts.quic.report(Direction::Dialled, at, &error);
            ConnectError::Connection(at, error)
        })
    }

    /// A peer that refuses our certificate says so only after the connection seems open.
    fn report(&self, at: SocketAddr, error: &HandshakeError) {
        if let Some(error) = error.lost() {
            self.parts.quic.report(Direction::Dialled, at, error);
        }
    }

    fn hello(&self, purpose: Purpose, link_id: Vec<u8>) -> Hello {
        let Place { unit, relay } = &self.parts.place;
        let mut hello = Hello::new(purpose, self.parts.settings.calls_max).of_relay(&self.parts.geo, unit, relay);
        hello.link_id = link_id;
        hello
    }

    fn on_trouble(&self, unit: &UnitId, relay: &RelaySettings, error: &ConnectError) {
        self.parts.metrics.on_connect_failed(unit);
        let Some(known) = self.units.get(unit) else { return };
        let text = format!("relay {}: {}", relay.name, Chain(error));
        // Said once per kind of trouble, not once per attempt.
        if known.trouble.borrow().as_ref() != Some(&text) {
            tracing::warn!(peer.unit = %unit, peer.relay = %relay.name, error = %Chain(error), "cannot reach relay; trying on");
            *known.trouble.borrow_mut() = Some(text);
        }
    }

    /// Runs an established link and keeps it among those of its unit meanwhile.
    async fn run(&self, lanes: Greeted, streams: Vec<LaneStreams>, bodies: quinn::Connection, dialled: bool) {
        let peer = lanes.peer.clone();
        let Some(known) = self.units.get(&peer.unit) else {
            return;
        };
        let limits = Limits {
            calls_out_max: lanes.agreed.calls_max,
            bytes_out_max: self.parts.settings.bytes_max.as_usize(),
            calls_in_max: usize::try_from(self.parts.settings.calls_max).unwrap_or(usize::MAX),
            pending_max: self.parts.settings.pending_max,
            lanes: streams.len(),
        };
        let metrics = self.parts.metrics.on_connected(&peer.unit, dialled);
        let drains = known.drains(&peer.relay);
        let link = Link::new(
            peer.clone(),
            limits,
            bodies,
            self.parts.handler.clone(),
            metrics,
            drains,
        );
        if self.draining.get() {
            link.drain();
        }
        known.links.borrow_mut().push(link.clone());
        *known.trouble.borrow_mut() = None;
        self.tell_links(&peer.unit);
        tracing::info!(peer.geo = %peer.geo, peer.unit = %peer.unit, peer.relay = %peer.relay, dialled, "link up");
        let why = session::run(link.clone(), lanes, streams, self.closing.clone()).await;
        known.links.borrow_mut().retain(|other| !Rc::ptr_eq(other, &link));
        self.tell_links(&peer.unit);
        // What took this link took the others to that relay too, as often as not: they get no calls until
        // they have answered a probe.
        for other in known
            .links
            .borrow()
            .iter()
            .filter(|other| other.peer.relay == peer.relay)
        {
            other.set_silent(true);
        }
        *known.trouble.borrow_mut() = Some(format!("relay {}: link lost: {why}", peer.relay));
        tracing::info!(peer.geo = %peer.geo, peer.unit = %peer.unit, peer.relay = %peer.relay, reason = %why, "link down");
    }

    /// Takes connections of peers until the shard ends.
    async fn accept(self: Rc<Self>, listener: quinn::Endpoint) {
        loop {
            let incoming = tokio::select! {
                incoming = listener.accept() => incoming,
                () = self.closing.cancelled() => None,
            };
            let Some(incoming) = incoming else { break };
            let Some(connecting) = self.parts.quic.accept(incoming, self.handshakes.get()) else {
                continue;
            };
            self.handshakes.set(self.handshakes.get() + 1);
            self.tracker.spawn_local(self.clone().take(connecting));
        }
        listener.close(session::CODE_GOODBYE, b"shutting down");
        listener.wait_idle().await;
    }

    async fn take(self: Rc<Self>, connecting: quinn::Connecting) {
        let from = connecting.remote_address();
        let limit = self.parts.settings.handshake_timeout;
        let greeted = tokio::select! {
            greeted = timeout(limit, self.answer(connecting)) => greeted,
            () = self.closing.cancelled() => return,
        };
        self.handshakes.set(self.handshakes.get().saturating_sub(1));
        match greeted {
            Ok(Ok(Some((lanes, streams, bodies)))) => self.run(lanes, streams, bodies, false).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                if let Some(error) = error.lost() {
                    self.parts.quic.report(Direction::Accepted, from, error);
                }
                tracing::debug!(peer.address = %from, error = %Chain(&error), "handshake of a peer failed");
            }
            Err(_) => tracing::debug!(peer.address = %from, "peer too slow to say hello"),
        }
    }

    /// Greets a connection. One for lanes waits until its partner for bodies is there too (P3).
    async fn answer(
        &self,
        connecting: quinn::Connecting,
    ) -> Result<Option<(Greeted, Vec<LaneStreams>, quinn::Connection)>, HandshakeError> {
        let connection = connecting.await?;
        let heard = handshake::hear(connection.clone()).await?;
        let link_id = heard.theirs.link_id.clone();
        let ours = self.hello(heard.theirs.purpose(), link_id.clone());
        if heard.theirs.purpose() == Purpose::Bodies {
            self.parts.quic.adopt(&connection, quic::Purpose::Bodies);
            let partner = self
                .half
                .borrow_mut()
                .remove(&link_id)
                .filter(|(peer, _)| *peer == heard.peer);
            let (_, partner) = partner.ok_or(HandshakeError::NoPartner)?;
            let greeted = heard.reply(&ours).await?;
            // Gone if the partner gave up meanwhile; the dialling side then sees that connection end.
            let _ = partner.send(greeted.connection);
            return Ok(None);
        }
        let (sender, partner) = oneshot::channel();
        let waiting = Half {
            peers: self,
            link_id: link_id.clone(),
        };
        self.half.borrow_mut().insert(link_id, (heard.peer.clone(), sender));
        let greeted = heard.reply(&ours).await?;
        let streams = handshake::accept_lanes(&connection).await?;
        let bodies = partner.await.map_err(|_| HandshakeError::NoPartner)?;
        drop(waiting);
        Ok(Some((greeted, streams, bodies)))
    }
}

/// Takes a waiting connection out of the table when its wait ends, however it ends.
struct Half<'a> {
    peers: &'a Peers,
    link_id: Vec<u8>,
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        self.peers.half.borrow_mut().remove(&self.link_id);
    }
}

/// How one relay is dialled, for both connections of a link.
struct Configs {
    lanes: quinn::ClientConfig,
    bodies: quinn::ClientConfig,
}

impl UnitLinks {
    /// The mark that all links to a relay share. A relay that was draining and connects anew has started anew.
    fn drains(&self, relay: &RelayName) -> Rc<Cell<bool>> {
        let mut marks = self.draining.borrow_mut();
        let mark = marks.entry(relay.clone()).or_default();
        if mark.get() {
            *mark = Rc::default();
        }
        mark.clone()
    }

    fn away(&self, unit: &UnitId) -> RelayError {
        let trouble = self
            .trouble
            .borrow()
            .clone()
            .unwrap_or_else(|| "no relay of it has connected yet".to_owned());
        let detail = format!(
            "no link to unit {unit} takes calls ({} relays configured); {trouble}",
            self.relays
        );
        RelayError::new(Reason::UnitAway, Retry::Never, detail).pushed_back(AWAY_PUSHBACK)
    }
}

/// When a caller should try a unit that is away again at the earliest.
const AWAY_PUSHBACK: Duration = Duration::from_secs(1);
