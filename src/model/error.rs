//! Errors a relay makes itself, as opposed to those of an application (C-G2).

use std::time::Duration;

use bytes::Bytes;

use super::{MessageId, RelayName, UnitId};

/// An ending that a relay, not a service, gave to a call.
///
/// Its text is written for the developer of the calling service: what happened and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct RelayError {
    /// What kind of thing went wrong; closed set, used as label.
    pub reason: Reason,
    /// Which relay said so.
    pub place: Option<Place>,
    /// One sentence for a person. No payload, no key.
    pub detail: String,
    /// Whether the same request may be sent again.
    pub retry: Retry,
    /// When to try again at the earliest; sent as `grpc-retry-pushback-ms`.
    pub pushback: Option<Duration>,
    /// The unit that owns the key and the epoch of that knowledge; set with `WrongUnit`.
    pub owner: Option<(UnitId, u64)>,
    /// What to bring along with the next call of the key, as the value of a `strait-token` field. Text that relays made; in a box,
    /// because few errors have one.
    pub token: Option<Box<Bytes>>,
    /// Under which id the call was stored; set with `Parked`, told to the caller as `strait-ticket`.
    pub ticket: Option<Box<MessageId>>,
}

/// The relay where an error was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Its unit.
    pub unit: UnitId,
    /// Its name in the unit.
    pub relay: RelayName,
}

/// Whether sending the same request again can make a service act twice.
///
/// Decided where the error is born, because only that place knows how far the request got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// The service may have acted. Retry only a request that is marked idempotent.
    Ambiguous,
    /// The failure is permanent. Retrying cannot help.
    Never,
    /// No byte reached a service. Retrying is always correct.
    Safe,
}

/// What went wrong, in the words that `strait-error`, logs and metrics use.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The request breaks the protocol or a limit on its form.
    BadInput,
    /// The deadline passed.
    DeadlineExceeded,
    /// This relay is shutting down and takes no new work.
    Draining,
    /// A fault inside a relay.
    Internal,
    /// A limit of this caller, service or link is reached.
    Limited,
    /// The link broke while the call was under way.
    LinkLost,
    /// The call came back to a unit it had passed, or took too many hops.
    Loop,
    /// The key is being moved to another unit; it is there in a moment.
    Moving,
    /// The relay has not heard from the route store for too long and may not decide that its unit owns the key.
    NoLease,
    /// No rule gives the key an owner, or the key is missing.
    NoRoute,
    /// The call is on disk here, and its unit gets it when it is back.
    Parked,
    /// Policy forbids the crossing.
    Policy,
    /// The key has no owner yet, and the route store that could give it one cannot be reached.
    RoutesAway,
    /// The endpoint of the service broke off in the middle of the call.
    ServiceLost,
    /// The service is known but none of its endpoints can take the call.
    ServiceUnavailable,
    /// Overload.
    Shed,
    /// A body or metadata block is larger than a limit.
    TooLarge,
    /// The owner unit cannot be reached.
    UnitAway,
    /// A message was accepted and will not come as far as its publisher waits for: it expired, or was given up or removed.
    Undelivered,
    /// The unit that was asked for is not configured.
    UnknownUnit,
    /// No endpoint of the owner unit serves this service.
    UnknownService,
    /// No topic of the settings has this name.
    UnknownTopic,
    /// The relay that got the call does not own the key.
    WrongUnit,
}

/// gRPC status codes; [`Code::Ok`] by default.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the gRPC specification")]
pub enum Code {
    #[default]
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl RelayError {
    /// An error with no place, pushback or owner; the story adds what it knows.
    pub fn new(reason: Reason, retry: Retry, detail: impl Into<String>) -> Self {
        Self {
            reason,
            place: None,
            detail: detail.into(),
            retry,
            pushback: None,
            owner: None,
            token: None,
            ticket: None,
        }
    }

    /// Sets where the error was made, unless an earlier relay has.
    #[must_use]
    pub fn at(mut self, unit: &UnitId, relay: &RelayName) -> Self {
        self.place.get_or_insert_with(|| Place {
            unit: unit.clone(),
            relay: relay.clone(),
        });
        self
    }

    /// Asks the caller to wait.
    #[must_use]
    pub fn pushed_back(mut self, wait: Duration) -> Self {
        self.pushback = Some(wait);
        self
    }
}

impl Reason {
    /// All reasons, for registering series and for reading them from the wire.
    pub const ALL: [Self; 23] = [
        Self::BadInput,
        Self::DeadlineExceeded,
        Self::Draining,
        Self::Internal,
        Self::Limited,
        Self::LinkLost,
        Self::Loop,
        Self::Moving,
        Self::NoLease,
        Self::NoRoute,
        Self::Parked,
        Self::Policy,
        Self::RoutesAway,
        Self::ServiceLost,
        Self::ServiceUnavailable,
        Self::Shed,
        Self::TooLarge,
        Self::UnitAway,
        Self::Undelivered,
        Self::UnknownUnit,
        Self::UnknownService,
        Self::UnknownTopic,
        Self::WrongUnit,
    ];

    /// The word used in `strait-error`, in labels and in `ErrorInfo.reason` (there in capitals).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadInput => "bad_input",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Draining => "draining",
            Self::Internal => "internal",
            Self::Limited => "limited",
            Self::LinkLost => "link_lost",
            Self::Loop => "loop",
            Self::Moving => "moving",
            Self::NoLease => "no_lease",
            Self::NoRoute => "no_route",
            Self::Parked => "parked",
            Self::Policy => "policy",
            Self::RoutesAway => "routes_away",
            Self::ServiceLost => "service_lost",
            Self::ServiceUnavailable => "service_unavailable",
            Self::Shed => "shed",
            Self::TooLarge => "too_large",
            Self::UnitAway => "unit_away",
            Self::Undelivered => "undelivered",
            Self::UnknownUnit => "unknown_unit",
            Self::UnknownService => "unknown_service",
            Self::UnknownTopic => "unknown_topic",
            Self::WrongUnit => "wrong_unit",
        }
    }

    /// The reason a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Code {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with this number; numbers that gRPC does not define count as `Unknown`, as gRPC says.
    pub fn from_number(number: u64) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .unwrap_or(Self::Unknown)
    }

    /// The code in the text of a `grpc-status` field.
    pub fn from_text(text: &[u8]) -> Self {
        std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(Self::Unknown, Self::from_number)
    }

    /// The number gRPC gave it.
    #[expect(clippy::as_conversions, reason = "reading the discriminant of a repr(u8) enum")]
    pub fn number(self) -> u8 {
        self as u8
    }
}
