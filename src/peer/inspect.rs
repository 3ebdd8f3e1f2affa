//! What a certificate file says, for operators.

use std::path::Path;

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::credentials::CredentialsError;
use super::identity::{IdentityError, Leaf, PeerIdentity};
use super::pem;

/// One certificate of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    /// Name of the holder.
    pub subject: String,
    /// Name of the CA that signed it.
    pub issuer: String,
    /// Serial number, in hexadecimal; what a revocation list names.
    pub serial: String,
    /// Whether it is a CA certificate.
    pub is_ca: bool,
    /// The identity, or why it has none that a link would take.
    pub identity: Result<PeerIdentity, IdentityError>,
    /// First second of its validity, in seconds since 1970.
    pub not_before: i64,
    /// Last second of its validity, in seconds since 1970.
    pub not_after: i64,
}

/// A certificate in use, as status pages show it: enough to find the file it came from.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Shown {
    /// SHA-256 of the certificate, in hexadecimal, as `openssl x509 -fingerprint -sha256` writes it.
    pub fingerprint: String,
    /// Serial number, in hexadecimal; what a revocation list names.
    pub serial: String,
    /// First second of its validity, in seconds since 1970.
    pub not_before: i64,
    /// Last second of its validity, in seconds since 1970.
    pub not_after: i64,
}

impl Shown {
    /// Empty for what is no certificate; links have none of that kind.
    pub(super) fn of(der: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Self::default();
        };
        Self {
            fingerprint: fingerprint(der),
            serial: certificate.raw_serial_as_string(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        }
    }
}

fn fingerprint(der: &[u8]) -> String {
    let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() else {
        return String::new();
    };
    let hash = suite.common.hash_provider.hash(der);
    let bytes: Vec<String> = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

impl Description {
    /// Whole days until it expires, from `now` in seconds since 1970; negative when it has.
    pub fn days_left(&self, now: i64) -> i64 {
        const DAY: i64 = 24 * 3600;
        self.not_after.saturating_sub(now).div_euclid(DAY)
    }
}

/// Describes each certificate of a PEM file, in its order. Nothing is checked against a CA.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub fn describe(path: &Path) -> Result<Vec<Description>, CredentialsError> {
    let certificates = pem::read_certificates(path)?;
    certificates.iter().map(|der| describe_one(path, der)).collect()
}

fn describe_one(path: &Path, der: &CertificateDer<'_>) -> Result<Description, CredentialsError> {
    let certificate = pem::parse(path, der)?;
    Ok(Description {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial_as_string(),
        is_ca: certificate.is_ca(),
        identity: Leaf::from_der(der).map(|leaf| leaf.identity),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // A certificate in its last day has 0 days left, one that is over has -1: alarms compare with these numbers.
    #[test]
    fn days_left_are_whole_days() {
        let description = Description {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            is_ca: false,
            identity: Err(IdentityError::NoUriSan),
            not_before: 0,
            not_after: 10 * 86_400,
        };
        assert_eq!(description.days_left(0), 10);
        assert_eq!(description.days_left(9 * 86_400 + 1), 0);
        assert_eq!(description.days_left(10 * 86_400 + 1), -1);
    }
}
