//! The story of messages on their way to another unit: when it is this shard's turn, take a link, open a live and a
//! backlog lane, carry what the queue gives, bring back what the other relay says.
//!
//! # Invariants
//! - K1. One shard at a time has lanes to a unit, and at most one live and one backlog lane (M-D1).
//! - K2. The queue hears once that a lane is up and once that it is down, and of its frames in between only.
//! - K3. The lanes to a unit go to the relay they went to before, if it has a link here: another one does not know
//!   what that one has stored.
//! - K4. Lanes leave a link that retires, or whose peer is silent, as soon as there is a better one.
//!
//! # Not here
//! Which messages go when, and what becomes of those that are not acknowledged (`queue::outbox`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mailbox::Mailbox;
use crate::model::lanes::{LaneKind, ToReceiver};
use crate::model::{Map, RelayName, UnitId};
use crate::peer::{LaneEnd, LaneLink, LaneReader, LaneWriter};
use crate::queue;
use crate::queue::api::Input;
use crate::queue::lanes::{LaneId, LaneIds};
use crate::telemetry::Chain;
use crate::wire::frame::lanes;

/// What the story is made of.
pub struct CarrierParts {
    /// Numbers the lanes of the shard.
    pub ids: Rc<LaneIds>,
    /// The queue.
    pub queue: queue::Handle,
    /// Whose turn it is; shared by all shards.
    pub claims: Arc<Claims>,
}

/// Carries messages to other units, on one shard.
pub struct Carriers {
    parts: CarrierParts,
    units: RefCell<Map<UnitId, Rc<Carrier>>>,
    lanes: RefCell<HashMap<LaneId, Rc<Mailbox<Item>>>>,
    closing: CancellationToken,
    tracker: TaskTracker,
    me: Weak<Self>,
}

/// Which shard has the lanes to which unit. Shared by all shards.
#[derive(Default)]
pub struct Claims {
    units: Mutex<HashMap<UnitId, Arc<Claim>>>,
}

/// One unit's.
struct Claim {
    /// The shard that holds the only permit has the lanes; the others stand in line.
    turn: Semaphore,
    /// Where the lanes go, or went last.
    relay: Mutex<Option<RelayName>>,
}

/// Carries messages to one unit.
#[derive(Default)]
struct Carrier {
    links: RefCell<Vec<LaneLink>>,
    changed: Notify,
    runs: Cell<bool>,
}

/// What a lane's writer is given.
enum Item {
    Frame(ToReceiver),
    /// The queue wants the lane to end.
    Close(String),
}

/// A lane that the queue knows; dropping it tells the queue that it is down (K2).
struct Open<'a> {
    carriers: &'a Carriers,
    id: LaneId,
    mail: Rc<Mailbox<Item>>,
}

impl Carriers {
    /// The story of one shard.
    pub fn new(parts: CarrierParts) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            parts,
            units: RefCell::default(),
            lanes: RefCell::default(),
            closing: CancellationToken::new(),
            tracker: TaskTracker::new(),
            me: me.clone(),
        })
    }

    /// These are the links to a unit now.
    pub fn on_links(&self, unit: &UnitId, links: Vec<LaneLink>) {
        let carrier = self.units.borrow_mut().entry(unit.clone()).or_default().clone();
        carrier.links.replace(links);
        carrier.changed.notify_one();
        if carrier.best(None).is_some()
            && !carrier.runs.replace(true)
            && let Some(me) = self.me.upgrade()
        {
            self.tracker.spawn_local(me.carry(unit.clone(), carrier));
        }
    }

    /// The queue has something for a relay.
    pub fn on_frame(&self, lane: LaneId, frame: ToReceiver) {
        if let Some(mail) = self.lanes.borrow().get(&lane) {
            mail.push(Item::Frame(frame));
        }
    }

    /// The queue has no use for a lane any more. False if it is none of these.
    pub fn close_lane(&self, lane: LaneId, why: &str) -> bool {
        let lanes = self.lanes.borrow();
        let mail = lanes.get(&lane);
        if let Some(mail) = mail {
            mail.push(Item::Close(why.to_owned()));
        }
        mail.is_some()
    }

    /// Lanes that are open.
    pub fn open_lanes(&self) -> usize {
        self.lanes.borrow().len()
    }

    /// Ends all lanes; the queue has heard of it then.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Carries while the shard has links to the unit, when it is its turn (K1).
    async fn carry(self: Rc<Self>, unit: UnitId, carrier: Rc<Carrier>) {
        let claim = self.parts.claims.of(&unit);
        while carrier.best(None).is_some() {
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = carrier.changed.notified() => {}
                turn = claim.turn.acquire() => {
                    self.carry_on(&unit, &carrier, &claim).await;
                    drop(turn);
                }
            }
        }
        carrier.runs.set(false);
    }

    /// Carries on one link after the other.
    async fn carry_on(&self, unit: &UnitId, carrier: &Carrier, claim: &Claim) {
        while let Some(link) = carrier.best(claim.relay().as_ref()) {
            claim.set_relay(link.relay());
            let lanes = async {
                tokio::join!(
                    self.keep(unit, &link, LaneKind::Live),
                    self.keep(unit, &link, LaneKind::Backlog)
                )
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = link.closed() => {}
                () = carrier.better_than(&link) => {}
                _ = lanes => {}
            }
        }
    }

    /// Keeps a lane up on a link. Never ends by itself.
    async fn keep(&self, unit: &UnitId, link: &LaneLink, kind: LaneKind) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let end = self.lane(unit, link, kind).await;
            if began.elapsed() > FINE_AFTER {
                failures = 0;
            }
            let pause = pause(failures, fastrand::f64());
            failures = failures.saturating_add(1);
            tracing::debug!(
                peer.unit = %unit, peer.relay = %link.relay(), lane = kind.as_str(), reason = %end,
                pause_ms = pause.as_millis(), "lane for messages ended"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Opens a lane and carries until it ends; says why it did.
    async fn lane(&self, unit: &UnitId, link: &LaneLink, kind: LaneKind) -> String {
        let mut lane = match link.open(kind).await {
            Ok(lane) => lane,
            Err(end) => return Chain(&end).to_string(),
        };
        let open = self.enter(unit, link, kind);
        tracing::debug!(peer.unit = %unit, peer.relay = %link.relay(), lane = kind.as_str(), "lane for messages opened");
        let end = tokio::select! {
            end = open.write(&mut lane.writer) => end,
            end = open.read(&mut lane.reader) => end,
        };
        match end {
            Ok(why) => why,
            Err(end) => {
                if matches!(end, LaneEnd::Frame(_)) {
                    tracing::warn!(
                        peer.unit = %unit, peer.relay = %link.relay(), lane = kind.as_str(), error = %Chain(&end),
                        "lane for messages ended by a bad frame"
                    );
                }
                Chain(&end).to_string()
            }
        }
    }

    fn enter(&self, unit: &UnitId, link: &LaneLink, kind: LaneKind) -> Open<'_> {
        let (id, mail) = (self.parts.ids.next(), Rc::new(Mailbox::new()));
        self.lanes.borrow_mut().insert(id, Rc::clone(&mail));
        self.parts.queue.send(Input::LaneUp {
            lane: id,
            unit: unit.clone(),
            relay: link.relay().clone(),
            kind,
        });
        Open {
            carriers: self,
            id,
            mail,
        }
    }
}

