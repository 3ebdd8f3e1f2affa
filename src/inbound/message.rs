//! The story of messages that another unit sends: may it, take them off its lane, hand them to the queue, say what is
//! stored.
//!
//! # Invariants
//! - J1. What was read of a lane and is not acknowledged is bounded by `queue.lane_bytes_max` and one frame. Beyond it, and
//!   while the queue is busy, the lane is not read from, and QUIC holds the peer (A3, M-D5).
//! - J2. The queue hears first of a lane, then its frames in their order (A1), then once that it is down.
//! - J3. A lane that breaks a rule ends and is counted; its link and other lanes go on.
//!
//! # Not here
//! What a message must be like to be taken, and whether it has come before (`queue::arrivals`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mailbox::Mailbox;
use crate::model::UnitId;
use crate::model::lanes::{ToReceiver, ToSender};
use crate::peer::{Lane, LaneEnd, LaneReader, LaneRefusal, LaneWriter, LinkPeer};
use crate::queue;
use crate::queue::api::Input;
use crate::queue::lanes::{LaneId, LaneIds};
use crate::telemetry::{Chain, Repeats};
use crate::wire::frame::lanes;

/// What the story is made of.
pub struct MessageParts {
    /// Numbers the lanes of the shard.
    pub ids: Rc<LaneIds>,
    /// The queue.
    pub queue: queue::Handle,
    /// Units whose messages may be taken.
    pub units: BTreeSet<UnitId>,
    /// `queue.lane_bytes_max`.
    pub lane_bytes_max: usize,
}

/// Takes the messages of other units, on one shard.
pub struct Messages {
    queue: queue::Handle,
    ids: Rc<LaneIds>,
    units: RefCell<BTreeSet<UnitId>>,
    lane_bytes_max: Cell<usize>,
    lanes: RefCell<HashMap<LaneId, Rc<Taking>>>,
    warnings: RefCell<Repeats>,
    closing: CancellationToken,
    tracker: TaskTracker,
    me: Weak<Self>,
}

/// A lane that a peer has opened.
#[derive(Default)]
struct Taking {
    mail: Mailbox<Item>,
    /// Batches that are not acknowledged, with their bytes.
    open: RefCell<VecDeque<(u64, usize)>>,
    open_bytes: Cell<usize>,
    busy: Cell<bool>,
    /// The queue takes more, or wants the lane to end.
    changed: Notify,
    /// The peer takes no answers, and too many wait.
    stuck: Notify,
}

/// What a lane's writer is given.
enum Item {
    Frame(ToSender),
    /// The queue wants the lane to end.
    Close(String),
}

/// Why a lane is served no longer.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Lane(#[from] LaneEnd),
    #[error("{0}")]
    Order(&'static str),
    #[error("the queue has closed it: {0}")]
    Closed(String),
    #[error("unit {0} is not in the settings here")]
    UnknownUnit(UnitId),
    #[error("it does not take what is said to it")]
    NotReading,
    #[error("the relay is shutting down")]
    Shutdown,
}

/// A lane that the queue knows; dropping it tells the queue that it is down (J2).
struct Known<'a> {
    story: &'a Messages,
    id: LaneId,
    taking: Rc<Taking>,
}

