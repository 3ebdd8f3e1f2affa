//! Calls that other relays kept for this unit while it was away: each is made again, and its reply is the settlement. Pure.
//!
//! ```text
//! OK                                                        applied
//! ALREADY_EXISTS                                            duplicate: it was executed before; done, too
//! INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE,      rejected: a dead letter, unless the reply names a pause
//!   UNIMPLEMENTED, NOT_FOUND, PERMISSION_DENIED,
//!   UNAUTHENTICATED; HTTP 4xx but 408, 425, 429
//! any other status, or it may have reached the service      again, by the topic's back-off; a dead letter after the last attempt
//! the service is not there                                  the same
//! the key moves, or the relay is too busy                   again after a moment, and not an attempt
//! ```

use std::time::{Duration, Instant};

use super::notice::Wanted;
use super::verdict::Ended;
use crate::model::{Code, Reason, RelayError, Request, Retry};
use crate::queue::api::{Deliver, Settlement};
use crate::telemetry::kept::ReplayOutcome;
use crate::wire::kept::KeptCall;

/// Which call it is.
#[derive(Clone, Debug)]
pub(super) struct Called {
    /// For people.
    pub(super) name: String,
    /// Who is to hear of it if it is refused.
    pub(super) wanted: Option<Box<Wanted>>,
}

/// The call. `times` are now and the deadline.
///
/// # Errors
/// Says why it can never be made.
pub(super) fn request(deliver: Deliver, times: (Instant, Option<Instant>)) -> Result<(Request, Called), String> {
    let message = deliver.message;
    let call = KeptCall::read(message.body.clone());
    let call = call.ok_or("the message is no call that was kept for its unit")?;
    let called = Called {
        name: call.name(),
        wanted: Wanted::of(&call, &message).map(Box::new),
    };
    let request = call.into_request(&message, times);
    let mut request = request.ok_or_else(|| format!("{} is no call that relays keep for a unit", called.name))?;
    request.facts.attempt = 0;
    Ok((request, called))
}

/// What becomes of a refused call when its unit was told, or could not be: it is a dead letter, or is made again, so that the notice
/// comes again.
pub(super) fn told(reason: String, result: Result<(), &RelayError>) -> Settlement {
    match result {
        Ok(()) => Settlement::Terminate { reason },
        Err(error) if error.retry == Retry::Never => Settlement::Terminate {
            reason: format!("{reason}; the unit that kept it was not told: {error}"),
        },
        Err(error) => Settlement::Nack {
            delay: None,
            reason: format!("{reason}; the unit that kept it was not told yet: {error}"),
        },
    }
}

/// What the reply of the service means.
pub(super) fn settle(mut ended: Ended, name: &str) -> (Settlement, ReplayOutcome) {
    if ended.status == Code::AlreadyExists {
        return (Settlement::Ack, ReplayOutcome::Duplicate);
    }
    ended.reason = named(name, &ended.reason);
    let settlement = ended.settle_by(|status| {
        matches!(
            status,
            Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
        )
    });
    let outcome = match settlement {
        Settlement::Ack => ReplayOutcome::Applied,
        Settlement::Terminate { .. } => ReplayOutcome::Rejected,
        _ => ReplayOutcome::Again,
    };
    (settlement, outcome)
}

/// A relay ended the call.
pub(super) fn of_error(error: &RelayError, name: &str) -> (Settlement, ReplayOutcome) {
    let reason = named(name, &error.to_string());
    let for_now = matches!(
        error.reason,
        Reason::Draining | Reason::Limited | Reason::Moving | Reason::NoLease | Reason::RoutesAway | Reason::Shed
    );
    let for_good = matches!(
        error.reason,
        Reason::BadInput | Reason::Loop | Reason::Policy | Reason::TooLarge
    );
    match error.retry {
        Retry::Safe if for_now => {
            let pushback = error.pushback.unwrap_or(PAUSE);
            (Settlement::Unavailable { pushback }, ReplayOutcome::Unavailable)
        }
        Retry::Never if for_good => (Settlement::Terminate { reason }, ReplayOutcome::Rejected),
        // Calls of other services need not wait for this one.
        _ => (Settlement::Nack { delay: None, reason }, ReplayOutcome::Again),
    }
}

