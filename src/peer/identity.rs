//! Who a certificate says it is: one SPIFFE name, taken from the leaf and from nothing else.
//!
//! The name is `spiffe://<trust-domain>/geo/<geo>/unit/<unit>[/relay/<name>]`, byte for byte: no other case, no
//! percent-encoding, no trailing slash. A reader that is lenient here would give two certificates the same name.
//!
//! # Invariants
//! - D1. A leaf has exactly one URI among its subject alternative names, counted over all entries, also the
//!   malformed ones: an entry that cannot be read refuses the certificate instead of being skipped.
//! - D2. A leaf is not a CA and may not sign certificates or revocation lists.
//! - D3. Pure: no clock, no file, no trust decision. A parsed identity is a claim until `verify` has checked the chain.
//!
//! # Not here
//! Whether the claim is to be believed (`verify`), and reading files (`credentials`).

use std::fmt;
use std::sync::Arc;

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::{Geo, Name, NameError, RelayName, UnitId};

/// Longest accepted identity in bytes, as SPIFFE allows.
pub const URI_BYTES_MAX: usize = 2048;

const SCHEME: &str = "spiffe://";
const OID_BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];

/// Name of a trust domain: the part of the system that one operator vouches for. `[a-z0-9._-]{1,255}`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

/// Identity of a relay, as its certificate claims it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerIdentity {
    /// Trust domain of the name.
    pub trust_domain: TrustDomain,
    /// Geo of the unit; decides which trust bundle the chain is checked with.
    pub geo: Geo,
    /// The unit the relay belongs to.
    pub unit: UnitId,
    /// The relay, where the certificate names one. Without it the certificate is good for every relay of the unit.
    pub relay: Option<RelayName>,
}

/// What is read from a leaf certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// Who the certificate says it is.
    pub identity: PeerIdentity,
    /// First second of its validity, in seconds since 1970.
    pub not_before: i64,
    /// Last second of its validity, in seconds since 1970.
    pub not_after: i64,
    /// What the extended key usage allows; `None` without that extension.
    pub usage: Option<Usage>,
}

/// Extended key usage of a leaf, as far as it matters for links.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// The certificate may answer connections.
    pub server: bool,
    /// The certificate may open connections.
    pub client: bool,
}

/// Why a certificate has no usable identity. Each variant has its own label, see [`IdentityError::reason`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not one DER-encoded X.509 certificate, or more bytes behind it.
    #[error("the certificate is not well-formed DER: {0}")]
    BadDer(String),
    /// An extension that is read here appears twice or cannot be read.
    #[error("the certificate's {0} extension appears twice or cannot be read")]
    BadExtension(&'static str),
    /// A subject alternative name that cannot be read.
    #[error("the certificate has a subject alternative name that cannot be read")]
    BadSan,
    /// The leaf is a CA.
    #[error("the certificate is a CA (CA:TRUE); a relay needs a leaf certificate")]
    CaLeaf,
    /// The leaf may sign certificates or revocation lists.
    #[error("the certificate's key usage allows to sign certificates or CRLs; a relay's must not")]
    CaKeyUsage,
    /// The key usage does not allow to sign a handshake.
    #[error("the certificate's key usage does not allow digital signatures, which a relay needs")]
    NoDigitalSignature,
    /// No URI among the subject alternative names; DNS names and the common name do not count.
    #[error(
        "the certificate has no URI subject alternative name; it needs spiffe://<trust-domain>/geo/<geo>/unit/<unit>"
    )]
    NoUriSan,
    /// More than one URI among the subject alternative names.
    #[error("the certificate has {0} URI subject alternative names; it needs exactly one")]
    TwoUriSans(usize),
    /// A byte that has no place in an identity: control characters, `%`, non-ASCII and the like.
    #[error("the identity holds the character {0:?}, which is not allowed in it")]
    UriCharacter(char),
    /// An empty path segment, such as `//` or an empty unit.
    #[error("the identity {0:?} has an empty path segment")]
    UriEmptySegment(String),
    /// A name that breaks the rule for names.
    #[error("the identity {uri:?} has a bad name in it: {error}")]
    UriName {
        /// The identity as it stands in the certificate.
        uri: String,
        /// Which part of the rule is broken.
        error: NameError,
    },
    /// The path is not `/geo/<geo>/unit/<unit>[/relay/<name>]`.
    #[error("the identity {0:?} is not spiffe://<trust-domain>/geo/<geo>/unit/<unit>[/relay/<name>]")]
    UriPath(String),
    /// The scheme is not `spiffe://` in lower case.
    #[error("the identity {0:?} does not begin with spiffe:// in lower case")]
    UriScheme(String),
    /// More than [`URI_BYTES_MAX`] bytes.
    #[error("the identity has {0} bytes; {URI_BYTES_MAX} are allowed")]
    UriTooLong(usize),
    /// The identity ends with `/`.
    #[error("the identity {0:?} ends with a slash")]
    UriTrailingSlash(String),
    /// The trust domain is empty, has an upper-case letter, a port or a user in it.
    #[error("the identity {0:?} has no proper trust domain ([a-z0-9._-], at most 255)")]
    UriTrustDomain(String),
}

