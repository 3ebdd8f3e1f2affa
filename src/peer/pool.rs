//! The links of one shard: those dialled and those that peers opened; picks one for a call.
//!
//! # Invariants
//! - P2. A link carries calls of both sides, whoever dialled it (C-L5).
//!
//! # Not here
//! Dialling (`dialling`), accepting (`accepting`), what happens on a link (`link`), who may connect (`tls`, `verify`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accepting::Partner;
use super::dialling::Kept;
use super::elsewhere::{Elsewhere, Gate};
use super::handshake::{Greeted, LaneStreams};
use super::life::Terms;
use super::line::Lines;
use super::link::{Limits, Link, LinkPeer};
use super::messages::{FEATURE, LaneHandler, LaneLink};
use super::metrics::Metrics;
use super::observers::{self, Observers, Witness};
use super::quic::Quic;
use super::roster::Roster;
use super::session::{self, Ended};
use super::settings::{Settings, Units};
use super::upkeep::{Made, Upkeep};
use crate::model::{Callee, Endpoint, Geo, Map, Place, Reason, RelayError, RelayName, Retry, UnitId};
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
    pub units: Units,
    /// Makes endpoints and configurations.
    pub quic: Quic,
    /// Takes the calls of peers.
    pub handler: Rc<dyn Callee>,
    /// Takes lanes for messages; without it peers open none.
    pub lane_handler: Option<Rc<dyn LaneHandler>>,
    /// Series of links.
    pub metrics: Metrics,
    /// Socket for connections we open.
    pub dialler: quinn::Endpoint,
    /// Number of this shard, and what the shards know of each other's links.
    pub elsewhere: (usize, Arc<Elsewhere>),
    /// The open links of all shards.
    pub roster: Arc<Roster>,
    /// Which units this relay and others reach.
    pub observers: Arc<Observers>,
    /// Takes lines for the routes; only the relay that has them does.
    pub lines: Option<Lines>,
}

/// The links of one shard. See the module documentation.
pub struct Peers {
    pub(super) parts: Parts,
    units: RefCell<Map<UnitId, Rc<UnitLinks>>>,
    /// Units that left the settings, while links to them live: one that comes back is reached over those at once.
    gone: RefCell<Map<UnitId, Weak<UnitLinks>>>,
    pub(super) kept: RefCell<Vec<Rc<Kept>>>,
    /// Accepted connections for lanes that wait for the one for bodies (P3).
    pub(super) half: RefCell<HashMap<Vec<u8>, Partner>>,
    /// Ways to the other shards.
    crossings: RefCell<HashMap<usize, Rc<dyn Callee>>>,
    pub(super) handshakes: Cell<usize>,
    draining: Cell<bool>,
    pub(super) closing: CancellationToken,
    tracker: TaskTracker,
}

/// A link whose two sides have said hello.
pub(super) struct Greetings {
    pub(super) lanes: Greeted,
    pub(super) streams: Vec<LaneStreams>,
    pub(super) bodies: quinn::Connection,
    pub(super) made: Made,
}

#[derive(Default)]
pub(super) struct UnitLinks {
    links: RefCell<Vec<Rc<Link>>>,
    /// Why the last attempt failed, for the error that callers get.
    pub(super) trouble: RefCell<Option<String>>,
    relays: Cell<usize>,
    /// By relay, whether it takes no new calls.
    draining: RefCell<HashMap<RelayName, Rc<Cell<bool>>>>,
}

impl Peers {
    /// The links of a shard; none is open before [`Peers::start`].
    pub fn new(parts: Parts) -> Rc<Self> {
        let peers = Rc::new(Self {
            parts,
            units: RefCell::default(),
            gone: RefCell::default(),
            kept: RefCell::default(),
            half: RefCell::default(),
            crossings: RefCell::default(),
            handshakes: Cell::new(0),
            draining: Cell::new(false),
            closing: CancellationToken::new(),
            tracker: TaskTracker::new(),
        });
        peers.know(&peers.parts.units);
        peers
    }

    /// Starts dialling all relays that may be dialled, and accepting on `listener`.
    pub fn start(self: &Rc<Self>, listener: Option<quinn::Endpoint>) {
        self.dial_as_configured(&self.parts.units);
        if let Some(listener) = listener {
            self.tracker.spawn_local(self.clone().accept(listener));
        }
        self.cross();
    }

