//! Certificates made without any code of the relay, so that a mistake there cannot hide in both.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// A certificate authority that lives as long as the test.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What to put into a leaf certificate. The default is a good one of a relay.
pub struct Leaf {
    /// URI names; a relay's identity is exactly one.
    pub uris: Vec<String>,
    /// Valid from now plus this.
    pub begins: Duration,
    /// Valid until now plus this.
    pub ends: Duration,
    /// Claims to be an authority itself.
    pub is_ca: bool,
    /// Its serial number, for one that is to be revoked.
    pub serial: Option<u8>,
}

/// Paths of a certificate and its key.
#[derive(Clone)]
pub struct Pair {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM, PKCS 8.
    pub key: PathBuf,
}

impl Leaf {
    /// The identity `spiffe://<domain>/geo/<geo>/unit/<unit>/relay/<relay>`, valid for a day.
    pub fn relay(domain: &str, geo: &str, unit: &str, relay: &str) -> Self {
        Self {
            uris: vec![format!("spiffe://{domain}/geo/{geo}/unit/{unit}/relay/{relay}")],
            begins: -Duration::HOUR,
            ends: Duration::DAY,
            is_ca: false,
            serial: None,
        }
    }
}

impl Authority {
    /// A new self-signed authority with an ECDSA P-256 key.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - Duration::HOUR;
        params.not_after = OffsetDateTime::now_utc() + Duration::WEEK;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes the authority's certificate.
    pub fn write_bundle(&self, path: &Path) {
        fs::write(path, self.certificate.pem()).unwrap();
    }

    /// Writes the authority's certificate behind those that a bundle has already.
    pub fn add_to_bundle(&self, path: &Path) {
        let bundle = fs::read_to_string(path).unwrap() + &self.certificate.pem();
        fs::write(path, bundle).unwrap();
    }

    /// Writes a revocation list of these serial numbers that is good for so long.
    pub fn write_crl(&self, path: &Path, serials: &[u8], valid_for: Duration) {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now - Duration::HOUR,
            next_update: now + valid_for,
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        fs::write(path, params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
    }

    /// Issues a leaf and writes `<stem>.pem` and `<stem>.key`. The DNS name `localhost` and the address
    /// 127.0.0.1 are in it for other programs that measure themselves against the relay.
    pub fn issue(&self, leaf: &Leaf, directory: &Path, stem: &str) -> Pair {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        for uri in &leaf.uris {
            params
                .subject_alt_names
                .push(SanType::URI(uri.as_str().try_into().unwrap()));
        }
        params.distinguished_name.push(DnType::CommonName, stem);
        params.not_before = OffsetDateTime::now_utc() + leaf.begins;
        params.not_after = OffsetDateTime::now_utc() + leaf.ends;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = leaf.serial.map(|serial| SerialNumber::from_slice(&[serial]));
        if leaf.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: directory.join(format!("{stem}.pem")),
            key: directory.join(format!("{stem}.key")),
        };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        restrict(&pair.key);
        pair
    }
}

/// Keys are for their owner only; a relay may refuse others.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
