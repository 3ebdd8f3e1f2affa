//! Lanes for messages: two-way streams of a link's second connection, opened by the relay that has messages.
//!
//! ```text
//! bidi, opened by either side: 3 | frames (`wire::frame::lanes`), and frames back
//! ```
//!
//! # Invariants
//! - M1. A lane that ends leaves its link, its calls and other lanes alone; a link that ends takes its lanes along.
//! - M2. A peer has at most `LANES_MAX` lanes open on a link. Further ones, and streams that are something else, are
//!   refused and counted.
//! - M3. A lane is opened only to a peer that says it knows lanes for messages ([`FEATURE`]).
//! - M4. Dropping a lane ends it. What was written before still arrives.
//!
//! # Not here
//! Which messages go on a lane, and what is done with those that come (`outbound`, `inbound`).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::bodies;
use super::link::{CODE_UNWANTED, Link, LinkPeer};
use super::metrics::{LaneMetrics, LaneRefusal};
use crate::model::lanes::{LaneKind, ToReceiver, ToSender};
use crate::model::{Endpoint, RelayName, UnitId};
use crate::wire::frame::FrameError;
use crate::wire::frame::lanes::{LaneDecoder, PREFACE};

/// Among the features of a hello: the sender knows lanes for messages.
pub const FEATURE: &str = "messages";

/// Takes what happens to lanes for messages on one shard.
pub trait LaneHandler {
    /// Lanes to a unit can be opened on these links now, and on no others.
    fn on_links(&self, unit: &UnitId, links: Vec<LaneLink>);
    /// A peer has opened a lane.
    fn on_lane(&self, peer: &LinkPeer, lane: Lane);
}

/// A link on which lanes can be opened.
#[derive(Clone)]
pub struct LaneLink(Rc<Link>);

/// A lane. Dropping it ends it.
pub struct Lane {
    /// The way out.
    pub writer: LaneWriter,
    /// The way in.
    pub reader: LaneReader,
    /// Counts it.
    pub metrics: LaneMetrics,
}

/// The way out of a lane.
pub struct LaneWriter(quinn::SendStream);

