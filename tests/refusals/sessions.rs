//! What outlives a connection: nothing. And what changes between two: the credentials in force.

use std::io::Cursor;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{NamedGroup, ServerConnection};

use strait::peer::credentials::Credentials;
use strait::peer::quic::{self, Purpose};
use strait::peer::refusals::{Direction, RefusalSink, Refusals};
use strait::peer::settings::CrlExpired;
use strait::peer::tls;
use strait::peer::verify::Dialled;

use super::cases::{B1, SERIAL_REVOKED, World, leaf, signed};
use super::parties::{Bad, Good, bad_dials_good, good_dials_bad, name, own, units};

/// A store that keeps all tickets, as an attacker would, and counts them.
#[derive(Debug)]
struct Greedy {
    kept: ClientSessionMemoryCache,
    tickets: AtomicUsize,
}

impl ClientSessionStore for Greedy {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.kept.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
        self.kept.insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(server)
    }
}

// T3: a peer that was good, keeps whatever it can of the session, and is revoked meanwhile, does not get in again.
#[tokio::test]
async fn a_revoked_peer_cannot_come_back_with_an_old_session() {
    let world = World::new();
    let good = Good::new(&world.settings());
    let store = Arc::new(Greedy {
        kept: ClientSessionMemoryCache::new(16),
        tickets: AtomicUsize::new(0),
    });
    let mut certificate = leaf(B1);
    certificate.serial_number = Some(rcgen::SerialNumber::from_slice(&[SERIAL_REVOKED]));
    let mut peer = Bad::with(signed(&certificate, world.sg.issuer()));
    peer.resumption = Some(Resumption::store(Arc::<Greedy>::clone(&store)));

    assert!(matches!(bad_dials_good(&good, &peer).await, Some(Ok(17))));
    assert_eq!(store.tickets.load(Ordering::Relaxed), 0, "a ticket was given out");

    let settings = world.settings_with_crl(&world.sg, 30, CrlExpired::Refuse);
    let reloaded = Credentials::load(&settings, &units(), &own(), UnixTime::now()).unwrap();
    good.quic.credentials().replace(reloaded);
    assert!(matches!(bad_dials_good(&good, &peer).await, Some(Err(_))));
    assert_eq!(good.refusals.count(Direction::Accepted, "revoked"), 1);
}

// O-S2: new trust reaches the next handshake of configurations that were made before, on both sides.
#[tokio::test]
async fn reloaded_credentials_are_used_by_the_next_handshake() {
    let world = World::new();
    let good = Good::new(&world.settings());
    let peer = Bad::with(signed(&leaf(B1), world.sg.issuer()));
    assert!(matches!(good_dials_bad(&good, &peer).await, Some(Ok(17))));
    assert!(matches!(bad_dials_good(&good, &peer).await, Some(Ok(17))));

    // sg has moved to its new root, and takes the old one away.
    world.dir.write("sg-ca.pem", world.sg_new.certificate());
    let reloaded = Credentials::load(&world.settings(), &units(), &own(), UnixTime::now()).unwrap();
    good.quic.credentials().replace(reloaded);
    assert!(matches!(good_dials_bad(&good, &peer).await, Some(Err(_))));
    assert!(matches!(bad_dials_good(&good, &peer).await, Some(Err(_))));
    assert_eq!(good.refusals.count(Direction::Accepted, "unknown_issuer"), 1);
    assert_eq!(good.refusals.count(Direction::Dialled, "unknown_issuer"), 1);
    let renewed = Bad::with(signed(&leaf(B1), world.sg_new.issuer()));
    assert!(matches!(good_dials_bad(&good, &renewed).await, Some(Ok(17))));
}

