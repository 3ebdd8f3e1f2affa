//! A call that the owner of a key that moves has served, on its way to the other unit of the move as a shadow (R-3.9 S1, S7), as
//! `proto/strait/v1/shadow.proto` documents it.
//!
//! It travels inside a call of a service of its own: a relay that knows no shadows refuses that service, and never takes a shadow
//! for a call.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;

use crate::model::{
    Envelope, Facts, Key, Metadata, MetadataBuilder, Name, Request, RequestBody, RouteHints, RoutePolicy, RoutedBy,
    SMALL_BODY_BYTES, Source,
};

/// The service that relays of the other unit answer.
pub const SERVICE: &str = "strait.v1.Shadow";
/// The path of its only method.
pub const DELIVER: &str = "/strait.v1.Shadow/Deliver";
/// A call of the relay itself; those have no shadows.
const OWN_SERVICES: [&str; 2] = ["strait.", "grpc."];

/// A call as its owner served it.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Shadow {
    /// The move.
    #[prost(uint64, tag = "1")]
    pub r#move: u64,
    /// The table that the owner admitted it by.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Since when the owner has had the key.
    #[prost(uint64, tag = "3")]
    pub owner_epoch: u64,
    /// `/package.Service/Method`.
    #[prost(bytes = "bytes", tag = "4")]
    pub path: Bytes,
    /// The body is a gRPC message with its prefix, not a bare one.
    #[prost(bool, tag = "5")]
    pub grpc: bool,
    /// The caller's metadata, in the format of frames.
    #[prost(bytes = "bytes", tag = "6")]
    pub metadata: Bytes,
    /// The caller's keys.
    #[prost(message, repeated, tag = "7")]
    pub keys: Vec<ShadowKey>,
    /// The call may be executed twice.
    #[prost(bool, tag = "8")]
    pub idempotent: bool,
    /// Who called the owner; empty if that is not known.
    #[prost(string, tag = "9")]
    pub source_geo: String,
    /// Its unit.
    #[prost(string, tag = "10")]
    pub source_unit: String,
    /// Its service.
    #[prost(string, tag = "11")]
    pub source_service: String,
    /// The body.
    #[prost(bytes = "bytes", tag = "12")]
    pub body: Bytes,
    /// The dimension whose key routed it, if not the first one in the order of the route table.
    #[prost(string, tag = "13")]
    pub routed_by: String,
}

/// A key of a call.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ShadowKey {
    /// Kind of key.
    #[prost(bytes = "bytes", tag = "1")]
    pub dimension: Bytes,
    /// The key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
}

impl Shadow {
    /// Of a call that its owner admitted by this table; `None` of calls to relays themselves.
    pub fn of(request: &Request, r#move: u64, epoch: u64) -> Option<Self> {
        let service = request.service()?;
        if is_own_service(service) {
            return None;
        }
        let source = request.facts.source.as_ref();
        let text = |of: fn(&Source) -> Option<&Name>| source.and_then(of).map(ToString::to_string).unwrap_or_default();
        let keys = request.hints.keys.iter().map(|key| ShadowKey {
            dimension: key.dimension.clone(),
            key: key.key.clone(),
        });
        Some(Self {
            r#move,
            epoch,
            owner_epoch: request.facts.owner_epoch.unwrap_or_default(),
            path: request.path.clone(),
            grpc: request.envelope == Envelope::Grpc,
            metadata: request.metadata.as_bytes().clone(),
            keys: keys.collect(),
            idempotent: request.hints.idempotent,
            source_geo: text(|source| Some(&source.geo)),
            source_unit: text(|source| Some(&source.unit)),
            source_service: text(|source| source.service.as_ref()),
            body: request.body.chunk.clone(),
            routed_by: match &request.facts.routed_by {
                RoutedBy::Dimension(name) => name.to_string(),
                RoutedBy::Order | RoutedBy::NoKey => String::new(),
            },
        })
    }

    /// Whether its body is one message.
    pub fn is_one_message(&self) -> bool {
        if !self.grpc {
            return true;
        }
        let prefix = self.body.first_chunk::<5>();
        let length = prefix.and_then(|[_, length @ ..]| usize::try_from(u32::from_be_bytes(*length)).ok());
        length.is_some_and(|length| self.body.len().checked_sub(5) == Some(length))
    }

