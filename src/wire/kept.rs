//! A call that is kept for its unit while that is away, as the body of a message (C-P1, C-P2), as `proto/strait/v1/kept.proto`
//! documents it.
//!
//! Relays write it and relays read it, perhaps of a later version: fields are only added.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use super::shadow::{ShadowKey, is_own_service};
use crate::model::{
    Envelope, Facts, Key, Message as Stored, Metadata, MetadataBuilder, MetadataError, Mode, Name, Request,
    RequestBody, RouteHints, RoutedBy, Source,
};

/// A call as its caller made it.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct KeptCall {
    /// `/package.Service/Method`.
    #[prost(bytes = "bytes", tag = "1")]
    pub path: Bytes,
    /// The body is a gRPC message with its prefix, not a bare one.
    #[prost(bool, tag = "2")]
    pub grpc: bool,
    /// The caller's metadata, in the format of frames.
    #[prost(bytes = "bytes", tag = "3")]
    pub metadata: Bytes,
    /// The caller's keys.
    #[prost(message, repeated, tag = "4")]
    pub keys: Vec<ShadowKey>,
    /// Geo of the relay that kept it.
    #[prost(string, tag = "5")]
    pub source_geo: String,
    /// The service that called; empty if that is not known.
    #[prost(string, tag = "6")]
    pub source_service: String,
    /// The body.
    #[prost(bytes = "bytes", tag = "7")]
    pub body: Bytes,
    /// The dimension whose key routed it.
    #[prost(string, tag = "8")]
    pub routed_by: String,
    /// The service of the unit that kept it has executed it.
    #[prost(bool, tag = "9")]
    pub executed: bool,
    /// Topic of the unit that kept it, where it is told if the call is refused; empty: nobody is.
    #[prost(string, tag = "10")]
    pub rejected_to: String,
}

impl KeptCall {
    /// Of a call that the key of this dimension routes.
    pub fn of(request: &Request, routed_by: &Name, executed: bool) -> Self {
        let source = request.facts.source.as_ref();
        let service = source.and_then(|source| source.service.as_ref());
        let keys = request.hints.keys.iter().map(|key| ShadowKey {
            dimension: key.dimension.clone(),
            key: key.key.clone(),
        });
        Self {
            path: request.path.clone(),
            grpc: request.envelope == Envelope::Grpc,
            metadata: request.metadata.as_bytes().clone(),
            keys: keys.collect(),
            source_geo: source.map(|source| source.geo.to_string()).unwrap_or_default(),
            source_service: service.map(ToString::to_string).unwrap_or_default(),
            body: request.body.chunk.clone(),
            routed_by: routed_by.to_string(),
            executed,
            rejected_to: String::new(),
        }
    }

    /// What its message says of it: which call it is, so that people can tell; and the identity that a call has in common with
    /// another attempt at it: method, key and the caller's id.
    ///
    /// # Errors
    /// One of them is none that a block can hold.
    pub fn attributes(&self, key: &Key, id: &[u8]) -> Result<Metadata, MetadataError> {
        let mut hash = Xxh3::new();
        hash.update(&key.dimension.len().to_be_bytes());
        hash.update(&key.dimension);
        hash.update(&key.key);
        let name = self.name();
        let source = format!("strait.calls/{name}/{:032x}", hash.digest128());
        let mut fields = MetadataBuilder::new();
        fields.push(b"source", source.as_bytes())?;
        fields.push(b"id", id)?;
        fields.push(b"type", name.as_bytes())?;
        fields.push(b"onfailure", if self.executed { b"local" } else { b"park" })?;
        Ok(fields.build())
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads one; `None` if the bytes are none.
    pub fn read(bytes: Bytes) -> Option<Self> {
        Self::decode(bytes).ok()
    }

    /// `package.Service/Method`, for people.
    pub fn name(&self) -> String {
        let path = self.path.strip_prefix(b"/").unwrap_or(&self.path);
        String::from_utf8_lossy(path).into_owned()
    }

    /// The call for the service of the unit that owns its key, which is told that it comes late. `message` is what it came in.
    /// `None` if it is no call that is kept.
    pub fn into_request(self, message: &Stored, times: (Instant, Option<Instant>)) -> Option<Request> {
        let origin = &message.id.unit;
        let metadata = Metadata::parse(self.metadata).ok()?.distrusted();
        let mut fields = MetadataBuilder::from_block(&metadata);
        let replay: &[u8] = if self.executed { b"local" } else { b"parked" };
        fields.push(b"strait-replay", replay).ok()?;
        fields.push(b"strait-ticket", message.id.to_string().as_bytes()).ok()?;
        let accepted_at = message.accepted_at.0.to_string();
        fields.push(b"strait-accepted-at-ms", accepted_at.as_bytes()).ok()?;
        let keys = self.keys.into_iter().map(|key| Key {
            dimension: key.dimension,
            key: key.key,
        });
        let service = match self.source_service.as_str() {
            "" => None,
            service => Some(Name::new(service).ok()?),
        };
        let source = match self.source_geo.as_str() {
            "" => None,
            geo => Some(Source {
                geo: Name::new(geo).ok()?,
                unit: origin.clone(),
                service,
            }),
        };
        let request = Request {
            path: self.path,
            authority: Bytes::new(),
            envelope: if self.grpc { Envelope::Grpc } else { Envelope::Framed },
            metadata: fields.build(),
            hints: RouteHints {
                keys: keys.collect(),
                // At least once: that is what the id is for.
                idempotent: true,
                ..RouteHints::default()
            },
            facts: Facts {
                source,
                routed_by: RoutedBy::Dimension(Name::new(&self.routed_by).ok()?),
                mode: Mode::Replay,
                ..Facts::default()
            },
            received: times.0,
            deadline: times.1,
            body: RequestBody {
                chunk: self.body,
                end: true,
            },
        };
        let is_own = request.service().is_none_or(is_own_service);
        (!is_own).then_some(request)
    }
}

/// Tells the service that executes a call in place of its owner so. The same as before if there is no room in its metadata.
pub fn mark_local(metadata: &Metadata) -> Metadata {
    marked(metadata, b"strait-local-mode")
}

/// Tells the caller that its call was executed in place of the owner.
pub fn mark_provisional(block: &Metadata) -> Metadata {
    marked(block, b"strait-provisional")
}

fn marked(block: &Metadata, name: &[u8]) -> Metadata {
    let mut fields = MetadataBuilder::from_block(block);
    // Both are ours and well-formed.
    let _ = fields.push(name, b"true");
    fields.build()
}

/// Whether a gRPC body is one message; `None` if it may become one.
pub fn is_one_message(body: &[u8]) -> Option<bool> {
    let [_, length @ ..] = body.first_chunk::<5>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    match body.len().checked_sub(5)?.cmp(&length) {
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal => Some(true),
        std::cmp::Ordering::Greater => Some(false),
    }
}