// T4: the policy in force is asked again about a connection that is open.
#[tokio::test]
async fn an_open_connection_can_be_judged_by_the_new_policy() {
    let world = World::new();
    let good = Good::new(&world.settings());
    let mut certificate = leaf(B1);
    certificate.serial_number = Some(rcgen::SerialNumber::from_slice(&[SERIAL_REVOKED]));
    let peer = Bad::with(signed(&certificate, world.sg.issuer()));
    let server = quinn::Endpoint::server(peer.server_config(), (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let client = good.quic.client_endpoint(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    let dialled = Dialled {
        unit: name("b"),
        relay: None,
    };
    let config = good.quic.client_config(dialled.clone(), Purpose::Lanes).unwrap();
    let connecting = client
        .connect_with(config, server.local_addr().unwrap(), quic::SERVER_NAME)
        .unwrap();
    let (ours, theirs) = tokio::join!(connecting, async { server.accept().await.unwrap().await });
    let (connection, _theirs) = (ours.unwrap(), theirs.unwrap());
    let judge = || {
        good.quic
            .recheck(&connection, Direction::Dialled, Some(&dialled), UnixTime::now())
    };
    assert_eq!(judge().unwrap().identity.to_string(), B1);

    let settings = world.settings_with_crl(&world.sg, 30, CrlExpired::Refuse);
    let reloaded = Credentials::load(&settings, &units(), &own(), UnixTime::now()).unwrap();
    good.quic.credentials().replace(reloaded);
    assert_eq!(judge().unwrap_err().reason(), "revoked");
    assert!(connection.close_reason().is_none(), "judging does not close");
}

// T5: early data is off in both configurations, so there is no first flight to replay.
#[test]
fn neither_side_knows_early_data_or_resumption() {
    let world = World::new();
    let good = Good::new(&world.settings());
    let sink: Arc<dyn RefusalSink> = Arc::<Refusals>::clone(&good.refusals);
    let server = tls::server_config(good.quic.credentials(), &sink).unwrap();
    assert_eq!(server.max_early_data_size, 0);
    assert_eq!(server.send_tls13_tickets, 0);
    assert!(!server.session_storage.can_cache());
    assert!(!server.ticketer.enabled());
    assert_eq!(server.alpn_protocols, [b"strait/1".to_vec()]);
    let dialled = Dialled {
        unit: name("b"),
        relay: None,
    };
    let client = tls::client_config(good.quic.credentials(), dialled, &sink, tls::ALPN).unwrap();
    assert!(!client.enable_early_data);
    assert!(!client.enable_sni);
}

// O-S1: TLS 1.2 is not spoken at all.
#[test]
fn a_tls_1_2_client_is_refused() {
    let world = World::new();
    let good = Good::new(&world.settings());
    let sink: Arc<dyn RefusalSink> = Arc::<Refusals>::clone(&good.refusals);
    let config = tls::server_config(good.quic.credentials(), &sink).unwrap();
    let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
    connection.read_tls(&mut Cursor::new(tls_1_2_hello())).unwrap();
    let error = connection.process_new_packets().map(|_| ()).unwrap_err();
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error:?}");
}

/// The first message of a client that offers TLS 1.2 and nothing newer.
fn tls_1_2_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported groups: P-256
        0, 11, 0, 2, 1, 0, // point formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature algorithms: ECDSA P-256 SHA-256
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(handshake.len()).unwrap().to_be_bytes());
    record.extend(handshake);
    record
}

// D15, T9: a caller that is asked to prove its address does so and gets in; above the limit nobody does.
#[tokio::test]
async fn callers_prove_their_address_when_asked() {
    let world = World::new();
    let mut settings = world.settings();
    settings.handshakes_unproven_max = 0;
    let good = Good::new(&settings);
    let server = good.quic.server_endpoint((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let peer = Bad::with(signed(&leaf(B1), world.sg.issuer()));
    let client = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connecting = client
        .connect_with(peer.client_config(), server.local_addr().unwrap(), quic::SERVER_NAME)
        .unwrap();
    let accepting = async {
        let first = server.accept().await.unwrap();
        assert!(!first.remote_address_validated());
        assert!(good.quic.accept(first, 0).is_none());
        let second = server.accept().await.unwrap();
        assert!(second.remote_address_validated());
        good.quic.accept(second, 0).unwrap().await
    };
    let (theirs, ours) = tokio::join!(connecting, accepting);
    assert!(theirs.is_ok() && ours.is_ok());
    assert_eq!(good.refusals.total(Direction::Accepted), 0);
}

// O-S2: shards share one port, so each can open its own endpoint on it.
#[tokio::test]
async fn shards_share_the_port() {
    let world = World::new();
    let good = Good::new(&world.settings());
    let first = good.quic.server_endpoint((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let second = good.quic.server_endpoint(first.local_addr().unwrap()).unwrap();
    assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
}

// A relay that was killed and started again tells its peers so at once: they reconnect in a round trip instead of after
// the idle timeout of 30 s.
#[tokio::test]
async fn peers_of_a_killed_relay_learn_of_its_restart_at_once() {
    let world = World::new();
    let first = Good::new(&world.settings());
    let peer = Bad::with(signed(&leaf(B1), world.sg.issuer()));
    let (address_is, address) = std::sync::mpsc::channel();
    let (ready_is, ready) = tokio::sync::oneshot::channel();
    let (kill, killed) = tokio::sync::oneshot::channel::<()>();
    let relay = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let kept = runtime.block_on(async {
            let server = first.quic.server_endpoint((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            address_is.send(server.local_addr().unwrap()).unwrap();
            let incoming = server.accept().await.unwrap();
            let connection = first.quic.accept(incoming, 0).unwrap().await.unwrap();
            let _ = ready_is.send(());
            let _ = killed.await;
            (connection, server)
        });
        // A killed process says no good-bye: what would send it is gone before the connection is dropped.
        drop(runtime);
        drop(kept);
    });
    let address = address.recv().unwrap();
    let client = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connection = client
        .connect_with(peer.client_config(), address, quic::SERVER_NAME)
        .unwrap()
        .await
        .unwrap();
    ready.await.unwrap();
    kill.send(()).unwrap();
    relay.join().unwrap();

    let again = Good::new(&world.settings());
    let _server = again.quic.server_endpoint(address).unwrap();
    let (mut stream, _) = connection.open_bi().await.unwrap();
    stream
        .write_all(b"are you there? this packet is long enough to be answered")
        .await
        .unwrap();
    let closed = tokio::time::timeout(std::time::Duration::from_secs(10), connection.closed()).await;
    assert!(matches!(closed, Ok(quinn::ConnectionError::Reset)), "{closed:?}");
}
