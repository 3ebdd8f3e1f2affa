//! TLS of links, configured by hand: 1.3 only, both sides show a certificate, nothing is resumed.
//!
//! # Path
//! `quic` wraps the two configurations for QUIC. Inside a handshake rustls asks `Accepting` or `Dialling`, which ask
//! the [`Policy`](super::verify::Policy) of the credentials in force.
//!
//! # Invariants
//! - D9. No early data and no session tickets: each connection shows its certificate, so revocation and expiry hold for
//!   the next connection, and no first flight can be replayed.
//! - D10. A refusal is reported once, to the sink, before the handshake ends with an alert.
//! - D11. Certificate, key and policy are looked up per handshake, so a reload reaches the next handshake.
//!
//! # Not here
//! The rules themselves (`verify`), files (`credentials`).

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use super::credentials::{CredentialsHandle, LineRole};
use super::refusals::{Direction, RefusalSink};
use super::verify::{Dialled, Refusal};

/// Protocol name of links: version 1 of the lane protocol.
pub const ALPN: &[u8] = b"strait/1";
/// Protocol name of lines to the relay that has the routes.
pub const LINE_ALPN: &[u8] = b"strait-routes/1";

/// Configuration for connections that peers open.
///
/// # Errors
/// rustls finds the provider unfit; cannot happen with the one used here.
pub fn server_config(credentials: &CredentialsHandle, sink: &Arc<dyn RefusalSink>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(provider());
    let resolver = Arc::new(OwnCertificate(credentials.clone()));
    let verifier = Arc::new(Accepting {
        credentials: credentials.clone(),
        sink: Arc::clone(sink),
        provider: Arc::clone(&provider),
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    if credentials.current().lines() == LineRole::Takes {
        config.alpn_protocols.push(LINE_ALPN.to_vec());
    }
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Configuration for connections to one relay, or to any relay of one unit, with this protocol name.
///
/// # Errors
/// rustls finds the provider unfit; cannot happen with the one used here.
pub fn client_config(
    credentials: &CredentialsHandle,
    dialled: Dialled,
    sink: &Arc<dyn RefusalSink>,
    alpn: &[u8],
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(provider());
    let resolver = Arc::new(OwnCertificate(credentials.clone()));
    let verifier = Arc::new(Dialling {
        credentials: credentials.clone(),
        dialled,
        sink: Arc::clone(sink),
        provider: Arc::clone(&provider),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    // A relay has one identity; a server name would only tell observers who is called.
    config.enable_sni = false;
    Ok(config)
}

/// The provider of all TLS here. AES-128-GCM leads: it is the cheapest where the CPU has AES, and QUIC's first packets
/// need it in any case.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

/// Shows our certificate, as server and as client.
#[derive(Debug)]
struct OwnCertificate(CredentialsHandle);

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.current().key()))
    }
}

impl rustls::client::ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.current().key()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Checks peers that open connections.
#[derive(Debug)]
struct Accepting {
    credentials: CredentialsHandle,
    sink: Arc<dyn RefusalSink>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Accepting {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Who we trust is nobody's business before the handshake is done.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = chain_of(end_entity, intermediates);
        let credentials = self.credentials.current();
        match credentials.policy().check(&chain, Direction::Accepted, None, now) {
            Ok(_leaf) => Ok(ClientCertVerified::assertion()),
            Err(refusal) => Err(refuse(&*self.sink, Direction::Accepted, refusal)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks the peer that answers a connection of ours.
#[derive(Debug)]
struct Dialling {
    credentials: CredentialsHandle,
    dialled: Dialled,
    sink: Arc<dyn RefusalSink>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Dialling {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = chain_of(end_entity, intermediates);
        let credentials = self.credentials.current();
        match credentials
            .policy()
            .check(&chain, Direction::Dialled, Some(&self.dialled), now)
        {
            Ok(_leaf) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => Err(refuse(&*self.sink, Direction::Dialled, refusal)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The chain as the policy reads it.
fn chain_of<'a>(
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    let borrowed = |certificate: &'a CertificateDer<'a>| CertificateDer::from(certificate.as_ref());
    std::iter::once(end_entity).chain(intermediates).map(borrowed).collect()
}

/// Reports a refusal (D10) and makes it the alert that ends the handshake.
fn refuse(sink: &dyn RefusalSink, direction: Direction, refusal: Refusal) -> Error {
    sink.on_refused(direction, refusal.reason(), &refusal);
    let error = match refusal {
        Refusal::Expired(_) => CertificateError::Expired,
        Refusal::NotYetValid(_) => CertificateError::NotValidYet,
        Refusal::Revoked(_) => CertificateError::Revoked,
        Refusal::UnknownIssuer(_) => CertificateError::UnknownIssuer,
        refusal => CertificateError::Other(OtherError(Arc::new(Label(refusal.reason())))),
    };
    Error::InvalidCertificate(error)
}

/// What the refused peer is told: the label, not what we have configured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Label(&'static str);