/// No answer came in time.
pub(super) fn late(name: &str) -> (Settlement, ReplayOutcome) {
    let reason = named(name, "no answer within the visibility timeout");
    (Settlement::Nack { delay: None, reason }, ReplayOutcome::Again)
}

/// For whoever looks at dead letters: which call it was, and what was said.
fn named(name: &str, said: &str) -> String {
    format!("{name}: {said}")
}

/// The relay cannot make calls: look again after this time.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::verdict::Answer;
    use super::*;
    use crate::crossing::testing;
    use crate::model::{Ending, Key, Message, MessageId, MetadataBuilder, Mode, Name, Part, RoutedBy, UnixMillis};
    use crate::queue::api::{ConsumerId, DeliveryId};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn check(status: Code, expected: ReplayOutcome) -> Settlement {
        let part = Part {
            end: Some(Ending {
                status,
                message: "room 7 is closed".into(),
                ..Ending::default()
            }),
            ..Part::default()
        };
        let ended = Answer::default().on_part(part).unwrap();
        let (settlement, outcome) = settle(ended, "im.Room/Post");
        assert_eq!(outcome, expected, "{status:?}");
        settlement
    }

    // I16: what the owner says is the end of a call, or it comes again.
    #[test]
    fn the_owner_decides_what_becomes_of_a_replay() {
        assert_eq!(check(Code::Ok, ReplayOutcome::Applied), Settlement::Ack);
        assert_eq!(check(Code::AlreadyExists, ReplayOutcome::Duplicate), Settlement::Ack);
        for status in [
            Code::InvalidArgument,
            Code::FailedPrecondition,
            Code::OutOfRange,
            Code::Unimplemented,
            Code::NotFound,
            Code::PermissionDenied,
            Code::Unauthenticated,
        ] {
            let Settlement::Terminate { reason } = check(status, ReplayOutcome::Rejected) else {
                panic!("{status:?} is for good");
            };
            assert_eq!(reason, format!("im.Room/Post: {status:?}: room 7 is closed"));
        }
        for status in [
            Code::Unavailable,
            Code::Aborted,
            Code::Internal,
            Code::Unknown,
            Code::DataLoss,
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::ResourceExhausted,
        ] {
            let settlement = check(status, ReplayOutcome::Again);
            assert!(matches!(settlement, Settlement::Nack { delay: None, .. }), "{status:?}");
        }
    }

    #[test]
    fn an_error_of_a_relay_never_loses_a_call() {
        let of = |reason, retry| of_error(&RelayError::new(reason, retry, "x"), "im.Room/Post");
        for reason in [Reason::Moving, Reason::NoLease, Reason::RoutesAway, Reason::Limited] {
            let (settlement, outcome) = of(reason, Retry::Safe);
            assert!(matches!(settlement, Settlement::Unavailable { .. }), "{reason}");
            assert_eq!(outcome, ReplayOutcome::Unavailable);
        }
        for (reason, retry) in [
            (Reason::ServiceUnavailable, Retry::Safe),
            (Reason::UnknownService, Retry::Never),
            (Reason::UnitAway, Retry::Never),
            (Reason::WrongUnit, Retry::Safe),
            (Reason::NoRoute, Retry::Never),
            (Reason::ServiceLost, Retry::Ambiguous),
            (Reason::DeadlineExceeded, Retry::Ambiguous),
        ] {
            let (settlement, outcome) = of(reason, retry);
            assert!(matches!(settlement, Settlement::Nack { .. }), "{reason}");
            assert_eq!(outcome, ReplayOutcome::Again);
        }
        assert_eq!(of(Reason::TooLarge, Retry::Never).1, ReplayOutcome::Rejected);
    }

    // R-3.11: a refused call does not end before its unit was told, unless it never can be.
    #[test]
    fn a_refused_call_ends_when_its_unit_was_told() {
        let reason = || "im.Room/Post: NotFound: no such room".to_owned();
        assert_eq!(told(reason(), Ok(())), Settlement::Terminate { reason: reason() });
        let error = |retry| RelayError::new(Reason::Limited, retry, "the disk is full");
        for retry in [Retry::Safe, Retry::Ambiguous] {
            let settlement = told(reason(), Err(&error(retry)));
            assert!(matches!(settlement, Settlement::Nack { delay: None, .. }), "{retry:?}");
        }
        let Settlement::Terminate { reason: said } = told(reason(), Err(&error(Retry::Never))) else {
            panic!("it would never end");
        };
        assert!(said.starts_with(&reason()) && said.contains("was not told"), "{said}");
    }

    // C-P1, C-P2: the same call, and the service can tell that it comes late.
    #[test]
    fn a_replay_is_the_call_as_it_was_made_and_says_what_it_is() {
        let mut call = testing::request("/im.Room/Post");
        let mut fields = MetadataBuilder::new();
        fields.push(b"idempotency-key", b"7").unwrap();
        call.metadata = fields.build();
        call.body.chunk = Bytes::from_static(b"hello");
        call.hints.keys = vec![Key {
            dimension: "uid".into(),
            key: "1".into(),
        }];
        let deliver = |executed| {
            let kept = KeptCall::of(&call, &name("uid"), executed);
            Deliver {
                shard: 0,
                consumer: ConsumerId(1),
                delivery: DeliveryId { seq: 1, stamp: 1 },
                attempts: 2,
                group: name("owner"),
                visibility_timeout: Duration::from_secs(30),
                message: Message {
                    id: MessageId {
                        unit: name("a"),
                        relay: name("a-1"),
                        epoch: 1,
                        number: 7,
                    },
                    topic: name("strait.calls"),
                    key: Some(call.hints.keys[0].clone()),
                    accepted_at: UnixMillis(1234),
                    deadline: None,
                    visited: vec![name("a")],
                    redrives: 0,
                    routed: 0,
                    attributes: kept.attributes(&call.hints.keys[0], b"7").unwrap(),
                    body: kept.to_bytes(),
                },
            }
        };
        let now = tokio::time::Instant::now().into_std();
        for (executed, replay) in [(true, "local"), (false, "parked")] {
            let deliver = deliver(executed);
            assert_eq!(deliver.message.attributes.text("type"), Some("im.Room/Post"));
            assert_eq!(deliver.message.attributes.text("id"), Some("7"));
            let (request, called) = request(deliver, (now, None)).unwrap();
            assert_eq!(called.name, "im.Room/Post");
            assert!(called.wanted.is_none(), "nobody wants to know");
            assert_eq!((&request.path, &request.body.chunk), (&call.path, &call.body.chunk));
            assert_eq!(request.hints.keys, call.hints.keys);
            assert_eq!(request.facts.mode, Mode::Replay);
            assert_eq!(request.facts.routed_by, RoutedBy::Dimension(name("uid")));
            for (field, value) in [
                ("idempotency-key", "7"),
                ("strait-replay", replay),
                ("strait-ticket", "a/a-1/0000000000000001/7"),
                ("strait-accepted-at-ms", "1234"),
            ] {
                assert_eq!(request.metadata.text(field), Some(value), "{field}");
            }
        }
        let mut other = deliver(false);
        other.message.body = Bytes::from_static(b"\xff");
        assert!(request(other, (now, None)).is_err());
        let mut forged = testing::request("/strait.v1.Messages/Publish");
        forged.hints.keys.clone_from(&call.hints.keys);
        let mut own = deliver(false);
        own.message.body = KeptCall::of(&forged, &name("uid"), false).to_bytes();
        assert!(request(own, (now, None)).is_err());
    }

    // Two calls are the same call if method, key and id are.
    #[test]
    fn calls_of_other_keys_or_methods_are_other_calls_whatever_their_id() {
        let key = |key: &'static str| Key {
            dimension: "uid".into(),
            key: key.into(),
        };
        let source = |path: &'static str, of: &Key| {
            let kept = KeptCall::of(&testing::request(path), &name("uid"), false);
            let attributes = kept.attributes(of, b"7").unwrap();
            attributes.text("source").unwrap().to_owned()
        };
        let first = source("/im.Room/Post", &key("1"));
        assert_eq!(first, source("/im.Room/Post", &key("1")));
        assert_ne!(first, source("/im.Room/Post", &key("2")));
        assert_ne!(first, source("/im.Room/Edit", &key("1")));
    }
}
