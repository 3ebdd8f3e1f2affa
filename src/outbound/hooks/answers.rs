//! What an answer of an application, or that there is none, means for a move. Pure.

use bytes::Bytes;

use crate::control::mover::Hooked;
use crate::model::{Code, Reason};
use crate::outbound::own::OwnError;
use crate::routing::record::{Hook, Lag};
use crate::wire::owner_control::{HookReply, LagReply};

/// What the answer to this question means.
///
/// ```text
/// OK                                                            done, or how far behind, or `pending`
/// UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,           again
///   ABORTED, CANCELLED; whatever a relay says
/// any other status, an answer that cannot be read               refused
/// ```
pub(super) fn hooked(hook: Hook, answered: Result<Bytes, OwnError>) -> Hooked {
    match answered {
        Ok(bytes) if hook == Hook::Lag => LagReply::read(&bytes).map_or_else(unreadable, |reply| {
            if reply.pending {
                return Hooked::NotYet(clipped(reply.detail));
            }
            Hooked::Lag(Lag {
                changes: reply.changes,
                bytes: reply.bytes,
                time: reply.time(),
            })
        }),
        Ok(bytes) => HookReply::read(&bytes).map_or_else(unreadable, |reply| {
            if reply.pending {
                Hooked::NotYet(clipped(reply.detail))
            } else {
                Hooked::Done
            }
        }),
        Err(OwnError::Service { code, message }) if is_for_now(code) => Hooked::NotYet(clipped(message)),
        Err(OwnError::Service { code, message }) => Hooked::Refused(clipped(format!("{code:?}: {message}"))),
        // The service exists: the rules say so. It may not have registered yet, or its unit is away.
        Err(OwnError::Relay(error)) if error.reason != Reason::Policy => Hooked::NotYet(clipped(error.to_string())),
        Err(OwnError::Relay(error)) => Hooked::Refused(clipped(error.to_string())),
        Err(error @ OwnError::TooLarge) => Hooked::Refused(error.to_string()),
        Err(error @ OwnError::Ending) => Hooked::NotYet(error.to_string()),
    }
}

/// The answer of two applications together.
pub(super) fn joined(one: Hooked, other: Hooked) -> Hooked {
    match (one, other) {
        (Hooked::Refused(said), _) | (_, Hooked::Refused(said)) => Hooked::Refused(said),
        (Hooked::NotYet(said), _) | (_, Hooked::NotYet(said)) => Hooked::NotYet(said),
        (Hooked::Lag(one), Hooked::Lag(other)) => Hooked::Lag(Lag {
            changes: one.changes.max(other.changes),
            bytes: one.bytes.max(other.bytes),
            time: one.time.max(other.time),
        }),
        (Hooked::Lag(lag), Hooked::Done) | (Hooked::Done, Hooked::Lag(lag)) => Hooked::Lag(lag),
        (Hooked::Done, Hooked::Done) => Hooked::Done,
    }
}

fn is_for_now(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted | Code::Cancelled
    )
}

fn unreadable() -> Hooked {
    Hooked::Refused("the answer is not one of strait.v1.OwnerControl".to_owned())
}

/// What is kept of a text: it goes into a record that every relay has.
fn clipped(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let at = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(at.unwrap_or_default());
    }
    text
}

const TEXT_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{RelayError, Retry};

    fn check(hook: Hook, answered: Result<&[u8], OwnError>, expected: &str) {
        let found = match hooked(hook, answered.map(Bytes::copy_from_slice)) {
            Hooked::Done => "done".to_owned(),
            Hooked::Lag(lag) => format!("lag {} {} {:?}", lag.changes, lag.bytes, lag.time),
            Hooked::NotYet(said) => format!("not yet: {said}"),
            Hooked::Refused(said) => format!("refused: {said}"),
        };
        assert_eq!(found, expected);
    }

    fn service(code: Code) -> OwnError {
        OwnError::Service {
            code,
            message: "disk full".to_owned(),
        }
    }

    fn relay(reason: Reason) -> OwnError {
        OwnError::Relay(Box::new(RelayError::new(reason, Retry::Never, "no")))
    }

    // R-3.9: what cannot be reached is asked again, what says no ends the move of the node.
    #[test]
    fn the_answer_is_the_next_step() {
        let pending = b"\x08\x01\x12\x0awarming up";
        let lag = b"\x08\x03\x10\x28\x18\x05";
        check(Hook::Prepare, Ok(b""), "done");
        check(Hook::Prepare, Ok(pending), "not yet: warming up");
        check(Hook::Lag, Ok(lag), "lag 3 40 5ms");
        check(Hook::Lag, Ok(b""), "lag 0 0 0ns");
        check(
            Hook::Quiesce,
            Ok(&[0xff]),
            "refused: the answer is not one of strait.v1.OwnerControl",
        );
        check(Hook::Copy, Err(service(Code::Unavailable)), "not yet: disk full");
        check(
            Hook::Copy,
            Err(service(Code::FailedPrecondition)),
            "refused: FailedPrecondition: disk full",
        );
        check(
            Hook::Copy,
            Err(service(Code::Unimplemented)),
            "refused: Unimplemented: disk full",
        );
        check(
            Hook::Copy,
            Err(relay(Reason::UnknownService)),
            "not yet: unknown_service: no",
        );
        check(Hook::Copy, Err(relay(Reason::UnitAway)), "not yet: unit_away: no");
        check(Hook::Copy, Err(relay(Reason::Policy)), "refused: policy: no");
    }

    #[test]
    fn several_applications_answer_as_the_slowest_does() {
        let lag = |changes, millis| {
            Hooked::Lag(Lag {
                changes,
                bytes: 0,
                time: Duration::from_millis(millis),
            })
        };
        let not_yet = || Hooked::NotYet("x".to_owned());
        let refused = || Hooked::Refused("y".to_owned());
        assert_eq!(joined(Hooked::Done, Hooked::Done), Hooked::Done);
        assert_eq!(joined(lag(3, 9), lag(5, 2)), lag(5, 9));
        assert_eq!(joined(Hooked::Done, lag(5, 2)), lag(5, 2));
        assert_eq!(joined(not_yet(), Hooked::Done), not_yet());
        assert_eq!(joined(not_yet(), refused()), refused());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "\u{e9}".repeat(150);
        assert_eq!(clipped(text).len(), 200);
        assert_eq!(clipped(format!("x{}", "\u{e9}".repeat(150))).len(), 199);
    }
}
