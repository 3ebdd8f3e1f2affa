//! QUIC of links, configured by hand: endpoints, transport limits, and what is done with a stranger's first packet.
//!
//! # Path
//! `app` makes one [`Quic`] per process. Each shard takes endpoints from it, on its own runtime; the server endpoints of
//! all shards share one port, and the kernel keeps a peer's packets on one shard.
//!
//! # Invariants
//! - D14. Everything a peer can make us hold is limited: streams, windows, datagrams (none), handshakes in progress.
//! - D15. Above a number of handshakes in progress, callers prove their address before they cost more than a packet.
//! - D16. Nothing is read from a connection before both certificates are checked: early data does not exist here.
//!
//! # Not here
//! When to dial, and streams (`link`, `pool`).

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, Once, PoisonError};

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connecting, Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, MtuDiscoveryConfig,
    ServerConfig, TokioRuntime, TransportConfig, TransportErrorCode, ValidationTokenConfig, VarInt,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::model::ByteSize;

use super::credentials::CredentialsHandle;
use super::identity::Leaf;
use super::refusals::{Direction, RefusalSink};
use super::settings::{Congestion, Settings};
use super::tls;
use super::verify::{Dialled, Refusal};

/// Name given to QUIC when dialling. It is not sent: relays are known by their certificate alone.
pub const SERVER_NAME: &str = "relay.strait.invalid";

/// Received bytes kept for one caller that has not been accepted yet.
const INCOMING_BYTES_MAX: u64 = 16 << 10;
/// Received bytes kept for all callers that have not been accepted yet, per shard.
const INCOMING_BYTES_TOTAL_MAX: u64 = 4 << 20;

/// What a connection carries; decides its windows and stream limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// One-way streams with one large or streaming body each.
    Bodies,
    /// Long-lived streams that carry many small frames.
    Lanes,
    /// One stream to the relay that has the routes.
    Line,
}

/// Makes endpoints and configurations. A clone makes the same; cheap.
#[derive(Clone, Debug)]
pub struct Quic {
    settings: Arc<Settings>,
    credentials: CredentialsHandle,
    sink: Arc<dyn RefusalSink>,
    server: ServerConfig,
    // Number of server endpoints made so far. Held while one is bound, so that its number is also its place in the
    // group that shares the port: after a restart a peer's packets reach the endpoint that has the key to answer them.
    servers: Arc<Mutex<u64>>,
}

/// What to do with the first packet of a stranger.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Begin the handshake.
    Accept,
    /// Drop it without an answer.
    Ignore,
    /// Say that there is no room.
    Refuse,
    /// Ask the caller to prove its address first.
    Retry,
}