impl Messages {
    /// The story of one shard.
    pub fn new(parts: MessageParts) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            queue: parts.queue,
            ids: parts.ids,
            units: RefCell::new(parts.units),
            lane_bytes_max: Cell::new(parts.lane_bytes_max),
            lanes: RefCell::default(),
            warnings: RefCell::new(Repeats::new(WARNINGS, WARNINGS_INTERVAL)),
            closing: CancellationToken::new(),
            tracker: TaskTracker::new(),
            me: me.clone(),
        })
    }

    /// Other units and limits are in force (M-H4).
    pub fn reload(&self, units: BTreeSet<UnitId>, lane_bytes_max: usize) {
        self.units.replace(units);
        self.lane_bytes_max.set(lane_bytes_max);
    }

    /// A peer has opened a lane.
    pub fn on_lane(&self, peer: &LinkPeer, lane: Lane) {
        if let Some(me) = self.me.upgrade()
            && !self.closing.is_cancelled()
        {
            self.tracker.spawn_local(me.serve(peer.clone(), lane));
        }
    }

    /// The queue has something for the relay at the other end.
    pub fn on_frame(&self, lane: LaneId, frame: ToSender) {
        let taking = self.lanes.borrow().get(&lane).cloned();
        if let Some(taking) = taking {
            taking.on_answer(&frame);
            taking.mail.push(Item::Frame(frame));
            if taking.mail.len() > ANSWERS_MAX {
                taking.mail.close();
                taking.stuck.notify_one();
            }
        }
    }

    /// The queue has no use for a lane any more. False if it is none of these.
    pub fn close_lane(&self, lane: LaneId, why: &str) -> bool {
        let lanes = self.lanes.borrow();
        let taking = lanes.get(&lane);
        if let Some(taking) = taking {
            taking.mail.push(Item::Close(why.to_owned()));
        }
        taking.is_some()
    }

    /// Lanes that are open.
    pub fn open_lanes(&self) -> usize {
        self.lanes.borrow().len()
    }

    /// Ends all lanes and takes no further ones; the queue has heard of it then.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    async fn serve(self: Rc<Self>, peer: LinkPeer, mut lane: Lane) {
        let end = tokio::select! {
            end = self.take(&peer, &mut lane) => end,
            () = self.closing.cancelled() => End::Shutdown,
        };
        if let Some(refusal) = end.refusal() {
            lane.metrics.on_refused(refusal);
            let admitted = self.warnings.borrow_mut().admit(Instant::now().into_std());
            if let Some(held_back) = admitted {
                tracing::warn!(
                    peer.unit = %peer.unit, peer.relay = %peer.relay, reason = %Chain(&end), held_back,
                    "a lane for messages of a peer was cut off"
                );
            }
        }
        tracing::debug!(peer.unit = %peer.unit, peer.relay = %peer.relay, reason = %Chain(&end), "lane of a peer ended");
    }

    /// The story: may it, what lane is it, then frames one way and answers the other.
    async fn take(&self, peer: &LinkPeer, lane: &mut Lane) -> End {
        if !self.units.borrow().contains(&peer.unit) {
            let end = End::UnknownUnit(peer.unit.clone());
            deny(&mut lane.writer, end.to_string()).await;
            return end;
        }
        let (open, bytes) = match timeout(OPEN_WAIT, lane.reader.to_receiver()).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(end)) => return end.into(),
            Err(_) => return End::Order("nothing came on it"),
        };
        let ToReceiver::Open { kind, .. } = open else {
            return End::Order("its first frame is another than LANE_OPEN");
        };
        lane.metrics.set_kind(kind);
        let known = self.enter(peer);
        self.queue.send(Input::FromSender {
            lane: known.id,
            frame: open,
            bytes,
        });
        tokio::select! {
            end = known.read(&mut lane.reader) => end,
            end = known.write(&mut lane.writer) => end,
            () = known.taking.stuck.notified() => End::NotReading,
        }
    }

    fn enter(&self, peer: &LinkPeer) -> Known<'_> {
        let (id, taking) = (self.ids.next(), Rc::new(Taking::default()));
        self.lanes.borrow_mut().insert(id, Rc::clone(&taking));
        self.queue.send(Input::LaneAccepted {
            lane: id,
            geo: peer.geo.clone(),
            unit: peer.unit.clone(),
            relay: peer.relay.clone(),
        });
        Known {
            story: self,
            id,
            taking,
        }
    }
}

