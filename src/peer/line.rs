//! Lines: one byte stream to the relay that has the routes of the Geo, beside all links.
//!
//! A line has a QUIC connection of its own, on the same port and with the same certificates as links, told apart by its
//! protocol name. It carries what the route store says and hears; no call and no message.
//!
//! # Invariants
//! - Y1. Relays of the own unit may have a line to each other, and nothing else.
//! - Y2. A line ends within [`RECHECK`] after its peer would be refused (O-S2).

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::credentials;
use super::dialling::ConnectError;
use super::handshake::HandshakeError;
use super::identity::PeerIdentity;
use super::pool::Peers;
use super::quic::{self, Purpose, Quic};
use super::refusals::Direction;
use super::session;
use super::verify::{Dialled, Refusal};

/// Bytes of a line, both ways.
pub trait LineIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> LineIo for T {}

/// A line that a peer opened.
pub struct Line {
    /// Who is at the other end, from its certificate.
    pub peer: PeerIdentity,
    /// Its bytes.
    pub io: Box<dyn LineIo>,
}

/// Where the lines go that peers open; bounded, a line that finds it full is closed.
pub type Lines = mpsc::Sender<Line>;

/// Opens lines to one relay.
pub struct LineDialler {
    quic: Quic,
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    addresses: Vec<String>,
    limit: Duration,
}

impl LineDialler {
    /// For the relay `dialled` at `addresses`, each `host:port`; an attempt may take `limit`. `local` is the unspecified
    /// address of the family that is dialled. Needs a running tokio runtime, which must be the one lines are used on.
    ///
    /// # Errors
    /// No socket, or TLS cannot be set up.
    pub fn new(
        quic: &Quic,
        local: IpAddr,
        dialled: Dialled,
        addresses: Vec<String>,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        let endpoint = quic
            .client_endpoint(local)
            .map_err(|error| ConnectError::Address(local.to_string(), error))?;
        Ok(Self {
            config: quic.client_config(dialled, Purpose::Line)?,
            quic: quic.clone(),
            endpoint,
            addresses,
            limit,
        })
    }

    /// Opens a line, at the first address that answers. Cancel safe.
    ///
    /// # Errors
    /// How the last address failed.
    pub async fn dial(&self) -> Result<Box<dyn LineIo>, ConnectError> {
        let mut last = ConnectError::NoAddress(String::new());
        for address in &self.addresses {
            match timeout(self.limit, self.dial_at(address)).await {
                Ok(Ok(io)) => return Ok(io),
                Ok(Err(error)) => last = error,
                Err(_) => {
                    last = ConnectError::Slow {
                        address: address.clone(),
                        limit: self.limit,
                    };
                }
            }
        }
        Err(last)
    }

    async fn dial_at(&self, address: &str) -> Result<Box<dyn LineIo>, ConnectError> {
        let resolved = tokio::net::lookup_host(address).await;
        let mut resolved = resolved.map_err(|error| ConnectError::Address(address.to_owned(), error))?;
        let at = resolved
            .next()
            .ok_or_else(|| ConnectError::NoAddress(address.to_owned()))?;
        let connecting = self.endpoint.connect_with(self.config.clone(), at, quic::SERVER_NAME);
        let connecting = connecting.map_err(|error| ConnectError::Dial(at, error))?;
        let refused = |error: quinn::ConnectionError| {
            self.quic.report(Direction::Dialled, at, &error);
            if quic::lacks_protocol(&error) {
                return ConnectError::NoRoutes(at);
            }
            ConnectError::Connection(at, error)
        };
        let connection = connecting.await.map_err(refused)?;
        let (send, recv) = connection.open_bi().await.map_err(refused)?;
        Ok(Box::new(tokio::io::join(recv, send)))
    }
}

impl Peers {
    /// Takes a line that a peer has opened.
    pub(super) async fn take_line(self: &Rc<Self>, connection: quinn::Connection) -> Result<(), HandshakeError> {
        let Some(lines) = &self.parts.lines else {
            connection.close(
                CODE_NO_LINES,
                b"this relay does not have the routes; see [routes] of both relays",
            );
            return Ok(());
        };
        let identity = quic::peer_of(&connection).ok_or(HandshakeError::Order)?.identity;
        let (send, recv) = connection.accept_bi().await?;
        let line = Line {
            peer: identity,
            io: Box::new(tokio::io::join(recv, send)),
        };
        if lines.try_send(line).is_err() {
            connection.close(CODE_NO_LINES, b"too many relays at once; try again");
            return Ok(());
        }
        self.spawn(self.clone().watch_line(connection));
        Ok(())
    }

    /// Ends a line when the shard ends or its peer is no longer trusted (Y2).
    async fn watch_line(self: Rc<Self>, connection: quinn::Connection) {
        loop {
            tokio::select! {
                _ = connection.closed() => return,
                () = self.closing.cancelled() => break,
                () = tokio::time::sleep(RECHECK) => {}
            }
            let checked = self
                .parts
                .quic
                .recheck(&connection, Direction::Accepted, None, credentials::wall_clock());
            if let Err(refusal) = checked {
                self.parts
                    .quic
                    .report_link(Direction::Accepted, connection.remote_address(), &refusal);
                break;
            }
        }
        connection.close(session::CODE_GOODBYE, b"goodbye");
    }

    /// A relay of the own unit may have a line, not a link (Y1).
    pub(super) fn check_not_own(&self, connection: &quinn::Connection) -> Result<(), HandshakeError> {
        let identity = quic::peer_of(connection).ok_or(HandshakeError::Order)?.identity;
        if identity.unit != self.parts.place.unit {
            return Ok(());
        }
        let refusal = Refusal::UnknownUnit(identity);
        self.parts
            .quic
            .report_link(Direction::Accepted, connection.remote_address(), &refusal);
        connection.close(CODE_NO_LINES, b"relays of one unit have no links to each other");
        Err(HandshakeError::Order)
    }
}

/// How long a line may outlive the trust in its peer.
const RECHECK: Duration = Duration::from_secs(10);
const CODE_NO_LINES: quinn::VarInt = quinn::VarInt::from_u32(3);
