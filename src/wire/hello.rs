//! The handshake: what each side says first, on links between relays and on framed sockets alike.
//!
//! Each side sends one [`Hello`] without waiting for the other, then [`negotiate`] tells both the same:
//! which version they speak, which features they share and which limits bind them, or why they cannot
//! talk. `proto/strait/v1/peer.proto` and `frame.proto` are the same messages as documents.
//!
//! # Invariants
//! - H1. Both sides come to the same result from the same two messages.
//! - H2. Fields this version does not know are skipped; features it does not know are refused only if
//!   the other side requires them.
//!
//! # Not here
//! Who the other side is: a certificate or the kernel says so, never this message.

use prost::Message;

use crate::model::{Geo, Name, NameError, RelayName, UnitId};

/// Version of the protocol this crate speaks.
pub const VERSION: u32 = 1;
/// Longest control message that is read.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Frame limit of a side that does not name one.
pub const FRAME_BYTES_DEFAULT: usize = 1024 * 1024;
/// No side may offer or use a larger frame limit.
pub const FRAME_BYTES_HARD_MAX: usize = 16 * 1024 * 1024;
/// No side may offer a smaller one: it could not take the metadata of a call.
pub const FRAME_BYTES_MIN: usize = 256 * 1024;
/// Un-credited body bytes per call of a side that does not name a limit.
pub const CALL_BYTES_DEFAULT: usize = 256 * 1024;
/// Smallest limit on un-credited body bytes per call: one chunk must fit.
pub const CALL_BYTES_MIN: usize = 64 * 1024;

/// Among the features of a hello on a local socket: the service takes ROUTE frames.
pub const ROUTES: &str = "routes";

/// What a connection or stream is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub enum Purpose {
    /// Not said: refused.
    Unspecified = 0,
    /// A link between relays: its lanes carry frames.
    Lanes = 1,
    /// A stream between relays that carries one large body.
    Bodies = 2,
    /// A local service on a framed socket, as caller, as callee or as both.
    Service = 3,
}

/// First message of each side.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Hello {
    /// Oldest version the sender speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Newest version the sender speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// Optional abilities of the sender.
    #[prost(string, repeated, tag = "3")]
    pub features: Vec<String>,
    /// Abilities without which the sender will not talk.
    #[prost(string, repeated, tag = "4")]
    pub features_required: Vec<String>,
    /// Geo of a relay; empty from a service.
    #[prost(string, tag = "5")]
    pub geo: String,
    /// Unit of a relay; empty from a service.
    #[prost(string, tag = "6")]
    pub unit: String,
    /// Name of a relay in its unit; empty from a service.
    #[prost(string, tag = "7")]
    pub relay: String,
    /// What the connection is for.
    #[prost(enumeration = "Purpose", tag = "8")]
    pub purpose: i32,
    /// Number of the link, the same on all its connections; 16 random bytes, empty from a service.
    #[prost(bytes = "vec", tag = "9")]
    pub link_id: Vec<u8>,
    /// Calls the sender accepts at a time; 0 = none.
    #[prost(uint32, tag = "10")]
    pub calls_max: u32,
    /// Un-credited body bytes per call the sender accepts; 0 = 256 KiB, at least 64 KiB.
    #[prost(uint64, tag = "11")]
    pub bytes_max: u64,
    /// Longest frame the sender accepts, header included; 0 = 1 MiB, 256 KiB to 16 MiB.
    #[prost(uint32, tag = "12")]
    pub frame_bytes_max: u32,
    /// Program and version, for logs.
    #[prost(string, tag = "13")]
    pub software: String,
}

/// A local service says what it serves.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Register {
    /// Full names, such as `im.Echo`.
    #[prost(string, repeated, tag = "1")]
    pub services: Vec<String>,
    /// Name of this instance, for logs and metrics; may be empty.
    #[prost(string, tag = "2")]
    pub instance: String,
    /// Calls the instance wants to have at a time; 0 = what its hello allows.
    #[prost(uint32, tag = "3")]
    pub max_in_flight: u32,
    /// Messages it wants to take.
    #[prost(message, repeated, tag = "4")]
    pub subscriptions: Vec<Subscription>,
}