impl Known<'_> {
    /// Hands frames to the queue, as fast as it takes them (J1).
    async fn read(&self, reader: &mut LaneReader) -> End {
        let mut before = 0_u64;
        loop {
            self.until_room().await;
            let (frame, bytes) = match reader.to_receiver().await {
                Ok(frame) => frame,
                Err(end) => return end.into(),
            };
            let (ToReceiver::Messages { batch, .. } | ToReceiver::Gap { batch, .. }) = frame else {
                return End::Order("it was opened twice");
            };
            if batch != before.wrapping_add(1) {
                return End::Order("its batches are not numbered one by one");
            }
            before = batch;
            self.taking.on_taken(batch, bytes);
            self.story.queue.send(Input::FromSender {
                lane: self.id,
                frame,
                bytes,
            });
        }
    }

    async fn until_room(&self) {
        while self.taking.is_full(self.story.lane_bytes_max.get()) {
            self.taking.changed.notified().await;
        }
        while self.story.queue.is_behind() {
            tokio::time::sleep(BEHIND_PAUSE).await;
        }
    }

    /// Writes what the queue says, all that is ready at once.
    async fn write(&self, writer: &mut LaneWriter) -> End {
        let mut out = BytesMut::new();
        loop {
            self.taking.mail.some().await;
            let mut close = None;
            while let Some(item) = self.taking.mail.pop() {
                match item {
                    Item::Frame(frame) => lanes::put_to_sender(&mut out, &frame),
                    Item::Close(why) => close = Some(why),
                }
            }
            if let Err(end) = writer.write(out.split().freeze()).await {
                return end.into();
            }
            if let Some(why) = close {
                return End::Closed(why);
            }
        }
    }
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.story.lanes.borrow_mut().remove(&self.id);
        self.story.queue.send(Input::LaneDown(self.id));
    }
}

impl Taking {
    fn is_full(&self, bytes_max: usize) -> bool {
        self.busy.get() || self.open_bytes.get() >= bytes_max
    }

    fn on_taken(&self, batch: u64, bytes: usize) {
        self.open.borrow_mut().push_back((batch, bytes));
        self.open_bytes.set(self.open_bytes.get().saturating_add(bytes));
    }

    fn on_answer(&self, frame: &ToSender) {
        match frame {
            ToSender::Ack { batch, .. } => {
                let mut open = self.open.borrow_mut();
                while let Some((number, bytes)) = open.front().copied()
                    && number <= *batch
                {
                    open.pop_front();
                    self.open_bytes.set(self.open_bytes.get().saturating_sub(bytes));
                }
            }
            ToSender::Busy { pushback } => self.busy.set(pushback.is_some()),
            _ => return,
        }
        self.changed.notify_one();
    }
}

impl End {
    /// As what it counts, if the peer broke a rule.
    fn refusal(&self) -> Option<LaneRefusal> {
        match self {
            Self::Lane(LaneEnd::Frame(_)) | Self::Order(_) => Some(LaneRefusal::BadFrame),
            Self::Closed(_) => Some(LaneRefusal::Closed),
            Self::NotReading => Some(LaneRefusal::NotReading),
            Self::UnknownUnit(_) => Some(LaneRefusal::UnknownUnit),
            Self::Lane(_) | Self::Shutdown => None,
        }
    }
}

/// Says that the lane is not wanted.
async fn deny(writer: &mut LaneWriter, detail: String) {
    let mut out = BytesMut::new();
    lanes::put_to_sender(&mut out, &ToSender::Denied { detail });
    let _ = timeout(OPEN_WAIT, writer.write(out.freeze())).await;
}

/// A peer says at once which lane it opens.
const OPEN_WAIT: Duration = Duration::from_secs(5);
const BEHIND_PAUSE: Duration = Duration::from_millis(5);
/// Answers that may wait for a peer to take them.
const ANSWERS_MAX: usize = 100_000;
const WARNINGS: u32 = 5;
const WARNINGS_INTERVAL: Duration = Duration::from_secs(10);
