//! The vocabulary every layer shares: values and the two ports a call travels through.
//!
//! # Invariants
//! - V1. Nothing here does I/O, reads a clock or starts a task.
//! - V2. A `Callee` never calls its `Caller` back from inside a method of its own that the caller is
//!   still executing; it puts the event into its own mailbox first. So no call chain is re-entrant.
//!
//! # Not here
//! How these values look on the wire (`wire`).

mod call;
mod error;
mod hints;
mod hottest;
mod identity;
pub mod lanes;
mod message;
mod metadata;
mod precedence;
mod registry;
mod sighting;
mod size;
mod subscription;

pub use call::{
    CallId, Callee, Caller, CallerRef, CancelReason, Ending, Endpoint, Envelope, Facts, Mode, Outcome, Part, Refused,
    ReplyBody, ReplyEvent, Request, RequestBody, RequestEvent, RoutePush, SMALL_BODY_BYTES, Timing, wants_credit,
};
pub use error::{Code, Place, Reason, RelayError, Retry};
pub use hints::{
    AwayBy, Class, Key, MissingKey, MissingKeyError, OnFailure, ParkedAs, RouteHints, ServiceName, WhileAway,
};
pub use hottest::Hottest;
pub use identity::{Geo, Name, NameError, RELAY, RelayName, Source, UnitId};
pub use message::{
    AckLevel, DeadPlace, GapReason, GroupName, Message, MessageId, MessageIdError, Seq, Topic, UnixMillis,
};
pub use metadata::{Metadata, MetadataBuilder, MetadataError, PREVIOUS_ATTEMPTS};
pub use precedence::{ANY_KEY, RoutePolicy, RoutedBy};
pub use registry::{RegisterError, Registration, Registry};
pub use sighting::Sighting;
pub use size::{ByteSize, ByteSizeError};
pub use subscription::{SubscribeError, SubscribedFn, Subscription, Subscriptions};

/// A hash map for look-ups on the path of calls: seeded, so that nobody can aim keys at one bucket, and several times faster
/// than the standard one on short names.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