/// Why no QUIC configuration could be made. Neither happens with the provider used here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// rustls refused the provider.
    #[error("TLS cannot be configured; this is a fault of this build")]
    Tls(#[from] rustls::Error),
    /// The provider lacks the cipher suite of QUIC's first packets.
    #[error("TLS has no cipher suite for QUIC; this is a fault of this build")]
    CipherSuite(#[from] NoInitialCipherSuite),
}

impl Quic {
    /// Prepares everything that endpoints share.
    ///
    /// # Errors
    /// [`QuicError`], if this build cannot do TLS at all.
    pub fn new(
        settings: Settings,
        credentials: CredentialsHandle,
        sink: Arc<dyn RefusalSink>,
    ) -> Result<Self, QuicError> {
        let crypto = QuicServerConfig::try_from(tls::server_config(&credentials, &sink)?)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0);
        server
            .transport_config(Arc::new(transport(&settings, Purpose::Lanes)))
            .validation_token_config(tokens)
            .max_incoming(settings.handshakes_max)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
        Ok(Self {
            settings: Arc::new(settings),
            credentials,
            sink,
            server,
            servers: Arc::default(),
        })
    }

    /// An endpoint that accepts peers on `address`, shared with the other shards of this process. Accepted connections
    /// begin with the limits of [`Purpose::Lanes`]; see [`Quic::adopt`]. Needs a running tokio runtime.
    ///
    /// # Errors
    /// The address is in use by another program, or may not be used.
    pub fn server_endpoint(&self, address: SocketAddr) -> io::Result<Endpoint> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = self.socket(address, true)?;
        let mut config = self.credentials.current().reset().endpoint(*servers);
        receive_large(&mut config, &self.settings);
        *servers += 1;
        drop(servers);
        Endpoint::new(config, Some(self.server.clone()), socket, Arc::new(TokioRuntime))
    }

    /// An endpoint that dials, from a port the system chooses. `local` is usually the unspecified address of the family
    /// that is dialled. Needs a running tokio runtime.
    ///
    /// # Errors
    /// The system has no socket to give.
    pub fn client_endpoint(&self, local: IpAddr) -> io::Result<Endpoint> {
        let socket = self.socket(SocketAddr::new(local, 0), false)?;
        let mut config = EndpointConfig::default();
        receive_large(&mut config, &self.settings);
        Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
    }

    /// Configuration to dial one relay (or any relay of a unit) for one purpose. Make it once and keep it: it follows
    /// reloaded credentials by itself.
    ///
    /// # Errors
    /// [`QuicError`], if this build cannot do TLS at all.
    pub fn client_config(&self, dialled: Dialled, purpose: Purpose) -> Result<ClientConfig, QuicError> {
        let alpn = match purpose {
            Purpose::Bodies | Purpose::Lanes => tls::ALPN,
            Purpose::Line => tls::LINE_ALPN,
        };
        let tls = tls::client_config(&self.credentials, dialled, &self.sink, alpn)?;
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport(&self.settings, purpose)));
        Ok(config)
    }

    /// Gives an accepted connection the stream limits of its purpose, once the peer has said what it is for. Its stream
    /// windows stay those of lanes; the window of the connection bounds all of them together.
    pub fn adopt(&self, connection: &Connection, purpose: Purpose) {
        connection.set_max_concurrent_uni_streams(uni_streams(&self.settings, purpose));
    }

    /// Answers a stranger's first packet, with `pending` handshakes in progress on this shard (D15). `None`: the caller
    /// was sent away (reported, if it was refused) or asked to prove its address.
    pub fn accept(&self, incoming: Incoming, pending: usize) -> Option<Connecting> {
        let remote = incoming.remote_address();
        match first_packet(&self.settings, pending, incoming.remote_address_validated()) {
            // The first packet already tells whether the caller speaks our protocol.
            Action::Accept => incoming
                .accept()
                .inspect_err(|error| self.report(Direction::Accepted, remote, error))
                .ok(),
            Action::Ignore => {
                incoming.ignore();
                None
            }
            Action::Refuse => {
                incoming.refuse();
                None
            }
            Action::Retry => {
                // Cannot fail: a packet that answers a retry has a validated address and is not retried again.
                let _ = incoming.retry();
                None
            }
        }
    }

    /// Reports a connection that failed before its first frame, if that was a refusal not reported yet, and says so.
    ///
    /// On the dialling side a connection may look open while the peer still checks our certificate: also pass the error
    /// that ends such a connection before the peer's first frame arrives.
    pub fn report(&self, direction: Direction, remote: SocketAddr, error: &ConnectionError) {
        if let Some(refusal) = refusal_of(error) {
            let detail = format_args!("{remote}: {refusal}").to_string();
            self.sink.on_refused(direction, refusal.reason(), &detail);
        }
    }

    /// Reports that an open link ends because its peer would be refused now, see [`Quic::recheck`].
    pub fn report_link(&self, direction: Direction, remote: SocketAddr, refusal: &Refusal) {
        let detail = format_args!("{remote}: {refusal}; its link is closed").to_string();
        self.sink.on_refused(direction, refusal.reason(), &detail);
    }

    /// Asks the policy in force about the peer of an open connection again, after a reload or because time has passed.
    /// `dialled` as the connection was made, `None` if it was accepted. Closes and reports nothing.
    ///
    /// # Errors
    /// [`Refusal`] says why a new connection of this peer would be refused; this one should be closed.
    pub fn recheck(
        &self,
        connection: &Connection,
        direction: Direction,
        dialled: Option<&Dialled>,
        now: UnixTime,
    ) -> Result<Leaf, Refusal> {
        let chain = chain_of(connection).unwrap_or_default();
        self.credentials
            .current()
            .policy()
            .check(&chain, direction, dialled, now)
    }

    /// The credentials in force.
    pub fn credentials(&self) -> &CredentialsHandle {
        &self.credentials
    }

    /// A bound UDP socket with large buffers.
    fn socket(&self, address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        if shared {
            socket.set_reuse_port(true)?;
        }
        self.enlarge_buffers(&socket);
        socket.bind(&address.into())?;
        Ok(socket.into())
    }

    /// A smaller buffer is slower but works, so this never fails; it says once what the kernel allows.
    fn enlarge_buffers(&self, socket: &Socket) {
        static SAID: Once = Once::new();
        let wanted = self.settings.socket_buffer.as_usize();
        let asked = socket
            .set_recv_buffer_size(wanted)
            .and(socket.set_send_buffer_size(wanted));
        let receive = granted(socket.recv_buffer_size());
        let send = granted(socket.send_buffer_size());
        if asked.is_err() || receive < wanted || send < wanted {
            SAID.call_once(|| {
                tracing::warn!(
                    wanted,
                    receive,
                    send,
                    "UDP buffers are smaller than [peer] socket_buffer; bulk latency suffers under load. \
                     Run: sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}"
                );
            });
        }
    }
}

/// Decides about a stranger's first packet (D15). Pure.
pub fn first_packet(settings: &Settings, pending: usize, address_proven: bool) -> Action {
    match (pending, address_proven) {
        (pending, true) if pending >= settings.handshakes_max => Action::Refuse,
        // No answer to an address that may be forged: it would hit a third party.
        (pending, false) if pending >= settings.handshakes_max => Action::Ignore,
        (pending, false) if pending >= settings.handshakes_unproven_max => Action::Retry,
        _ => Action::Accept,
    }
}