/// The way in of a lane.
pub struct LaneReader {
    stream: quinn::RecvStream,
    decoder: LaneDecoder,
    chunks: Box<[Bytes; CHUNKS]>,
}

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaneEnd {
    /// The peer closed it.
    #[error("the peer closed the lane")]
    Closed,
    /// The peer sent bytes that are not frames.
    #[error("the peer sent a bad frame")]
    Frame(#[from] FrameError),
    /// The link ended.
    #[error("the link ended")]
    Lost(#[from] quinn::ConnectionError),
    /// The link ended.
    #[error("the link ended")]
    Read(#[from] quinn::ReadError),
    /// The peer does not want the lane, or the link ended.
    #[error("the lane cannot be written to")]
    Write(#[from] quinn::WriteError),
}

impl LaneLink {
    pub(super) fn new(link: &Rc<Link>) -> Self {
        Self(Rc::clone(link))
    }

    /// The relay at the other end.
    pub fn relay(&self) -> &RelayName {
        &self.0.peer.relay
    }

    /// Whether lanes can be opened on it now.
    pub fn is_ready(&self) -> bool {
        self.0.takes_lanes()
    }

    /// Whether both are the same link.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Resolves when the link has ended.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Opens a lane.
    ///
    /// # Errors
    /// The link has ended.
    pub async fn open(&self, kind: LaneKind) -> Result<Lane, LaneEnd> {
        // Waits only if the peer lets us have no more streams; it takes the lanes that it refuses off that number.
        let (mut send, recv) = tokio::select! {
            opened = self.0.bodies.open_bi() => opened?,
            () = self.closed() => return Err(LaneEnd::Closed),
        };
        let _ = send.set_priority(priority(kind));
        send.write_all(&[PREFACE]).await?;
        let metrics = self.0.metrics.lane_out(kind);
        Ok(Lane::new(send, recv, metrics))
    }
}

impl Lane {
    fn new(send: quinn::SendStream, recv: quinn::RecvStream, metrics: LaneMetrics) -> Self {
        Self {
            writer: LaneWriter(send),
            reader: LaneReader {
                stream: recv,
                decoder: LaneDecoder::new(),
                chunks: Box::new(std::array::from_fn(|_| Bytes::new())),
            },
            metrics,
        }
    }
}

impl LaneWriter {
    /// Writes frames; waits while the peer does not take them. Not cancel safe: part of them may be out.
    ///
    /// # Errors
    /// [`LaneEnd`].
    pub async fn write(&mut self, frames: Bytes) -> Result<(), LaneEnd> {
        Ok(self.0.write_chunk(frames).await?)
    }
}

impl LaneReader {
    /// The next frame of a relay that sends messages, and its length. Cancel safe.
    ///
    /// # Errors
    /// [`LaneEnd`].
    pub async fn to_receiver(&mut self) -> Result<(ToReceiver, usize), LaneEnd> {
        loop {
            if let Some(frame) = self.decoder.to_receiver()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The next frame of a relay that receives messages. Cancel safe.
    ///
    /// # Errors
    /// [`LaneEnd`].
    pub async fn to_sender(&mut self) -> Result<ToSender, LaneEnd> {
        loop {
            if let Some(frame) = self.decoder.to_sender()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Reads what is there; waits if nothing is.
    async fn fill(&mut self) -> Result<(), LaneEnd> {
        let read = self.stream.read_chunks(self.chunks.as_mut_slice()).await?;
        let count = read.ok_or(LaneEnd::Closed)?;
        for chunk in self.chunks.iter_mut().take(count) {
            self.decoder.feed(chunk);
            *chunk = Bytes::new();
        }
        Ok(())
    }
}

/// Takes the lanes that the peer of a link opens.
pub(super) async fn accept(link: Rc<Link>) {
    loop {
        let (send, recv) = tokio::select! {
            stream = link.bodies.accept_bi() => match stream {
                Ok(stream) => stream,
                Err(_) => return,
            },
            () = link.closed.cancelled() => return,
        };
        let metrics = link.metrics.lane_in();
        if link.metrics.lanes_in() > LANES_MAX {
            refuse(&link, (send, recv), LaneRefusal::TooMany);
            continue;
        }
        let task = link.clone();
        // A task each: a peer that opens a stream and writes nothing must not hold up the others.
        link.tracker.spawn_local(take(task, (send, recv), metrics));
    }
}

async fn take(link: Rc<Link>, mut streams: (quinn::SendStream, quinn::RecvStream), metrics: LaneMetrics) {
    let preface = tokio::select! {
        preface = tokio::time::timeout(PREFACE_WAIT, bodies::read_byte(&mut streams.1)) => preface.ok().flatten(),
        () = link.closed.cancelled() => return,
    };
    if preface != Some(PREFACE) {
        return refuse(&link, streams, LaneRefusal::Preface);
    }
    let _ = streams.0.set_priority(ANSWERS_PRIORITY);
    if let Some(handler) = &link.lane_handler {
        handler.on_lane(&link.peer, Lane::new(streams.0, streams.1, metrics));
    }
}

fn refuse(link: &Link, (mut send, mut recv): (quinn::SendStream, quinn::RecvStream), why: LaneRefusal) {
    link.metrics.on_lane_refused(why);
    let _ = send.reset(CODE_UNWANTED);
    let _ = recv.stop(CODE_UNWANTED);
}

/// Live messages first; the backlog shares what is left with large bodies (`bodies`, -1).
fn priority(kind: LaneKind) -> i32 {
    match kind {
        LaneKind::Live => 0,
        LaneKind::Backlog => -1,
    }
}

impl Link {
    /// Whether lanes can be opened here.
    pub(super) fn takes_lanes(&self) -> bool {
        self.lane_handler.is_some() && self.is_ready()
    }
}

/// Lanes a peer may have open on a link: two, twice as long as it moves them, and as many again for one that is in a hurry.
const LANES_MAX: usize = 8;
/// Acknowledgements are small, and others wait for them.
const ANSWERS_PRIORITY: i32 = 1;
const PREFACE_WAIT: Duration = Duration::from_secs(5);
/// Packets taken from a lane at once.
const CHUNKS: usize = 64;