/// Wants the messages of a group.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Subscription {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The group.
    #[prost(string, tag = "2")]
    pub group: String,
    /// Messages at a time; 0 = 64.
    #[prost(uint32, tag = "3")]
    pub in_flight_max: u32,
}

/// Answer to [`Register`].
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Registered {
    /// Services that now receive calls on this connection.
    #[prost(string, repeated, tag = "1")]
    pub accepted: Vec<String>,
    /// Services that do not, each with a reason.
    #[prost(message, repeated, tag = "2")]
    pub refused: Vec<RefusedService>,
    /// Subscriptions that are in force.
    #[prost(message, repeated, tag = "3")]
    pub subscribed: Vec<Subscription>,
    /// Subscriptions that are not, each with a reason.
    #[prost(message, repeated, tag = "4")]
    pub refused_subscriptions: Vec<RefusedSubscription>,
}

/// A subscription that is not in force.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct RefusedSubscription {
    /// As the request named it.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// As the request named it.
    #[prost(string, tag = "2")]
    pub group: String,
    /// Why, for a person.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// A service that was not registered.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct RefusedService {
    /// As the request named it.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Why, for a person.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Why two sides cannot talk. The text is sent to the other side.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The versions have no overlap.
    #[error(
        "this side speaks versions {}-{}, the other {}-{}; upgrade the older one", ours.0, ours.1, theirs.0, theirs.1
    )]
    Version {
        /// Oldest and newest of this side.
        ours: (u32, u32),
        /// Oldest and newest of the other.
        theirs: (u32, u32),
    },
    /// The other side requires what this one does not know.
    #[error("the other side requires feature {0:?}, which this version does not know; upgrade this side")]
    FeatureUnknown(String),
    /// This side requires what the other does not offer.
    #[error("this side requires feature {0:?}, which the other does not offer; upgrade the other side")]
    FeatureMissing(String),
    /// The two sides want to use the connection differently.
    #[error("the other side wants to use the connection as {theirs}, this one as {ours}")]
    Purpose {
        /// Purpose of this side.
        ours: i32,
        /// Purpose of the other.
        theirs: i32,
    },
    /// A limit outside of what the protocol allows.
    #[error("{name} is {value}, it must be 0 or between {min} and {max}")]
    Limit {
        /// Name of the field.
        name: &'static str,
        /// What it says.
        value: u64,
        /// Smallest value.
        min: usize,
        /// Largest value.
        max: usize,
    },
    /// A name that breaks the name rule.
    #[error("{field} is not a valid name: {source}")]
    Name {
        /// Name of the field.
        field: &'static str,
        /// What is wrong.
        source: NameError,
    },
    /// The bytes are not the message.
    #[error("the message cannot be decoded")]
    Malformed,
    /// The message is longer than any legal one.
    #[error("the message has {0} bytes, more than {CONTROL_BYTES_MAX}")]
    TooLong(usize),
}

/// What both sides have agreed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agreed {
    /// The newest version both speak.
    pub version: u32,
    /// Features both know, sorted.
    pub features: Vec<String>,
    /// Calls this side may have open at the other.
    pub calls_max: usize,
    /// Body bytes per call this side may send without credit.
    pub bytes_max: usize,
    /// Longest frame this side may send.
    pub frame_bytes_max: usize,
}

