//! Reads PEM files: certificates, bundles, revocation lists and keys, none of them larger than it can be.

use std::fmt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::credentials::CredentialsError;
use super::verify::Anchor;

/// Largest certificate, key or revocation file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The CA certificates of a bundle.
///
/// # Errors
/// The file cannot be read, holds no certificate, or one that is not a CA's.
pub(super) fn read_anchors(path: &Path) -> Result<Vec<Anchor>, CredentialsError> {
    let mut anchors = Vec::new();
    for (index, der) in read_certificates(path)?.iter().enumerate() {
        let not_ca = || CredentialsError::NotCa {
            path: path.to_owned(),
            position: index + 1,
        };
        let certificate = parse(path, der)?;
        if !certificate.is_ca() {
            return Err(not_ca());
        }
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|_| not_ca())?;
        anchors.push(Anchor {
            anchor: anchor.to_owned(),
            not_after: certificate.validity().not_after.timestamp(),
        });
    }
    Ok(anchors)
}

/// The revocation lists of a file; at least one.
///
/// # Errors
/// The file cannot be read, or holds no list.
pub(super) fn read_crls(path: &Path) -> Result<Vec<CertRevocationList<'static>>, CredentialsError> {
    const WHAT: &str = "revocation list";
    let pem = read(path)?;
    let mut crls = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(&pem) {
        let der = der.map_err(|error| pem_error(path, WHAT, &error))?;
        let crl = OwnedCertRevocationList::from_der(&der).map_err(|error| pem_error(path, WHAT, &error))?;
        crls.push(crl.into());
    }
    if crls.is_empty() {
        return Err(pem_error(path, WHAT, &"no block found"));
    }
    Ok(crls)
}

/// All certificates of a PEM file; at least one.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    const WHAT: &str = "certificate";
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| pem_error(path, WHAT, &error))?;
    if certificates.is_empty() {
        return Err(pem_error(path, WHAT, &"no block found"));
    }
    Ok(certificates)
}

/// Reads the fields of a certificate that came from `path`.
///
/// # Errors
/// It is not well-formed.
pub(super) fn parse<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CredentialsError> {
    let (_rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| pem_error(path, "certificate", &error))?;
    Ok(certificate)
}

/// The private key of a file that only its owner may read (D13).
///
/// # Errors
/// The file cannot be read, may be read by others, or holds no key.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    check_mode(path)?;
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| pem_error(path, "private key", &error))
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    let unreadable = |source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(CredentialsError::Size {
            path: path.to_owned(),
            bytes,
        });
    }
    std::fs::read(path).map_err(unreadable)
}

/// Refuses a key that others may read (D13).
#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), CredentialsError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path).map_err(|source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::KeyMode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// A file does not hold what it should.
pub(super) fn pem_error(path: &Path, what: &'static str, detail: &dyn fmt::Display) -> CredentialsError {
    CredentialsError::Pem {
        path: path.to_owned(),
        what,
        detail: detail.to_string(),
    }
}