impl Open<'_> {
    /// Writes what the queue gives, all that is ready at once.
    async fn write(&self, writer: &mut LaneWriter) -> Result<String, LaneEnd> {
        let mut out = BytesMut::new();
        loop {
            self.mail.some().await;
            while let Some(item) = self.mail.pop() {
                match item {
                    Item::Frame(frame) => lanes::put_to_receiver(&mut out, &frame),
                    Item::Close(why) => return Ok(why),
                }
                if out.len() >= WRITE_BYTES {
                    break;
                }
            }
            writer.write(out.split().freeze()).await?;
        }
    }

    /// Hands on what the other relay says.
    async fn read(&self, reader: &mut LaneReader) -> Result<String, LaneEnd> {
        let queue = &self.carriers.parts.queue;
        loop {
            let frame = reader.to_sender().await?;
            queue.send(Input::FromReceiver { lane: self.id, frame });
            while queue.is_behind() {
                tokio::time::sleep(BEHIND_PAUSE).await;
            }
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.carriers.lanes.borrow_mut().remove(&self.id);
        self.carriers.parts.queue.send(Input::LaneDown(self.id));
    }
}

impl Carrier {
    /// A link on which lanes can be opened; to this relay, if there is one (K3).
    fn best(&self, relay: Option<&RelayName>) -> Option<LaneLink> {
        let links = self.links.borrow();
        let to_relay = links
            .iter()
            .filter(|link| link.is_ready() && Some(link.relay()) == relay);
        to_relay
            .chain(links.iter().filter(|link| link.is_ready()))
            .next()
            .cloned()
    }

    /// Resolves when lanes should leave a link for another one (K4).
    async fn better_than(&self, link: &LaneLink) {
        while link.is_ready() || self.best(None).is_none() {
            self.changed.notified().await;
        }
    }
}

impl Claims {
    fn of(&self, unit: &UnitId) -> Arc<Claim> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let claim = || {
            Arc::new(Claim {
                turn: Semaphore::new(1),
                relay: Mutex::default(),
            })
        };
        Arc::clone(units.entry(unit.clone()).or_insert_with(claim))
    }
}

impl Claim {
    fn relay(&self) -> Option<RelayName> {
        self.relay.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_relay(&self, relay: &RelayName) {
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = Some(relay.clone());
    }
}

/// The wait before a lane is opened again; `dice` is in `0.0..1.0`.
fn pause(failures: u32, dice: f64) -> Duration {
    let top = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    // Never zero: a peer that closes at once must not be asked in a tight loop.
    (PAUSE_MIN / 2).max(top.mul_f64(dice))
}

/// Bytes encoded before a write starts.
const WRITE_BYTES: usize = 256 * 1024;
/// A lane that lasted so long was a good one.
const FINE_AFTER: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
const BEHIND_PAUSE: Duration = Duration::from_millis(5);