/// Limits of a connection (D14).
pub fn transport(settings: &Settings, purpose: Purpose) -> TransportConfig {
    let stream_window = match purpose {
        Purpose::Bodies => settings.body_window,
        Purpose::Lanes | Purpose::Line => settings.lane_window,
    };
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(settings.mtu_max);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(settings.lane_streams_max.into())
        .max_concurrent_uni_streams(uni_streams(settings, purpose))
        .stream_receive_window(window(stream_window))
        .receive_window(window(settings.connection_window))
        .send_window(settings.connection_window.as_u64())
        .max_idle_timeout(settings.idle_timeout.try_into().ok())
        .keep_alive_interval(Some(settings.keep_alive))
        .datagram_receive_buffer_size(None)
        .initial_mtu(1200)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(congestion(settings.congestion))
        .enable_segmentation_offload(true);
    transport
}

/// Lets peers find out that the path carries packets as large as ours. quinn's own limit is Ethernet's.
fn receive_large(config: &mut EndpointConfig, settings: &Settings) {
    // Fails below 1200 only, which the settings refuse.
    let _ = config.max_udp_payload_size(settings.mtu_max);
}

/// The peer of an open connection, from its certificate and from nothing else. `None` cannot happen on a connection made
/// here: both handshakes demand a certificate with an identity.
pub fn peer_of(connection: &Connection) -> Option<Leaf> {
    Leaf::from_der(chain_of(connection)?.first()?).ok()
}

/// Whether a connection was opened as a line.
pub(super) fn is_line(connection: &Connection) -> bool {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<HandshakeData>().ok());
    data.and_then(|data| data.protocol).as_deref() == Some(tls::LINE_ALPN)
}

/// The chain the peer of an open connection has shown, leaf first.
pub(super) fn chain_of(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast().ok().map(|chain| *chain)
}

/// The refusal in a connection error, where the checks of `tls` have not reported it themselves.
pub fn refusal_of(error: &ConnectionError) -> Option<Refusal> {
    const CERTIFICATE_ALERTS: std::ops::RangeInclusive<u64> = 42..=49;
    const PROTOCOL_VERSION: u64 = 70;
    const CERTIFICATE_REQUIRED: u64 = 116;
    match error {
        ConnectionError::TransportError(error) => match alert_of(error.code)? {
            // Sent by our own checks, which have told the sink why.
            alert if CERTIFICATE_ALERTS.contains(&alert) => None,
            PROTOCOL_VERSION => Some(Refusal::TlsVersion),
            CERTIFICATE_REQUIRED => Some(Refusal::NoClientCertificate),
            NO_APPLICATION_PROTOCOL => Some(Refusal::WrongAlpn),
            _ => Some(Refusal::BadHandshake(error.to_string())),
        },
        ConnectionError::ConnectionClosed(close) => {
            alert_of(close.error_code)?;
            Some(Refusal::ByPeer(close.to_string()))
        }
        _ => None,
    }
}

/// Whether the other side does not speak the protocol that was asked for.
pub(super) fn lacks_protocol(error: &ConnectionError) -> bool {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return false,
    };
    alert_of(code) == Some(NO_APPLICATION_PROTOCOL)
}

/// TLS alert of a side that speaks none of the protocols offered.
const NO_APPLICATION_PROTOCOL: u64 = 120;

/// The TLS alert in a QUIC error code.
fn alert_of(code: TransportErrorCode) -> Option<u64> {
    const CRYPTO: std::ops::Range<u64> = 0x100..0x200;
    let code = u64::from(code);
    CRYPTO.contains(&code).then_some(code & 0xff)
}

fn window(size: ByteSize) -> VarInt {
    VarInt::from_u64(size.as_u64()).unwrap_or(VarInt::MAX)
}

fn uni_streams(settings: &Settings, purpose: Purpose) -> VarInt {
    match purpose {
        Purpose::Bodies => settings.body_streams_max.into(),
        Purpose::Lanes | Purpose::Line => VarInt::from_u32(0),
    }
}

fn congestion(choice: Congestion) -> Arc<dyn ControllerFactory + Send + Sync> {
    match choice {
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Newreno => Arc::new(NewRenoConfig::default()),
    }
}

/// Bytes a program can use of a buffer: Linux reports twice of it, the half is for its own book-keeping.
fn granted(reported: io::Result<usize>) -> usize {
    let reported = reported.unwrap_or(0);
    if cfg!(target_os = "linux") {
        reported / 2
    } else {
        reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // D15: the table of the decision, at and around both limits.
    #[test]
    fn strangers_prove_their_address_when_many_handshakes_are_open() {
        let settings = Settings {
            handshakes_unproven_max: 2,
            handshakes_max: 4,
            ..Settings::default()
        };
        let cases = [
            (0, false, Action::Accept),
            (1, false, Action::Accept),
            (2, false, Action::Retry),
            (3, false, Action::Retry),
            (4, false, Action::Ignore),
            (0, true, Action::Accept),
            (3, true, Action::Accept),
            (4, true, Action::Refuse),
        ];
        for (pending, proven, expected) in cases {
            assert_eq!(first_packet(&settings, pending, proven), expected, "{pending} {proven}");
        }
    }
}
