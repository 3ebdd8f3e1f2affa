//! Two relays over loopback: one as the product configures it, one that may present anything and trusts everyone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use strait::model::Name;
use strait::peer::credentials::{Credentials, CredentialsHandle, LineRole, Own};
use strait::peer::quic::{self, Purpose, Quic};
use strait::peer::refusals::{Direction, Refusals};
use strait::peer::verify::Dialled;
use strait::peer::{Settings, UnitSettings, Units, tls};

/// Longest time one handshake may take here.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A folder that is removed at the end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refusals-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, file: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(file);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The units relay a-1 is configured with: b and c in sg, d in cn-east.
pub fn units() -> Units {
    [("b", "sg"), ("c", "sg"), ("d", "cn-east")]
        .into_iter()
        .map(|(unit, geo)| {
            let settings = UnitSettings {
                geo: name(geo),
                dial: true,
                relays: vec![],
                access: vec![],
            };
            (name(unit), settings)
        })
        .collect()
}

pub fn own() -> Own {
    Own {
        geo: name("cn-east"),
        unit: name("a"),
        relay: name("a-1"),
        lines: LineRole::None,
    }
}

/// Relay a-1 as the product runs it.
pub struct Good {
    pub quic: Quic,
    pub refusals: Arc<Refusals>,
}

impl Good {
    pub fn new(settings: &Settings) -> Self {
        let registry = prometheus::Registry::new();
        let credentials = Credentials::load(settings, &units(), &own(), UnixTime::now()).unwrap();
        let credentials = CredentialsHandle::register(credentials, &registry).unwrap();
        let refusals = Arc::new(Refusals::register(&registry).unwrap());
        let quic = Quic::new(settings.clone(), credentials, Arc::<Refusals>::clone(&refusals)).unwrap();
        Self { quic, refusals }
    }
}

/// How the bad relay behaves beside its certificate.
#[derive(Clone)]
pub struct Bad {
    /// What it presents; `None`: no certificate at all.
    pub certificate: Option<Arc<CertifiedKey>>,
    pub alpn: Vec<Vec<u8>>,
    /// What it keeps of sessions as a client; `None`: the default of the library, which keeps all it gets.
    pub resumption: Option<Resumption>,
}

/// What happened on one connection: bytes of the other side that were read, or the error that ended the handshake;
/// nothing, if it was refused with its first packet.
pub type Seen = Option<Result<usize, quinn::ConnectionError>>;

/// The bad relay dials the good one and sends bytes at once. What did the good one see?
pub async fn bad_dials_good(good: &Good, bad: &Bad) -> Seen {
    let server = good.quic.server_endpoint(loopback()).unwrap();
    let address = server.local_addr().unwrap();
    let client = quinn::Endpoint::client(loopback()).unwrap();
    let dialling = async {
        // The client ends its part of a TLS 1.3 handshake before the server has seen its certificate, so this may
        // succeed, and the bytes are really on the wire.
        let connection = client
            .connect_with(bad.client_config(), address, "relay.strait.invalid")
            .unwrap()
            .await?;
        if let Ok(mut stream) = connection.open_bi().await {
            let _ = stream.0.write_all(b"application bytes").await;
            let _ = stream.0.finish();
        }
        connection.closed().await;
        Ok::<_, quinn::ConnectionError>(())
    };
    let accepting = async {
        let incoming = server.accept().await.unwrap();
        let remote = incoming.remote_address();
        let seen = match good.quic.accept(incoming, 0) {
            None => None,
            Some(connecting) => Some(read(connecting).await),
        };
        if let Some(Err(error)) = &seen {
            good.quic.report(Direction::Accepted, remote, error);
        }
        seen
    };
    let (_, seen) = tokio::time::timeout(PATIENCE, async { tokio::join!(dialling, accepting) })
        .await
        .expect("the handshake ends");
    seen
}

/// What an accepted connection brings, read as the product does: after the handshake.
async fn read(connecting: quinn::Connecting) -> Result<usize, quinn::ConnectionError> {
    let connection = connecting.await?;
    assert!(quic::peer_of(&connection).is_some());
    let (_, mut stream) = connection.accept_bi().await?;
    let bytes = stream.read_to_end(1024).await.unwrap().len();
    connection.close(0u32.into(), b"done");
    Ok(bytes)
}

/// The good relay dials relay b-1 and the bad one answers, sending bytes at once. What did the good one see?
pub async fn good_dials_bad(good: &Good, bad: &Bad) -> Seen {
    let server = quinn::Endpoint::server(bad.server_config(), loopback()).unwrap();
    let address = server.local_addr().unwrap();
    let client = good.quic.client_endpoint(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    let dialled = Dialled {
        unit: name("b"),
        relay: Some(name("b-1")),
    };
    let config = good.quic.client_config(dialled, Purpose::Bodies).unwrap();
    let dialling = async {
        let connecting = client.connect_with(config, address, quic::SERVER_NAME).unwrap();
        let seen = match connecting.await {
            Ok(connection) => {
                assert!(quic::peer_of(&connection).is_some());
                match connection.accept_uni().await {
                    Ok(mut stream) => {
                        let bytes = stream.read_to_end(1024).await.unwrap().len();
                        connection.close(0u32.into(), b"done");
                        Ok(bytes)
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &seen {
            good.quic.report(Direction::Dialled, address, error);
        }
        Some(seen)
    };
    let answering = async {
        let Ok(connecting) = server.accept().await.unwrap().accept() else {
            return;
        };
        // A server may send before the client's certificate came; a bad one does.
        let (connection, _) = connecting
            .into_0rtt()
            .unwrap_or_else(|_| panic!("a server can always send early"));
        if let Ok(mut stream) = connection.open_uni().await {
            let _ = stream.write_all(b"application bytes").await;
            let _ = stream.finish();
        }
        connection.closed().await;
    };
    let (seen, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(dialling, answering) })
        .await
        .expect("the handshake ends");
    seen
}

impl Bad {
    pub fn with(certificate: CertifiedKey) -> Self {
        Self {
            certificate: Some(Arc::new(certificate)),
            alpn: vec![tls::ALPN.to_vec()],
            resumption: None,
        }
    }

    fn tls_client(&self) -> rustls::ClientConfig {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(tls::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(Arc::new(Shows(self.certificate.clone())));
        config.alpn_protocols.clone_from(&self.alpn);
        if let Some(resumption) = &self.resumption {
            config.resumption = resumption.clone();
        }
        config
    }

    pub fn client_config(&self) -> quinn::ClientConfig {
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(self.tls_client()).unwrap()))
    }

    pub fn server_config(&self) -> quinn::ServerConfig {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(tls::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anyone))
            .with_cert_resolver(Arc::new(Shows(self.certificate.clone())));
        config.alpn_protocols.clone_from(&self.alpn);
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()))
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// Trusts everyone, so that it is always the good side that refuses.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