    /// Whether it goes into one small body.
    pub fn is_small(&self) -> bool {
        self.encoded_len() <= SMALL_BODY_BYTES
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads one; `None` if the bytes are none.
    pub fn read(bytes: Bytes) -> Option<Self> {
        Self::decode(bytes).ok()
    }

    /// The keys.
    pub fn hints(&self) -> RouteHints {
        let keys = self.keys.iter().map(|key| Key {
            dimension: key.dimension.clone(),
            key: key.key.clone(),
        });
        RouteHints {
            keys: keys.collect(),
            idempotent: self.idempotent,
            ..RouteHints::default()
        }
    }

    /// Which of the keys decides.
    pub fn policy(&self) -> RoutePolicy {
        RoutePolicy {
            dimensions: Name::new(&self.routed_by).into_iter().collect(),
            ..RoutePolicy::default()
        }
    }

    /// The call for the service, which is told that it is a shadow. `times` are now and the deadline. `None` if it is no call that
    /// has shadows.
    pub fn into_request(self, (now, deadline): (Instant, Option<Instant>)) -> Option<Request> {
        let hints = self.hints();
        let metadata = Metadata::parse(self.metadata).ok()?.distrusted();
        let mut fields = MetadataBuilder::from_block(&metadata);
        fields.push(b"strait-shadow", b"true").ok()?;
        fields
            .push(b"strait-shadow-move", format!("{:016x}", self.r#move).as_bytes())
            .ok()?;
        let source = if self.source_unit.is_empty() {
            None
        } else {
            Some(Source {
                geo: Name::new(&self.source_geo).ok()?,
                unit: Name::new(&self.source_unit).ok()?,
                service: if self.source_service.is_empty() {
                    None
                } else {
                    Some(Name::new(&self.source_service).ok()?)
                },
            })
        };
        let request = Request {
            path: self.path,
            authority: Bytes::new(),
            envelope: if self.grpc { Envelope::Grpc } else { Envelope::Framed },
            metadata: fields.build(),
            hints,
            facts: Facts {
                source,
                epoch: self.epoch,
                owner_epoch: Some(self.owner_epoch),
                ..Facts::default()
            },
            received: now,
            deadline,
            body: RequestBody {
                chunk: self.body,
                end: true,
            },
        };
        let is_own = request.service().is_none_or(is_own_service);
        (!is_own).then_some(request)
    }
}

/// Whether calls of a service are for relays themselves.
pub(super) fn is_own_service(service: &str) -> bool {
    OWN_SERVICES.iter().any(|own| service.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &'static str, body: &'static [u8]) -> Request {
        let mut fields = MetadataBuilder::new();
        fields.push(b"x-request", b"7").unwrap();
        Request {
            path: Bytes::from_static(path.as_bytes()),
            authority: Bytes::new(),
            envelope: Envelope::Grpc,
            metadata: fields.build(),
            hints: RouteHints {
                keys: vec![Key {
                    dimension: "cid".into(),
                    key: "1".into(),
                }],
                idempotent: true,
                ..RouteHints::default()
            },
            facts: Facts {
                source: Some(Source {
                    geo: Name::new("g").unwrap(),
                    unit: Name::new("c").unwrap(),
                    service: None,
                }),
                owner_epoch: Some(4),
                ..Facts::default()
            },
            received: now(),
            deadline: None,
            body: RequestBody {
                chunk: Bytes::from_static(body),
                end: true,
            },
        }
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    // S1: the same call, with the caller's own fields, and what says that it is a shadow.
    #[test]
    fn a_shadow_is_the_same_call_and_says_what_it_is() {
        let call = request("/im.Chat/Send", b"\0\0\0\0\x02hi");
        let shadow = Shadow::of(&call, 255, 9).unwrap();
        assert!(shadow.is_one_message() && shadow.is_small());
        let shadow = Shadow::read(shadow.to_bytes()).unwrap();
        let copy = shadow.into_request((now(), None)).unwrap();
        assert_eq!((&copy.path, &copy.body), (&call.path, &call.body));
        assert_eq!((&copy.hints, copy.envelope), (&call.hints, call.envelope));
        assert_eq!(copy.facts.source, call.facts.source);
        assert_eq!((copy.facts.owner_epoch, copy.facts.epoch), (Some(4), 9));
        assert_eq!(copy.metadata.text("x-request"), Some("7"));
        assert_eq!(copy.metadata.text("strait-shadow"), Some("true"));
        assert_eq!(copy.metadata.text("strait-shadow-move"), Some("00000000000000ff"));
    }

    #[test]
    fn calls_to_relays_and_bodies_of_several_messages_have_no_shadow() {
        for path in ["/strait.v1.Messages/Publish", "/grpc.health.v1.Health/Check", "nothing"] {
            assert!(Shadow::of(&request(path, b""), 1, 1).is_none(), "{path}");
        }
        let mut forged = Shadow::of(&request("/im.Chat/Send", b""), 1, 1).unwrap();
        forged.path = Bytes::from_static(b"/strait.v1.Messages/Publish");
        assert!(forged.into_request((now(), None)).is_none());
        for (body, expected) in [
            (&b""[..], false),
            (b"\0\0\0\0\0", true),
            (b"\0\0\0\0\x01ab", false),
            (b"\0\0\0\0\x01a\0\0\0\0\0", false),
        ] {
            let shadow = Shadow {
                body: body.into(),
                ..Shadow::of(&request("/im.Chat/Send", b""), 1, 1).unwrap()
            };
            assert_eq!(shadow.is_one_message(), expected, "{body:?}");
        }
    }
}
