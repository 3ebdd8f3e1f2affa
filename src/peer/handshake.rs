//! What both sides of a link say before the first call.
//!
//! ```text
//! connection 1 (lanes)                        connection 2 (bodies)
//! bidi: 1 | HELLO ->                          bidi: 1 | HELLO (same link id) ->
//!         <- HELLO                                    <- HELLO
//! bidi: 2 | lane number ->   (once per lane)  uni: bodies, from both sides
//!                                             bidi: 3 | messages, from both sides (`messages`)
//! ```
//! The dialling side opens all other bidirectional streams. The first stream of a connection stays open as
//! its *control* stream: probes, and the word that a side takes no new calls.
//!
//! # Invariants
//! - H3. Nothing is read from a connection before its certificate was verified; who the peer is comes
//!   from there, and a hello that says otherwise ends the connection (I6).

use bytes::BytesMut;

use super::link::LinkPeer;
use super::quic;
use crate::wire::frame::{self, Decoder, Frame, FrameError};
use crate::wire::hello::{self, Agreed, Hello, HelloError};

/// Why a connection did not become part of a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Bytes that are not a frame.
    #[error("the peer's first frame is broken")]
    Frame(#[from] FrameError),
    /// The two sides do not fit each other.
    #[error("the two relays do not fit each other")]
    Hello(#[from] HelloError),
    /// The peer claims to be another than its certificate says.
    #[error(
        "the peer says it is {claimed}, its certificate says {certified}; mend `relay` in its settings or its certificate"
    )]
    Impostor {
        /// From the hello.
        claimed: String,
        /// From the certificate.
        certified: String,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Lost(#[from] quinn::ConnectionError),
    /// The connection broke.
    #[error("the connection broke")]
    Read(#[from] quinn::ReadError),
    /// The connection broke.
    #[error("the connection broke")]
    Write(#[from] quinn::WriteError),
    /// A connection for bodies came without the one for lanes.
    #[error("the other connection of the link is missing or of another relay")]
    NoPartner,
    /// Something else than a hello came first.
    #[error("the peer did not begin with a hello")]
    Order,
}

impl HandshakeError {
    /// The connection error below, if that is what it was.
    pub(super) fn lost(&self) -> Option<&quinn::ConnectionError> {
        match self {
            Self::Lost(error)
            | Self::Read(quinn::ReadError::ConnectionLost(error))
            | Self::Write(quinn::WriteError::ConnectionLost(error)) => Some(error),
            _ => None,
        }
    }
}

/// The control stream of a connection after the hellos.
pub(super) struct Control {
    pub(super) send: quinn::SendStream,
    pub(super) recv: quinn::RecvStream,
    pub(super) decoder: Decoder,
}

/// A connection on which the peer has said hello and we have not.
pub(super) struct Heard {
    connection: quinn::Connection,
    control: Control,
    pub(super) peer: LinkPeer,
    pub(super) theirs: Hello,
}

/// A connection whose sides have said hello.
pub(super) struct Greeted {
    pub(super) connection: quinn::Connection,
    pub(super) control: Control,
    pub(super) peer: LinkPeer,
    pub(super) agreed: Agreed,
}

/// Says hello on a connection we have dialled.
pub(super) async fn greet(connection: quinn::Connection, ours: &Hello) -> Result<Greeted, HandshakeError> {
    let (mut send, recv) = connection.open_bi().await?;
    let _ = send.set_priority(CONTROL_PRIORITY);
    let mut out = BytesMut::from(&[STREAM_CONTROL][..]);
    frame::put_hello(&mut out, &hello::encode(ours));
    send.write_chunk(out.freeze()).await?;
    let mut control = Control {
        send,
        recv,
        decoder: Decoder::new(hello::CONTROL_BYTES_MAX),
    };
    let theirs = read_hello(&mut control).await?;
    let peer = check_peer(&connection, &theirs)?;
    let agreed = check_hello(&connection, ours, &theirs)?;
    Ok(Greeted {
        connection,
        control,
        peer,
        agreed,
    })
}

/// Hears what a peer says on a connection it has dialled.
pub(super) async fn hear(connection: quinn::Connection) -> Result<Heard, HandshakeError> {
    let (send, mut recv) = connection.accept_bi().await?;
    let _ = send.set_priority(CONTROL_PRIORITY);
    if read_byte(&mut recv).await? != STREAM_CONTROL {
        return Err(HandshakeError::Order);
    }
    let mut control = Control {
        send,
        recv,
        decoder: Decoder::new(hello::CONTROL_BYTES_MAX),
    };
    let theirs = read_hello(&mut control).await?;
    let peer = check_peer(&connection, &theirs)?;
    Ok(Heard {
        connection,
        control,
        peer,
        theirs,
    })
}

impl Heard {
    /// Answers with our hello.
    pub(super) async fn reply(mut self, ours: &Hello) -> Result<Greeted, HandshakeError> {
        let agreed = check_hello(&self.connection, ours, &self.theirs)?;
        let mut out = BytesMut::new();
        frame::put_hello(&mut out, &hello::encode(ours));
        self.control.send.write_chunk(out.freeze()).await?;
        Ok(Greeted {
            connection: self.connection,
            control: self.control,
            peer: self.peer,
            agreed,
        })
    }
}

/// The two directions of a lane.
pub(super) struct LaneStreams {
    pub(super) send: quinn::SendStream,
    pub(super) recv: quinn::RecvStream,
}

/// Opens the lanes from the dialling side.
pub(super) async fn open_lanes(connection: &quinn::Connection, count: u8) -> Result<Vec<LaneStreams>, HandshakeError> {
    let mut lanes = Vec::new();
    for _ in 0..count {
        let (mut send, recv) = connection.open_bi().await?;
        let _ = send.set_priority(LANE_PRIORITY);
        send.write_all(&[STREAM_LANE, count]).await?;
        lanes.push(LaneStreams { send, recv });
    }
    Ok(lanes)
}

/// Takes the lanes a peer opens; the first says how many there are.
pub(super) async fn accept_lanes(connection: &quinn::Connection) -> Result<Vec<LaneStreams>, HandshakeError> {
    let mut lanes = Vec::new();
    loop {
        let (send, mut recv) = connection.accept_bi().await?;
        let _ = send.set_priority(LANE_PRIORITY);
        if read_byte(&mut recv).await? != STREAM_LANE {
            return Err(HandshakeError::Order);
        }
        let count = read_byte(&mut recv).await?;
        lanes.push(LaneStreams { send, recv });
        if lanes.len() >= usize::from(count.clamp(1, LANES_MAX)) {
            return Ok(lanes);
        }
    }
}

async fn read_hello(control: &mut Control) -> Result<Hello, HandshakeError> {
    loop {
        match control.decoder.next(tokio::time::Instant::now().into_std())? {
            Some(Frame::Hello(body)) => return Ok(hello::decode(&body)?),
            Some(_) => return Err(HandshakeError::Order),
            None => {}
        }
        let chunk = control
            .recv
            .read_chunk(4096, true)
            .await?
            .ok_or(HandshakeError::Order)?;
        control.decoder.feed(&chunk.bytes);
    }
}

async fn read_byte(recv: &mut quinn::RecvStream) -> Result<u8, HandshakeError> {
    let chunk = recv.read_chunk(1, true).await?.ok_or(HandshakeError::Order)?;
    chunk.bytes.first().copied().ok_or(HandshakeError::Order)
}

/// Who the peer is, by its certificate; its hello must say the same (H3).
fn check_peer(connection: &quinn::Connection, theirs: &Hello) -> Result<LinkPeer, HandshakeError> {
    let identity = quic::peer_of(connection).ok_or(HandshakeError::Order)?.identity;
    let (geo, unit, relay) = theirs.identity()?;
    // A certificate that names no relay is good for each relay of its unit.
    let certified = identity.relay.unwrap_or_else(|| relay.clone());
    if (&identity.geo, &identity.unit, &certified) != (&geo, &unit, &relay) {
        let error = HandshakeError::Impostor {
            claimed: format!("geo {geo} unit {unit} relay {relay}"),
            certified: format!("geo {} unit {} relay {certified}", identity.geo, identity.unit),
        };
        connection.close(CODE_HELLO, error.to_string().as_bytes());
        return Err(error);
    }
    Ok(LinkPeer { geo, unit, relay })
}

fn check_hello(connection: &quinn::Connection, ours: &Hello, theirs: &Hello) -> Result<Agreed, HandshakeError> {
    hello::negotiate(ours, theirs).map_err(|error| {
        // The text goes to the other side too: its operator has to act as often as ours.
        connection.close(CODE_HELLO, error.to_string().as_bytes());
        error.into()
    })
}

const STREAM_CONTROL: u8 = 1;
const STREAM_LANE: u8 = 2;
const CONTROL_PRIORITY: i32 = 2;
const LANE_PRIORITY: i32 = 1;
/// More lanes cost CPU and gain nothing.
const LANES_MAX: u8 = 16;
/// Application error code of a connection whose hello did not fit.
const CODE_HELLO: quinn::VarInt = quinn::VarInt::from_u32(2);