impl IdentityError {
    /// Label of this refusal in logs and metrics; one per variant.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::BadDer(_) => "bad_der",
            Self::BadExtension(_) => "bad_extension",
            Self::BadSan => "bad_san",
            Self::CaLeaf => "ca_leaf",
            Self::CaKeyUsage => "ca_key_usage",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::NoUriSan => "no_uri_san",
            Self::TwoUriSans(_) => "two_uri_sans",
            Self::UriCharacter(_) => "uri_character",
            Self::UriEmptySegment(_) => "uri_empty_segment",
            Self::UriName { .. } => "uri_name",
            Self::UriPath(_) => "uri_path",
            Self::UriScheme(_) => "uri_scheme",
            Self::UriTooLong(_) => "uri_too_long",
            Self::UriTrailingSlash(_) => "uri_trailing_slash",
            Self::UriTrustDomain(_) => "uri_trust_domain",
        }
    }
}

impl Leaf {
    /// Reads a DER-encoded leaf certificate (D1, D2). The chain is not checked.
    ///
    /// # Errors
    /// [`IdentityError`] names the rule the certificate breaks.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, leaf) = X509Certificate::from_der(der).map_err(|error| IdentityError::BadDer(error.to_string()))?;
        if !rest.is_empty() {
            return Err(IdentityError::BadDer(format!(
                "{} bytes behind the certificate",
                rest.len()
            )));
        }
        refuse_ca(&leaf)?;
        let usage = leaf
            .extended_key_usage()
            .map_err(|_| IdentityError::BadExtension("extended key usage"))?;
        Ok(Self {
            identity: PeerIdentity::from_uri(only_uri(&leaf)?)?,
            not_before: leaf.validity().not_before.timestamp(),
            not_after: leaf.validity().not_after.timestamp(),
            usage: usage.map(|usage| Usage {
                server: usage.value.server_auth,
                client: usage.value.client_auth,
            }),
        })
    }
}

impl PeerIdentity {
    /// Reads an identity as it stands in a certificate.
    ///
    /// # Errors
    /// [`IdentityError`] names the rule the text breaks.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        if uri.len() > URI_BYTES_MAX {
            return Err(IdentityError::UriTooLong(uri.len()));
        }
        let rest = uri
            .strip_prefix(SCHEME)
            .ok_or_else(|| IdentityError::UriScheme(uri.to_owned()))?;
        if let Some(character) = rest.chars().find(|c| !is_allowed(*c)) {
            return Err(IdentityError::UriCharacter(character));
        }
        if rest.ends_with('/') {
            return Err(IdentityError::UriTrailingSlash(uri.to_owned()));
        }
        let mut segments = rest.split('/');
        let trust_domain = segments
            .next()
            .and_then(TrustDomain::new)
            .ok_or_else(|| IdentityError::UriTrustDomain(uri.to_owned()))?;
        let segments: Vec<&str> = segments.collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            return Err(IdentityError::UriEmptySegment(uri.to_owned()));
        }
        let (geo, unit, relay) = match segments.as_slice() {
            ["geo", geo, "unit", unit] => (geo, unit, None),
            ["geo", geo, "unit", unit, "relay", relay] => (geo, unit, Some(relay)),
            _ => return Err(IdentityError::UriPath(uri.to_owned())),
        };
        Ok(Self {
            trust_domain,
            geo: segment_name(uri, geo)?,
            unit: segment_name(uri, unit)?,
            relay: relay.map(|relay| segment_name(uri, relay)).transpose()?,
        })
    }
}

