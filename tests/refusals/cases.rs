//! The certificates the bad relay presents, and what each side must call them.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};

use strait::peer::dev_ca::{Ca, geo_ca};
use strait::peer::identity::TrustDomain;
use strait::peer::settings::CrlExpired;
use strait::peer::{Settings, dev_ca, tls};

use super::parties::{Dir, name};

pub const SERIAL_REVOKED: u8 = 66;

/// All authorities of the tests, and the files of the good relay a-1.
pub struct World {
    pub dir: Dir,
    pub cn: Ca,
    pub sg: Ca,
    /// Second root of sg, trusted beside the first one.
    pub sg_new: Ca,
    /// Root of sg that has expired.
    pub sg_expired: Authority,
    /// Named like the root of sg, but not trusted.
    pub stranger: Ca,
    /// Intermediate of sg's intermediate-capable root.
    pub chain: Authority,
    pub chain_root: Authority,
}

/// A CA that is not made by the product.
pub struct Authority {
    pub pem: String,
    pub der: CertificateDer<'static>,
    pub issuer: Issuer<'static, KeyPair>,
}

/// One credential and the reasons it is refused for; `ok` if it must be taken.
pub struct Case {
    pub name: &'static str,
    pub certificate: CertifiedKey,
    pub accepted: &'static str,
    pub dialled: &'static str,
}

impl World {
    pub fn new() -> Self {
        let now = OffsetDateTime::now_utc();
        let ca = |geo| geo_ca(&name(geo), now).unwrap();
        let chain_root = authority("sg root with intermediates", None, 365);
        let chain = authority("sg intermediate", Some(&chain_root), 365);
        let world = Self {
            dir: Dir::new(),
            cn: ca("cn-east"),
            sg: ca("sg"),
            sg_new: ca("sg"),
            sg_expired: authority("sg expired root", None, -1),
            stranger: ca("sg"),
            chain,
            chain_root,
        };
        let own = dev_ca::Request {
            trust_domain: TrustDomain::default(),
            unit: name("a"),
            relay: name("a-1"),
            now,
            validity: std::time::Duration::from_secs(3600),
        };
        let pair = world.cn.relay(&own).unwrap();
        world.dir.write("a-1.pem", &pair.certificate);
        world.dir.write("a-1.key", &pair.key);
        world.dir.write("cn-east-ca.pem", world.cn.certificate());
        let bundle = [
            world.sg.certificate(),
            world.sg_new.certificate(),
            &world.sg_expired.pem,
            &world.chain_root.pem,
        ];
        world.dir.write("sg-ca.pem", &bundle.concat());
        world
    }

