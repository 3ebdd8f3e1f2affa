//! Certificates for development, tests and the demo: one private CA per Geo, one certificate per relay.
//!
//! The CA key lies in a file next to the certificates. That is fine on one machine and wrong for production, where the CA
//! of a Geo is run by those who run that Geo.
//!
//! # Not here
//! Checking certificates (`verify`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::model::{Geo, RelayName, UnitId};

use super::identity::{PeerIdentity, TrustDomain};

/// Clocks of two machines may differ by so much before a fresh certificate is "not valid yet".
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);
/// Validity of a development CA.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A CA that may vouch for the units of one Geo.
pub struct Ca {
    geo: Geo,
    pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct PemPair {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// For whom a certificate is made, and for how long.
#[derive(Clone, Debug)]
pub struct Request {
    /// Trust domain of the identity.
    pub trust_domain: TrustDomain,
    /// Unit of the relay.
    pub unit: UnitId,
    /// Name of the relay.
    pub relay: RelayName,
    /// Now; the validity begins a little earlier.
    pub now: OffsetDateTime,
    /// How long the certificate is valid.
    pub validity: Duration,
}

/// Why a development certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevCaError {
    /// The certificate library refused.
    #[error("cannot make the certificate")]
    Certificate(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("cannot read or write {path}; check that the folder exists and belongs to this user")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and would be overwritten.
    #[error("{path} exists; remove it, or ask to replace it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// Makes a new CA for a Geo.
///
/// # Errors
/// The system has no random numbers.
pub fn geo_ca(geo: &Geo, now: OffsetDateTime) -> Result<Ca, DevCaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("strait development CA of {geo}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + CA_VALIDITY;
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok(Ca {
        geo: geo.clone(),
        pem,
        key_pem: key.serialize_pem(),
        issuer: Issuer::new(params, key),
    })
}

impl Ca {
    /// Takes the CA of a Geo from `<dir>/<geo>-ca.pem` and `.key`, or makes it and writes it there.
    ///
    /// # Errors
    /// A file cannot be read or written, or is not what it should be.
    pub fn open(dir: &Path, geo: &Geo, now: OffsetDateTime) -> Result<Self, DevCaError> {
        let certificate = dir.join(format!("{geo}-ca.pem"));
        let key = dir.join(format!("{geo}-ca.key"));
        if !certificate.exists() && !key.exists() {
            let ca = geo_ca(geo, now)?;
            write_pair(dir, &format!("{geo}-ca"), &ca.pair(), false)?;
            return Ok(ca);
        }
        let pem = read(&certificate)?;
        let key_pem = read(&key)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key_pem)?)?;
        Ok(Self {
            geo: geo.clone(),
            pem,
            key_pem,
            issuer,
        })
    }

    /// Makes the certificate of one relay: P-256, one URI SAN, for clients and servers, no CA.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn relay(&self, request: &Request) -> Result<PemPair, DevCaError> {
        let identity = PeerIdentity {
            trust_domain: request.trust_domain.clone(),
            geo: self.geo.clone(),
            unit: request.unit.clone(),
            relay: Some(request.relay.clone()),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("strait relay {}", request.relay));
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = request.now - CLOCK_TOLERANCE;
        params.not_after = request.now + request.validity;
        let key = KeyPair::generate()?;
        Ok(PemPair {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The CA certificate, PEM: what goes into a trust bundle.
    pub fn certificate(&self) -> &str {
        &self.pem
    }

    /// The signing side, for certificates and lists this module does not make.
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    fn pair(&self) -> PemPair {
        PemPair {
            certificate: self.pem.clone(),
            key: self.key_pem.clone(),
        }
    }
}

/// Writes `<dir>/<name>.pem` and `<dir>/<name>.key`, both for the owner only; makes the folder if it is missing.
///
/// # Errors
/// A file exists and `replace` is false, or the folder cannot be written to.
pub fn write_pair(dir: &Path, name: &str, pair: &PemPair, replace: bool) -> Result<(PathBuf, PathBuf), DevCaError> {
    make_private_dir(dir)?;
    let certificate = dir.join(format!("{name}.pem"));
    let key = dir.join(format!("{name}.key"));
    if !replace && let Some(path) = [&certificate, &key].into_iter().find(|path| path.exists()) {
        return Err(DevCaError::Exists { path: path.clone() });
    }
    write_private(&key, &pair.key)?;
    write_private(&certificate, &pair.certificate)?;
    Ok((certificate, key))
}

fn make_private_dir(dir: &Path) -> Result<(), DevCaError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| file_error(dir, source))
}

/// Written next to its place and moved there, so that nobody reads half a key, and with its mode from the first byte on.
fn write_private(path: &Path, text: &str) -> Result<(), DevCaError> {
    let draft = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&draft, path));
    written.map_err(|source| file_error(path, source))
}

fn read(path: &Path) -> Result<String, DevCaError> {
    std::fs::read_to_string(path).map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> DevCaError {
    DevCaError::File {
        path: path.to_owned(),
        source,
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn request(now: OffsetDateTime) -> Request {
        Request {
            trust_domain: TrustDomain::default(),
            unit: Name::new("b").unwrap(),
            relay: Name::new("b-1").unwrap(),
            now,
            validity: Duration::from_secs(3600),
        }
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
    }

    // O-S1: a development certificate has the identity and validity it was asked for.
    #[test]
    fn a_relay_certificate_carries_its_identity() {
        let ca = geo_ca(&Name::new("sg").unwrap(), now()).unwrap();
        let pair = ca.relay(&request(now())).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).unwrap();
        let leaf = super::super::identity::Leaf::from_der(&pem.contents).unwrap();
        assert_eq!(
            leaf.identity.to_string(),
            "spiffe://strait.local/geo/sg/unit/b/relay/b-1"
        );
        assert_eq!(leaf.not_after, 1_700_003_600);
        assert!(leaf.usage.is_some_and(|usage| usage.client && usage.server));
    }

    // O-S5: keys are for their owner only, and are not replaced by accident. A second run uses the same CA.
    #[test]
    fn files_are_private_and_kept() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("strait-dev-ca-{}", std::process::id()));
        let geo = Name::new("sg").unwrap();
        let first = Ca::open(&dir, &geo, now()).unwrap();
        let again = Ca::open(&dir, &geo, now()).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        let pair = again.relay(&request(now())).unwrap();
        let (_, key) = write_pair(&dir, "b-1", &pair, false).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&dir), mode(&key)), (0o700, 0o600));
        assert!(matches!(
            write_pair(&dir, "b-1", &pair, false),
            Err(DevCaError::Exists { .. })
        ));
        write_pair(&dir, "b-1", &pair, true).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