/// The identity as it stands in a certificate.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/geo/{}/unit/{}", self.trust_domain, self.geo, self.unit)?;
        match &self.relay {
            Some(relay) => write!(f, "/relay/{relay}"),
            None => Ok(()),
        }
    }
}

impl TrustDomain {
    /// A trust domain, if the text is one: `[a-z0-9._-]{1,255}`.
    pub fn new(text: &str) -> Option<Self> {
        if text.chars().any(|c| c.is_ascii_uppercase()) {
            return None;
        }
        Name::new(text).ok().map(|_| Self(text.into()))
    }

    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `strait.local`, the trust domain of settings that name none.
impl Default for TrustDomain {
    fn default() -> Self {
        Self("strait.local".into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl serde::Serialize for TrustDomain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TrustDomain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("a trust domain is [a-z0-9._-]{{1,255}}, not {text:?}")))
    }
}

/// Refuses a leaf that could vouch for others (D2), or could not speak for itself.
fn refuse_ca(leaf: &X509Certificate<'_>) -> Result<(), IdentityError> {
    let oid = x509_parser::asn1_rs::Oid::from(OID_BASIC_CONSTRAINTS)
        .map_err(|_| IdentityError::BadExtension("basic constraints"))?;
    let constraints = leaf
        .get_extension_unique(&oid)
        .map_err(|_| IdentityError::BadExtension("basic constraints"))?;
    match constraints.map(x509_parser::extensions::X509Extension::parsed_extension) {
        None => {}
        Some(ParsedExtension::BasicConstraints(constraints)) if !constraints.ca => {}
        Some(ParsedExtension::BasicConstraints(_)) => return Err(IdentityError::CaLeaf),
        Some(_) => return Err(IdentityError::BadExtension("basic constraints")),
    }
    let usage = leaf.key_usage().map_err(|_| IdentityError::BadExtension("key usage"))?;
    match usage.map(|usage| usage.value) {
        Some(usage) if usage.key_cert_sign() || usage.crl_sign() => Err(IdentityError::CaKeyUsage),
        Some(usage) if !usage.digital_signature() => Err(IdentityError::NoDigitalSignature),
        _ => Ok(()),
    }
}

/// The one URI among the subject alternative names (D1).
fn only_uri<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a str, IdentityError> {
    let names = leaf.subject_alternative_name().map_err(|_| IdentityError::BadSan)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(IdentityError::BadSan);
    }
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(IdentityError::NoUriSan)?;
    match uris.count() {
        0 => Ok(uri),
        others => Err(IdentityError::TwoUriSans(others + 1)),
    }
}

/// A path segment as a name. `.` and `..` pass the name rule but mean something else in a path.
fn segment_name(uri: &str, segment: &str) -> Result<Name, IdentityError> {
    if matches!(segment, "." | "..") {
        return Err(IdentityError::UriPath(uri.to_owned()));
    }
    Name::new(segment).map_err(|error| IdentityError::UriName {
        uri: uri.to_owned(),
        error,
    })
}

const fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-' | '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(uri: &str) -> &'static str {
        PeerIdentity::from_uri(uri).map_or_else(|error| error.reason(), |_| "ok")
    }

    // O-S1: a name is one sequence of bytes; what merely looks like it is refused, each for its own reason.
    #[test]
    fn only_the_exact_form_of_an_identity_is_read() {
        let long = "x".repeat(255);
        let cases = [
            ("spiffe://strait.local/geo/sg/unit/b".to_owned(), "ok"),
            ("spiffe://strait.local/geo/sg/unit/b/relay/b-1".to_owned(), "ok"),
            ("spiffe://strait.local/geo/SG/unit/B_7.x".to_owned(), "ok"),
            (format!("spiffe://{long}/geo/{long}/unit/{long}/relay/{long}"), "ok"),
            (String::new(), "uri_scheme"),
            ("strait.local/geo/sg/unit/b".to_owned(), "uri_scheme"),
            ("SPIFFE://strait.local/geo/sg/unit/b".to_owned(), "uri_scheme"),
            ("Spiffe://strait.local/geo/sg/unit/b".to_owned(), "uri_scheme"),
            (" spiffe://strait.local/geo/sg/unit/b".to_owned(), "uri_scheme"),
            ("https://strait.local/geo/sg/unit/b".to_owned(), "uri_scheme"),
            ("spiffe:/strait.local/geo/sg/unit/b".to_owned(), "uri_scheme"),
            ("spiffe://strait.local/geo/sg/unit/%62".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg%2Funit/b".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/b\0".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/b\0c".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/b c".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/b\n".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/b?x=1".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/b#x".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/\u{0432}".to_owned(), "uri_character"),
            ("spiffe://strait.local:8443/geo/sg/unit/b".to_owned(), "uri_character"),
            ("spiffe://user@strait.local/geo/sg/unit/b".to_owned(), "uri_character"),
            ("spiffe://strait.local/geo/sg/unit/b/".to_owned(), "uri_trailing_slash"),
            ("spiffe://strait.local/geo/sg/unit/".to_owned(), "uri_trailing_slash"),
            ("spiffe://strait.local/".to_owned(), "uri_trailing_slash"),
            ("spiffe:///geo/sg/unit/b".to_owned(), "uri_trust_domain"),
            ("spiffe://Strait.local/geo/sg/unit/b".to_owned(), "uri_trust_domain"),
            (format!("spiffe://{long}x/geo/sg/unit/b"), "uri_trust_domain"),
            ("spiffe://strait.local/geo//unit/b".to_owned(), "uri_empty_segment"),
            ("spiffe://strait.local//geo/sg/unit/b".to_owned(), "uri_empty_segment"),
            (
                "spiffe://strait.local/geo/sg/unit//relay/r".to_owned(),
                "uri_empty_segment",
            ),
            ("spiffe://strait.local".to_owned(), "uri_path"),
            ("spiffe://strait.local/geo/sg".to_owned(), "uri_path"),
            ("spiffe://strait.local/Geo/sg/unit/b".to_owned(), "uri_path"),
            ("spiffe://strait.local/unit/b/geo/sg".to_owned(), "uri_path"),
            ("spiffe://strait.local/geo/sg/unit/b/relay".to_owned(), "uri_path"),
            ("spiffe://strait.local/geo/sg/unit/b/relay/r/x".to_owned(), "uri_path"),
            ("spiffe://strait.local/geo/sg/unit/b/zone/z".to_owned(), "uri_path"),
            ("spiffe://strait.local/geo/sg/unit/..".to_owned(), "uri_path"),
            ("spiffe://strait.local/geo/./unit/b".to_owned(), "uri_path"),
            (format!("spiffe://strait.local/geo/sg/unit/{long}x"), "uri_name"),
            (
                format!("spiffe://strait.local/geo/sg/unit/{}", "x".repeat(2048)),
                "uri_too_long",
            ),
        ];
        for (uri, expected) in cases {
            assert_eq!(reason(&uri), expected, "{uri:?}");
        }
    }

    // D3: what was read is written back the same, so logs and certificates can be compared by eye.
    #[test]
    fn an_identity_is_written_as_it_was_read() {
        for uri in [
            "spiffe://strait.local/geo/sg/unit/b",
            "spiffe://strait.local/geo/sg/unit/b/relay/b-1",
        ] {
            assert_eq!(PeerIdentity::from_uri(uri).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for der in [&b""[..], b"x", &[0x30, 0x82, 0xff, 0xff], &[0x30; 64]] {
            assert_eq!(
                Leaf::from_der(der).map_err(|error| error.reason()),
                Err("bad_der"),
                "{der:?}"
            );
        }
    }

    proptest::proptest! {
        // D3: hostile bytes may be refused, but never end the process.
        #[test]
        fn any_bytes_are_read_without_panic(der: Vec<u8>, uri: String) {
            let _ = Leaf::from_der(&der);
            let _ = PeerIdentity::from_uri(&uri);
            let _ = PeerIdentity::from_uri(&format!("spiffe://a/geo/{uri}/unit/b"));
        }
    }
}