    /// Settings of the good relay, without revocation lists.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings {
            certificate: Some("a-1.pem".into()),
            key: Some("a-1.key".into()),
            ..Settings::default()
        };
        settings.trust.insert(name("cn-east"), "cn-east-ca.pem".into());
        settings.trust.insert(name("sg"), "sg-ca.pem".into());
        settings.resolve_paths(&self.dir.0);
        settings
    }

    /// Settings with one revocation list for sg, made by `issuer`, due for renewal in `days`.
    pub fn settings_with_crl(&self, issuer: &Ca, days: i64, expired: CrlExpired) -> Settings {
        let now = OffsetDateTime::now_utc();
        let crl = CertificateRevocationListParams {
            this_update: now - Duration::days(30),
            next_update: now + Duration::days(days),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from_slice(&[SERIAL_REVOKED]),
                revocation_time: now - Duration::days(1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = crl.signed_by(issuer.issuer()).unwrap().pem().unwrap();
        let path = self.dir.write(&format!("sg-{days}.crl"), &pem);
        let mut settings = self.settings();
        settings.crls.insert(name("sg"), vec![path]);
        settings.crl_expired = expired;
        settings
    }
}

impl Authority {
    fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

fn authority(common_name: &str, parent: Option<&Authority>, days: i64) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(100);
    params.not_after = now + Duration::days(days);
    let key = KeyPair::generate().unwrap();
    let certificate = match parent {
        Some(parent) => params.signed_by(&key, &parent.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Authority {
        pem: certificate.pem(),
        der: certificate.der().clone(),
        issuer: Issuer::new(params, key),
    }
}

/// The identity of relay b-1, which the good relay knows and dials.
pub const B1: &str = "spiffe://strait.local/geo/sg/unit/b/relay/b-1";

/// A proper leaf with this identity; the cases bend it.
pub fn leaf(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::hours(1);
    params
}

pub fn signed(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> CertifiedKey {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    certified(vec![certificate.der().clone()], &key)
}

pub fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> CertifiedKey {
    let der = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    CertifiedKey::new(chain, tls::provider().key_provider.load_private_key(der).unwrap())
}

/// `params` after `bend`, signed by `issuer`.
fn bent(issuer: &Issuer<'_, KeyPair>, bend: impl FnOnce(&mut CertificateParams)) -> CertifiedKey {
    let mut params = leaf(B1);
    bend(&mut params);
    signed(&params, issuer)
}

fn case(name: &'static str, certificate: CertifiedKey, reason: &'static str) -> Case {
    Case {
        name,
        certificate,
        accepted: reason,
        dialled: reason,
    }
}

/// A subject alternative name extension with these raw entries: tag and content.
fn raw_san(entries: &[(u8, &[u8])]) -> CustomExtension {
    let mut content = Vec::new();
    for (tag, bytes) in entries {
        content.push(*tag);
        content.push(u8::try_from(bytes.len()).unwrap());
        content.extend_from_slice(bytes);
    }
    assert!(content.len() < 128, "one length byte");
    let mut sequence = vec![0x30, u8::try_from(content.len()).unwrap()];
    sequence.append(&mut content);
    CustomExtension::from_oid_content(&[2, 5, 29, 17], sequence)
}

/// All credentials, for the trust of [`World::settings`].
pub fn cases(world: &World) -> Vec<Case> {
    let mut cases = controls(world);
    cases.append(&mut issuers(world));
    cases.append(&mut names(world));
    cases.append(&mut uris(world));
    cases.append(&mut usages(world));
    cases.append(&mut broken(world));
    cases
}

fn controls(world: &World) -> Vec<Case> {
    let key = KeyPair::generate().unwrap();
    let below = leaf(B1).signed_by(&key, world.chain.issuer()).unwrap();
    let whole = vec![below.der().clone(), world.chain.der.clone()];
    vec![
        case("control: relay named", signed(&leaf(B1), world.sg.issuer()), "ok"),
        case(
            "control: unit only",
            signed(&leaf("spiffe://strait.local/geo/sg/unit/b"), world.sg.issuer()),
            "ok",
        ),
        case(
            "control: new root beside old",
            signed(&leaf(B1), world.sg_new.issuer()),
            "ok",
        ),
        case("control: intermediate sent", certified(whole, &key), "ok"),
        case(
            "control: DNS name beside the URI",
            bent(world.sg.issuer(), |params| {
                params
                    .subject_alt_names
                    .push(SanType::DnsName("b-1.example".try_into().unwrap()));
            }),
            "ok",
        ),
    ]
}

fn issuers(world: &World) -> Vec<Case> {
    let key = KeyPair::generate().unwrap();
    let below = leaf(B1).signed_by(&key, world.chain.issuer()).unwrap();
    let self_key = KeyPair::generate().unwrap();
    let self_signed = leaf(B1).self_signed(&self_key).unwrap();
    vec![
        case(
            "unknown CA with a known name",
            signed(&leaf(B1), world.stranger.issuer()),
            "unknown_issuer",
        ),
        case(
            "CA of cn-east for a unit of sg",
            signed(&leaf(B1), world.cn.issuer()),
            "unknown_issuer",
        ),
        case(
            "CA of sg for a unit of cn-east",
            signed(&leaf("spiffe://strait.local/geo/cn-east/unit/d"), world.sg.issuer()),
            "unknown_issuer",
        ),
        case(
            "self-signed",
            certified(vec![self_signed.der().clone()], &self_key),
            "unknown_issuer",
        ),
        case(
            "expired root",
            signed(&leaf(B1), world.sg_expired.issuer()),
            "unknown_issuer",
        ),
        case(
            "intermediate missing",
            certified(vec![below.der().clone()], &key),
            "unknown_issuer",
        ),
        case(
            "signed by a leaf",
            {
                let middle_key = KeyPair::generate().unwrap();
                let params = leaf(B1);
                let middle = params.signed_by(&middle_key, world.sg.issuer()).unwrap();
                let key = KeyPair::generate().unwrap();
                let end = leaf(B1).signed_by(&key, &Issuer::new(params, middle_key)).unwrap();
                certified(vec![end.der().clone(), middle.der().clone()], &key)
            },
            "bad_chain",
        ),
    ]
}

fn names(world: &World) -> Vec<Case> {
    let of = |uri: &str| signed(&leaf(uri), world.sg.issuer());
    vec![
        case(
            "unknown unit",
            of("spiffe://strait.local/geo/sg/unit/zz"),
            "unknown_unit",
        ),
        case("unknown Geo", of("spiffe://strait.local/geo/eu/unit/b"), "unknown_geo"),
        case(
            "unit of sg with a certificate of cn-east",
            signed(&leaf("spiffe://strait.local/geo/cn-east/unit/b"), world.cn.issuer()),
            "wrong_geo",
        ),
        case(
            "other trust domain",
            of("spiffe://other.local/geo/sg/unit/b/relay/b-1"),
            "wrong_trust_domain",
        ),
        Case {
            accepted: "ok",
            ..case(
                "c answers for b",
                of("spiffe://strait.local/geo/sg/unit/c"),
                "wrong_unit",
            )
        },
        Case {
            accepted: "ok",
            ..case(
                "b-2 answers for b-1",
                of("spiffe://strait.local/geo/sg/unit/b/relay/b-2"),
                "wrong_relay",
            )
        },
    ]
}

fn uris(world: &World) -> Vec<Case> {
    let of = |uri: &str| signed(&leaf(uri), world.sg.issuer());
    let sg = world.sg.issuer();
    let long = format!("spiffe://strait.local/geo/sg/unit/{}", "b".repeat(2100));
    vec![
        case(
            "upper-case scheme",
            of("SPIFFE://strait.local/geo/sg/unit/b"),
            "uri_scheme",
        ),
        case("https scheme", of("https://strait.local/geo/sg/unit/b"), "uri_scheme"),
        case(
            "percent-encoding",
            of("spiffe://strait.local/geo/sg/unit/%62"),
            "uri_character",
        ),
        case("port", of("spiffe://strait.local:443/geo/sg/unit/b"), "uri_character"),
        case("NUL", of("spiffe://strait.local/geo/sg/unit/b\0"), "uri_character"),
        case(
            "trailing slash",
            of("spiffe://strait.local/geo/sg/unit/b/"),
            "uri_trailing_slash",
        ),
        case(
            "empty unit",
            of("spiffe://strait.local/geo/sg/unit//relay/b-1"),
            "uri_empty_segment",
        ),
        case(
            "upper-case trust domain",
            of("spiffe://STRAIT.local/geo/sg/unit/b"),
            "uri_trust_domain",
        ),
        case("no unit", of("spiffe://strait.local/geo/sg"), "uri_path"),
        case(
            "upper-case segment",
            of("spiffe://strait.local/geo/sg/Unit/b"),
            "uri_path",
        ),
        case(
            "unit of 256 characters",
            of(&format!("spiffe://strait.local/geo/sg/unit/{}", "b".repeat(256))),
            "uri_name",
        ),
        case("too long", of(&long), "uri_too_long"),
        case(
            "other alphabet",
            bent(sg, |params| {
                params.subject_alt_names.clear();
                let uri = "spiffe://strait.local/geo/sg/unit/\u{0432}";
                params.custom_extensions = vec![raw_san(&[(0x86, uri.as_bytes())])];
            }),
            "uri_character",
        ),
    ]
}

fn usages(world: &World) -> Vec<Case> {
    let sg = world.sg.issuer();
    let usage = |usages: Vec<ExtendedKeyUsagePurpose>| bent(sg, |params| params.extended_key_usages = usages);
    let now = OffsetDateTime::now_utc();
    vec![
        case(
            "expired",
            bent(sg, |params| params.not_after = now - Duration::minutes(1)),
            "expired",
        ),
        case(
            "not yet valid",
            bent(sg, |params| {
                params.not_before = now + Duration::hours(1);
                params.not_after = now + Duration::hours(2);
            }),
            "not_yet_valid",
        ),
        case(
            "code signing only",
            usage(vec![ExtendedKeyUsagePurpose::CodeSigning]),
            "wrong_eku",
        ),
        case("any usage", usage(vec![ExtendedKeyUsagePurpose::Any]), "wrong_eku"),
        case("no extended key usage", usage(vec![]), "no_eku"),
        Case {
            dialled: "ok",
            ..case(
                "server usage only",
                usage(vec![ExtendedKeyUsagePurpose::ServerAuth]),
                "wrong_eku",
            )
        },
        Case {
            accepted: "ok",
            ..case(
                "client usage only",
                usage(vec![ExtendedKeyUsagePurpose::ClientAuth]),
                "wrong_eku",
            )
        },
        case(
            "CA:TRUE leaf",
            bent(sg, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "ca_leaf",
        ),
        case(
            "may sign certificates",
            bent(sg, |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "ca_key_usage",
        ),
        case(
            "may not sign handshakes",
            bent(sg, |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            "no_digital_signature",
        ),
    ]
}

fn broken(world: &World) -> Vec<Case> {
    let sg = world.sg.issuer();
    let good = leaf(B1).signed_by(&KeyPair::generate().unwrap(), sg).unwrap();
    let other_key = KeyPair::generate().unwrap();
    let mut longer = good.der().to_vec();
    longer.push(0);
    let san = |entries: &[(u8, &[u8])]| {
        let extension = raw_san(entries);
        bent(sg, |params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![extension];
        })
    };
    vec![
        case(
            "common name only",
            bent(sg, |params| {
                params.subject_alt_names.clear();
                params.distinguished_name.push(DnType::CommonName, B1);
            }),
            "no_uri_san",
        ),
        case(
            "DNS name only",
            bent(sg, |params| {
                params.subject_alt_names = vec![SanType::DnsName("b-1.sg.strait.local".try_into().unwrap())];
            }),
            "no_uri_san",
        ),
        case(
            "identity as a DNS name",
            san(&[(0x82, b"spiffe://strait.local/geo/sg/unit/b")]),
            "no_uri_san",
        ),
        case(
            "two identities",
            bent(sg, |params| {
                let second = "spiffe://strait.local/geo/sg/unit/c";
                params.subject_alt_names.push(SanType::URI(second.try_into().unwrap()));
            }),
            "two_uri_sans",
        ),
        case(
            "the same identity twice",
            bent(sg, |params| {
                params.subject_alt_names.push(SanType::URI(B1.try_into().unwrap()));
            }),
            "two_uri_sans",
        ),
        case(
            "a second identity that cannot be read",
            san(&[(0x86, B1.as_bytes()), (0x86, b"spiffe://\xff\xfe/")]),
            "bad_san",
        ),
        case(
            "two alternative name extensions",
            bent(sg, |params| {
                params.custom_extensions = vec![raw_san(&[(0x86, b"spiffe://strait.local/geo/sg/unit/c")])];
            }),
            "bad_san",
        ),
        case(
            "unknown critical extension",
            bent(sg, |params| {
                let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                extension.set_criticality(true);
                params.custom_extensions = vec![extension];
            }),
            "bad_chain",
        ),
        case(
            "not a certificate",
            certified(vec![CertificateDer::from(vec![0x30, 0x03, 1, 1, 1])], &other_key),
            "bad_der",
        ),
        case(
            "bytes behind the certificate",
            certified(vec![CertificateDer::from(longer)], &other_key),
            "bad_der",
        ),
        case(
            "somebody else's certificate",
            certified(vec![good.der().clone()], &other_key),
            "bad_handshake",
        ),
    ]
}