    /// Other units, relays or addresses are in the settings (C-L2). Links to relays that stay are left alone; those of
    /// units that went end with their calls.
    pub fn reload(self: &Rc<Self>, units: &Units) {
        self.know(units);
        self.dial_as_configured(units);
    }

    /// Calls go to these units and to no others.
    fn know(&self, units: &Units) {
        let (mut known, mut gone) = (self.units.borrow_mut(), self.gone.borrow_mut());
        for (unit, links) in known.extract_if(|unit, _| !units.contains_key(unit)) {
            gone.insert(unit, Rc::downgrade(&links));
        }
        gone.retain(|_, links| links.strong_count() > 0);
        for (unit, settings) in units {
            self.parts.metrics.expect(unit);
            let back = gone.remove(unit).and_then(|links| links.upgrade());
            let links = known.entry(unit.clone()).or_insert_with(|| back.unwrap_or_default());
            links.relays.set(settings.relays.len());
        }
        self.parts.observers.know(units.keys());
    }

    /// Runs a task until the shard ends.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tracker.spawn_local(task);
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
        // Links that retire are no reason to send calls to this shard.
        let links = self
            .unit(unit)
            .map_or(0, |known| known.count(|link| !link.is_retiring()));
        elsewhere.on_links(*own, unit, links);
        self.tell_takers(unit);
    }

    /// Other links of a unit take calls and lanes than before.
    fn tell_takers(&self, unit: &UnitId) {
        let takers = self.unit(unit).map_or(0, |known| known.count(Link::takes_calls));
        self.parts
            .observers
            .on_reached(self.parts.elsewhere.0, unit, takers > 0);
        self.tell_lanes(unit);
    }

    fn tell_lanes(&self, unit: &UnitId) {
        let Some(handler) = &self.parts.lane_handler else {
            return;
        };
        let links = self.unit(unit).map_or_else(Vec::new, |known| {
            let links = known.links.borrow();
            let able = links.iter().filter(|link| link.takes_lanes());
            able.map(LaneLink::new).collect()
        });
        handler.on_links(unit, links);
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
        let units = self.units.borrow();
        let Some(known) = units.get(unit) else {
            let detail = format!("unit {unit} is not configured at this relay; add [units.{unit}] to its settings");
            return Err(RelayError::new(Reason::UnknownUnit, Retry::Never, detail));
        };
        let links = known.links.borrow();
        let mut ready = links.iter().filter(|link| link.is_ready());
        let (first, second) = (ready.next(), ready.next());
        let chosen = match (first, second) {
            // The one that took its place may have gone before it.
            (None, _) => match links.iter().find(|link| link.takes_calls()) {
                Some(retiring) => retiring,
                None => return Err(known.away(unit)),
            },
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
        let units = self.units.borrow();
        let ready = units
            .iter()
            .map(|(unit, known)| (unit.clone(), known.count(Endpoint::is_ready)));
        ready.collect()
    }

    /// Shows in the series which units others reach, if that has changed.
    pub fn show_observers(&self) {
        self.parts.observers.show(&self.parts.metrics);
    }

    /// Calls open on the links of this shard, both ways.
    pub fn open_calls(&self) -> usize {
        let open = |known: &Rc<UnitLinks>| {
            let links = known.links.borrow();
            links
                .iter()
                .map(|link| link.in_flight() + link.calls_in())
                .sum::<usize>()
        };
        self.units.borrow().values().map(open).sum()
    }

    /// Links to a relay that wait for their last call.
    pub(super) fn retiring(&self, peer: &LinkPeer) -> usize {
        let known = self.unit(&peer.unit);
        known.map_or(0, |known| known.count(|link| link.is_retiring() && link.peer == *peer))
    }

    /// What is known of a configured unit.
    pub(super) fn unit(&self, unit: &UnitId) -> Option<Rc<UnitLinks>> {
        self.units.borrow().get(unit).cloned()
    }

    /// Tells peers that no new calls are taken here (C-L1).
    pub fn drain(&self) {
        self.draining.set(true);
        for links in self.units.borrow().values() {
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

    pub(super) fn hello(&self, purpose: Purpose, link_id: Vec<u8>) -> Hello {
        let Place { unit, relay } = &self.parts.place;
        let mut hello = Hello::new(purpose, self.parts.settings.calls_max).of_relay(&self.parts.geo, unit, relay);
        hello.link_id = link_id;
        if self.parts.lane_handler.is_some() {
            hello.features.push(FEATURE.to_owned());
        }
        hello.features.push(observers::FEATURE.to_owned());
        hello
    }

    /// Keeps an established link among those of its unit while it lasts; its work is done by a task.
    pub(super) fn adopt(self: &Rc<Self>, greetings: Greetings) -> Option<Rc<Link>> {
        let Greetings {
            lanes,
            streams,
            bodies,
            made,
        } = greetings;
        let peer = lanes.peer.clone();
        let known = self.unit(&peer.unit)?;
        let limits = Limits {
            calls_out_max: lanes.agreed.calls_max,
            bytes_out_max: self.parts.settings.bytes_max.as_usize(),
            calls_in_max: usize::try_from(self.parts.settings.calls_max).unwrap_or(usize::MAX),
            pending_max: self.parts.settings.pending_max,
            lanes: streams.len(),
        };
        let dialled = made.dialled.is_some();
        let row = self.parts.roster.enter(&peer, self.parts.elsewhere.0, dialled);
        let upkeep = Upkeep::new(
            self.parts.quic.clone(),
            Terms::of(&self.parts.settings),
            made,
            (lanes.connection.clone(), bodies.clone()),
            row,
        );
        let metrics = self.parts.metrics.on_connected(&peer.unit, dialled);
        let drains = known.drains(&peer.relay);
        let lane_handler = self.parts.lane_handler.clone();
        let lane_handler = lane_handler.filter(|_| lanes.agreed.has(FEATURE));
        let link = Link::new(
            peer.clone(),
            limits,
            bodies,
            (self.parts.handler.clone(), lane_handler),
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
        let listens = lanes.agreed.has(observers::FEATURE);
        let witness = listens.then(|| self.parts.observers.enter(&peer.unit));
        let running = self.clone().run(known, link.clone(), (lanes, streams, witness), upkeep);
        self.tracker.spawn_local(running);
        Some(link)
    }

    async fn run(
        self: Rc<Self>,
        known: Rc<UnitLinks>,
        link: Rc<Link>,
        (lanes, streams, witness): (Greeted, Vec<LaneStreams>, Option<Witness>),
        mut upkeep: Upkeep,
    ) {
        let peer = &link.peer;
        let row = upkeep.row();
        let retired = async {
            link.retired().await;
            link.metrics.on_retired();
            row.set(|row| row.retiring = true);
            self.tell_links(&peer.unit);
            std::future::pending::<()>().await;
        };
        let changes = async {
            loop {
                link.takes_changed().await;
                self.tell_takers(&peer.unit);
            }
        };
        let greeted = (lanes, streams, witness);
        let session = session::run(link.clone(), greeted, &mut upkeep, self.closing.clone());
        let (ended, why) = tokio::select! {
            end = session => end,
            () = retired => return,
            () = changes => return,
        };
        known.links.borrow_mut().retain(|other| !Rc::ptr_eq(other, &link));
        self.tell_links(&peer.unit);
        self.parts.metrics.on_ended(&peer.unit, ended);
        if ended != Ended::Replaced {
            // What took this link took the others to that relay too, as often as not: they get no calls until
            // they have answered a probe.
            let links = known.links.borrow();
            links
                .iter()
                .filter(|other| other.peer.relay == peer.relay)
                .for_each(|other| other.set_silent(true));
            *known.trouble.borrow_mut() = Some(format!("relay {}: link lost: {why}", peer.relay));
        }
        tracing::info!(
            peer.geo = %peer.geo, peer.unit = %peer.unit, peer.relay = %peer.relay, ended = ended.as_str(), reason = %why,
            "link down"
        );
    }
}

impl UnitLinks {
    fn count(&self, which: impl Fn(&Link) -> bool) -> usize {
        self.links.borrow().iter().filter(|link| which(link)).count()
    }

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
            self.relays.get()
        );
        RelayError::new(Reason::UnitAway, Retry::Never, detail).pushed_back(AWAY_PUSHBACK)
    }
}

/// When a caller should try a unit that is away again at the earliest.
const AWAY_PUSHBACK: Duration = Duration::from_secs(1);