impl Agreed {
    /// Whether both sides know a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

impl Hello {
    /// A hello with the version of this crate, no optional feature and default limits.
    pub fn new(purpose: Purpose, calls_max: u32) -> Self {
        Self {
            version_min: VERSION,
            version_max: VERSION,
            purpose: purpose.into(),
            calls_max,
            software: concat!("strait/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Self::default()
        }
    }

    /// Says which relay sends it.
    #[must_use]
    pub fn of_relay(mut self, geo: &Geo, unit: &UnitId, relay: &RelayName) -> Self {
        geo.as_str().clone_into(&mut self.geo);
        unit.as_str().clone_into(&mut self.unit);
        relay.as_str().clone_into(&mut self.relay);
        self
    }

    /// What the sender says about who it is; to be compared with its certificate, never believed.
    ///
    /// # Errors
    /// [`HelloError::Name`] if one of the names breaks the rule.
    pub fn identity(&self) -> Result<(Geo, UnitId, RelayName), HelloError> {
        let name = |field, text: &str| Name::new(text).map_err(|source| HelloError::Name { field, source });
        Ok((
            name("geo", &self.geo)?,
            name("unit", &self.unit)?,
            name("relay", &self.relay)?,
        ))
    }

    /// The longest frame the sender accepts.
    ///
    /// # Errors
    /// [`HelloError::Limit`].
    pub fn frame_limit(&self) -> Result<usize, HelloError> {
        limit(
            "frame_bytes_max",
            self.frame_bytes_max.into(),
            (FRAME_BYTES_DEFAULT, FRAME_BYTES_MIN, FRAME_BYTES_HARD_MAX),
        )
    }

    /// The un-credited body bytes per call the sender accepts.
    ///
    /// # Errors
    /// [`HelloError::Limit`].
    pub fn call_limit(&self) -> Result<usize, HelloError> {
        let max = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        limit("bytes_max", self.bytes_max, (CALL_BYTES_DEFAULT, CALL_BYTES_MIN, max))
    }
}

/// Reads a control message: [`Hello`], [`Register`] or [`Registered`].
///
/// # Errors
/// [`HelloError::TooLong`] before anything is decoded, [`HelloError::Malformed`] if it is something else.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, HelloError> {
    if body.len() > CONTROL_BYTES_MAX {
        return Err(HelloError::TooLong(body.len()));
    }
    M::decode(body).map_err(|_| HelloError::Malformed)
}

/// The bytes of a control message.
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

/// Decides what two sides may do with each other. Both come to the same version and features (H1).
///
/// # Errors
/// [`HelloError`] says, for a person, what keeps them apart and which side must change.
pub fn negotiate(ours: &Hello, theirs: &Hello) -> Result<Agreed, HelloError> {
    let version = ours.version_max.min(theirs.version_max);
    if version < ours.version_min.max(theirs.version_min) || version == 0 {
        return Err(HelloError::Version {
            ours: (ours.version_min, ours.version_max),
            theirs: (theirs.version_min, theirs.version_max),
        });
    }
    if let Some(unknown) = theirs.features_required.iter().find(|f| !ours.features.contains(f)) {
        return Err(HelloError::FeatureUnknown(shown(unknown)));
    }
    if let Some(missing) = ours.features_required.iter().find(|f| !theirs.features.contains(f)) {
        return Err(HelloError::FeatureMissing(missing.clone()));
    }
    if ours.purpose != theirs.purpose {
        return Err(HelloError::Purpose {
            ours: ours.purpose,
            theirs: theirs.purpose,
        });
    }
    let mut features: Vec<String> = ours
        .features
        .iter()
        .filter(|feature| theirs.features.contains(feature))
        .cloned()
        .collect();
    features.sort_unstable();
    features.dedup();
    Ok(Agreed {
        version,
        features,
        calls_max: usize::try_from(theirs.calls_max).unwrap_or(usize::MAX),
        bytes_max: theirs.call_limit()?,
        frame_bytes_max: theirs.frame_limit()?,
    })
}

/// Text of the other side, short enough for an error.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

fn limit(name: &'static str, value: u64, (default, min, max): (usize, usize, usize)) -> Result<usize, HelloError> {
    let error = HelloError::Limit { name, value, min, max };
    match usize::try_from(value) {
        Ok(0) => Ok(default),
        Ok(size) if (min..=max).contains(&size) => Ok(size),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(min: u32, max: u32) -> Hello {
        Hello {
            version_min: min,
            version_max: max,
            ..Hello::new(Purpose::Lanes, 8)
        }
    }

    fn version(ours: (u32, u32), theirs: (u32, u32)) -> Option<u32> {
        let agreed = negotiate(&hello(ours.0, ours.1), &hello(theirs.0, theirs.1));
        let mirrored = negotiate(&hello(theirs.0, theirs.1), &hello(ours.0, ours.1));
        assert_eq!(agreed.is_ok(), mirrored.is_ok(), "H1 {ours:?} {theirs:?}");
        agreed.ok().map(|agreed| agreed.version)
    }

    #[test]
    fn both_sides_agree_on_the_newest_version_they_share() {
        assert_eq!(version((1, 1), (1, 1)), Some(1));
        assert_eq!(version((1, 3), (2, 5)), Some(3));
        assert_eq!(version((2, 5), (1, 3)), Some(3));
        assert_eq!(version((1, 1), (2, 2)), None);
        assert_eq!(version((3, 4), (1, 2)), None);
        assert_eq!(version((0, 0), (0, 0)), None, "version 0 does not exist");
        assert_eq!(version((3, 1), (1, 3)), None, "a range upside down has no version");
    }

    #[test]
    fn a_required_feature_that_is_unknown_is_refused_with_its_name() {
        let mut theirs = hello(1, 1);
        theirs.features_required = vec!["compression-9".to_owned()];
        let error = negotiate(&hello(1, 1), &theirs).unwrap_err();
        assert_eq!(error, HelloError::FeatureUnknown("compression-9".to_owned()));
        assert!(error.to_string().contains("compression-9"), "{error}");
        let mirrored = negotiate(&theirs, &hello(1, 1)).unwrap_err();
        assert_eq!(mirrored, HelloError::FeatureMissing("compression-9".to_owned()));
    }

    #[test]
    fn optional_features_count_only_if_both_know_them() {
        let mut ours = hello(1, 1);
        let mut theirs = hello(1, 1);
        ours.features = ["b", "a", "x"].map(str::to_owned).into();
        theirs.features = ["a", "b", "y"].map(str::to_owned).into();
        let agreed = negotiate(&ours, &theirs).unwrap();
        assert_eq!(agreed.features, ["a", "b"]);
        assert!(agreed.has("a") && !agreed.has("y"));
    }

    #[test]
    fn limits_are_those_of_the_other_side_with_defaults_and_bounds() {
        let mut theirs = hello(1, 1);
        let agreed = negotiate(&hello(1, 1), &theirs).unwrap();
        assert_eq!(
            (agreed.calls_max, agreed.bytes_max, agreed.frame_bytes_max),
            (8, 256 << 10, 1 << 20)
        );
        theirs.frame_bytes_max = 1000;
        assert!(matches!(
            negotiate(&hello(1, 1), &theirs),
            Err(HelloError::Limit {
                name: "frame_bytes_max",
                ..
            })
        ));
        theirs.frame_bytes_max = (16 << 20) + 1;
        assert!(negotiate(&hello(1, 1), &theirs).is_err());
    }

    #[test]
    fn sides_with_different_purposes_do_not_talk() {
        let service = Hello::new(Purpose::Service, 8);
        assert!(matches!(
            negotiate(&hello(1, 1), &service),
            Err(HelloError::Purpose { ours: 1, theirs: 3 })
        ));
    }

    #[test]
    fn control_messages_survive_the_wire_and_skip_unknown_fields() {
        let [geo, unit, relay] = ["cn-east", "a", "a-1"].map(|text| Name::new(text).unwrap());
        let sent = Hello::new(Purpose::Lanes, 8).of_relay(&geo, &unit, &relay);
        let mut bytes = encode(&sent);
        bytes.extend_from_slice(&[0xfa, 0x07, 3, b'n', b'e', b'w']); // field 127, a string
        let read: Hello = decode(&bytes).unwrap();
        assert_eq!(read, sent);
        assert_eq!(read.identity().unwrap(), (geo, unit, relay));
        assert_eq!(decode::<Hello>(&[0xff; 9]), Err(HelloError::Malformed));
        assert!(matches!(
            decode::<Hello>(&vec![0; 70_000]),
            Err(HelloError::TooLong(70_000))
        ));
    }
}
