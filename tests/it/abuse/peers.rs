//! Attacks on the port for other relays, with and without a certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use strait::model::Name;
use strait::wire::frame::put_hello;
use strait::wire::hello::{Hello, Purpose, encode};
use tokio::net::UdpSocket;

use super::{LIMIT, MIB, Target};
use crate::harness::{Authority, DOMAIN, Leaf, within};

/// Takes every certificate: what is tested is what the relay takes.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A QUIC client with the certificate of a unit of this authority, or none.
fn config(target: &Target, identity: Option<(&Authority, &Leaf)>, alpn: &[u8]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut tls = match identity {
        None => builder.with_no_client_auth(),
        Some((authority, leaf)) => {
            let pair = authority.issue(leaf, target.cluster.directory(), "attacker");
            let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap())
                .unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

fn address(target: &Target) -> SocketAddr {
    target.cluster.relay("a-1").peer().parse().unwrap()
}

/// Connects as a client may; gives the connection once the relay has taken the client's certificate too.
async fn connect(target: &Target, config: ClientConfig) -> Result<(Endpoint, Connection), ConnectionError> {
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let connecting = endpoint.connect_with(config, address(target), "localhost").unwrap();
    let connection = within("the handshake", LIMIT, connecting).await?;
    // TLS 1.3: the client is done before the server has looked at its certificate.
    let refused = tokio::time::timeout(Duration::from_secs(1), connection.closed()).await;
    refused.map_or(Ok((endpoint, connection)), Err)
}

/// A good identity of unit `b`.
fn of_b() -> Leaf {
    Leaf::relay(DOMAIN, "geo-b", "b", "b-1")
}

// O-S1: no certificate, one of a stranger, one of another Geo's authority, wrong protocol.
#[tokio::test]
async fn peers_without_the_right_certificate_or_protocol_are_refused() {
    let target = Target::start().await;
    let stranger = Authority::new("geo-b");
    let (a, b) = (target.cluster.authority("a"), target.cluster.authority("b"));
    let cases = [
        ("no certificate", config(&target, None, b"strait/1")),
        (
            "a stranger's authority",
            config(&target, Some((&stranger, &of_b())), b"strait/1"),
        ),
        (
            "the authority of another Geo",
            config(&target, Some((a, &of_b())), b"strait/1"),
        ),
        ("another protocol", config(&target, Some((b, &of_b())), b"h3")),
        ("another version", config(&target, Some((b, &of_b())), b"strait/999")),
    ];
    for (what, config) in cases {
        assert!(connect(&target, config).await.is_err(), "{what} was accepted");
        target.is_well(what, 16 * MIB).await;
    }
    // The same client with everything right is taken: the cases above failed for the reason they name.
    let good = connect(&target, config(&target, Some((b, &of_b())), b"strait/1")).await;
    assert!(good.is_ok(), "{:?}", good.err());
}

/// The kinds of the frames that a relay sends on the control stream of a link with a peer of these features, up to its third probe.
async fn kinds_told(target: &Target, features: &[&str]) -> Vec<u8> {
    let of_b = config(target, Some((target.cluster.authority("b"), &of_b())), b"strait/1");
    let (endpoint, lanes) = connect(target, of_b.clone()).await.unwrap();
    // From the same port, so that both come to one shard.
    let bodies = endpoint.connect_with(of_b, address(target), "localhost").unwrap();
    let bodies = within("the second connection", LIMIT, bodies).await.unwrap();
    let hello = |purpose| {
        let name = |text| Name::new(text).unwrap();
        let hello = Hello::new(purpose, 16).of_relay(&name("geo-b"), &name("b"), &name("b-1"));
        let mut first = BytesMut::from(&[STREAM_CONTROL][..]);
        let hello = Hello {
            link_id: vec![7; 16],
            features: features.iter().map(ToString::to_string).collect(),
            ..hello
        };
        put_hello(&mut first, &encode(&hello));
        first
    };
    let (mut control, mut told) = lanes.open_bi().await.unwrap();
    control.write_all(&hello(Purpose::Lanes)).await.unwrap();
    let mut kinds = vec![next_kind(&mut told).await];
    let mut probes = 0;
    let (mut lane, _lane_back) = lanes.open_bi().await.unwrap();
    lane.write_all(&[STREAM_LANE, 1]).await.unwrap();
    let (mut second, _second_back) = bodies.open_bi().await.unwrap();
    second.write_all(&hello(Purpose::Bodies)).await.unwrap();
    while probes < 3 {
        let kind = next_kind(&mut told).await;
        probes += usize::from(kind == PING);
        kinds.push(kind);
    }
    kinds
}

/// Reads a frame.
async fn next_kind(stream: &mut quinn::RecvStream) -> u8 {
    let mut header = [0; 16];
    within("a frame", LIMIT, stream.read_exact(&mut header)).await.unwrap();
    let length = |at: usize| u32::from_be_bytes([0, header[at], header[at + 1], header[at + 2]]) as usize;
    let mut rest = vec![0; length(2) + length(5)];
    within("the rest of a frame", LIMIT, stream.read_exact(&mut rest))
        .await
        .unwrap();
    header[0]
}

// B4: what a relay sees of units is for peers that say that they listen; one of a version before gets nothing that it does not know.
#[tokio::test]
async fn a_peer_hears_which_units_are_reached_only_if_it_says_that_it_listens() {
    let target = Target::start().await;
    let told = kinds_told(&target, &[]).await;
    assert!(!told.contains(&SIGHTINGS), "{told:?}");
    let told = kinds_told(&target, &["sightings"]).await;
    assert!(told.contains(&SIGHTINGS), "{told:?}");
}

// O-S4: a peer with a good certificate that does not speak the protocol.
#[tokio::test]
async fn a_trusted_peer_that_sends_noise_is_let_go() {
    let target = Target::start().await;
    let b = target.cluster.authority("b");
    let noise: Vec<u8> = (0..1_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for two_way in [true, false] {
        let (_endpoint, connection) = connect(&target, config(&target, Some((b, &of_b())), b"strait/1"))
            .await
            .unwrap();
        let write = async {
            let mut stream = if two_way {
                connection.open_bi().await?.0
            } else {
                connection.open_uni().await?
            };
            // The relay may stop or close before all is taken.
            let _ = stream.write_all(&noise).await;
            Ok::<_, ConnectionError>(stream)
        };
        let _stream = tokio::time::timeout(Duration::from_secs(10), write).await;
        within("the relay to close the link", LIMIT, connection.closed()).await;
        target.is_well("noise of a trusted peer", 32 * MIB).await;
    }
}

// O-S4: a trusted peer that opens a connection and says nothing is not kept for ever, nor trusted to be a link.
#[tokio::test]
async fn a_trusted_peer_that_says_nothing_is_let_go() {
    let target = Target::start().await;
    let b = target.cluster.authority("b");
    let mut config = config(&target, Some((b, &of_b())), b"strait/1");
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    config.transport_config(Arc::new(transport));
    let (_endpoint, connection) = connect(&target, config).await.unwrap();
    within("the relay to close the link", LIMIT, connection.closed()).await;
    target.is_well("a silent peer", 16 * MIB).await;
}

// T10: datagrams from anywhere get no more than three times their bytes back, and small ones nothing.
#[tokio::test]
async fn noise_over_udp_is_not_amplified() {
    let target = Target::start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut dice = fastrand::Rng::with_seed(11);
    let mut sent = 0;
    for number in 0..5000_usize {
        let mut datagram: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(1 + number % 1400).collect();
        // A quarter looks like the first packet of a version nobody knows, or of version 1.
        match number % 8 {
            0 => datagram[0] = 0xc0,
            1 if datagram.len() > 5 => datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]),
            _ => {}
        }
        sent += socket.send_to(&datagram, address(&target)).await.unwrap();
    }
    target.is_well("noise over UDP", 32 * MIB).await;
    let mut answered = 0;
    let mut buffer = vec![0; 65_536];
    while let Ok((length, _)) = socket.try_recv_from(&mut buffer) {
        answered += length;
    }
    assert!(answered <= sent, "{sent} bytes got {answered} back");
}

// Kinds of frames, and what streams between relays begin with.
const PING: u8 = 9;
const SIGHTINGS: u8 = 26;
const STREAM_CONTROL: u8 = 1;
const STREAM_LANE: u8 = 2;
