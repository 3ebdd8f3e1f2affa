//! Whether a call whose attempt failed is tried again, and when (C-T1, C-T3, C-T4). Pure.
//!
//! # Invariants
//! - V1. Only a request of which no byte reached a service is sent again, or one that is marked idempotent (I3).
//! - V2. No attempt begins at or after the call's time limit, and there are [`ATTEMPTS_MAX`] in all.

use std::time::{Duration, Instant};

use crate::model::{Code, Metadata, Part, Reason, RelayError, Request, Retry};
use crate::telemetry::retries::RetryOutcome;

/// How an attempt ended.
pub(super) enum Failure {
    /// A relay or a link ended it.
    Relay(Box<RelayError>),
    /// The service answered with a status of the retry set, and nothing else.
    Service(Box<Part>),
}

/// What of a failure matters for trying again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Ground {
    /// No byte of the request reached a service.
    is_safe: bool,
    /// It was the way to the unit that broke: another way may be as good as new, and many calls are hit at once.
    is_way: bool,
    /// When to try again at the earliest.
    wait: Wait,
}

/// What a failure says about the time of the next attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wait {
    AtLeast(Duration),
    Never,
}

/// A call whose attempt failed.
pub(super) struct Case<'a> {
    /// The request, or why it cannot be sent again.
    pub(super) request: Result<&'a Request, RetryOutcome>,
    /// Whether the settings allow it.
    pub(super) allowed: bool,
    /// Now.
    pub(super) now: Instant,
    /// When the call's time is over.
    pub(super) limit: Option<Instant>,
}

/// One more attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Next {
    /// When it may begin.
    pub(super) due: Instant,
    /// Whether it may get in line for a permit, if none is free. Only what a broken way took along may: a service that
    /// fails its calls is not helped by more of them.
    pub(super) may_wait: bool,
}

/// Decides. `dice` is drawn from `0.0..1.0`.
///
/// # Errors
/// Why there is no further attempt; `None` if the failure is none that is ever tried again.
pub(super) fn decide(failure: &Failure, case: &Case<'_>, dice: f64) -> Result<Next, Option<RetryOutcome>> {
    let ground = failure.ground()?;
    let request = case.request.map_err(Some)?;
    let no = |outcome| Err(Some(outcome));
    if !ground.is_safe && !request.hints.idempotent {
        return no(RetryOutcome::NotIdempotent);
    }
    // Of what nobody has seen, the rest may follow on another way as it comes.
    if !ground.is_safe && !request.body.end {
        return no(RetryOutcome::RequestOpen);
    }
    if !case.allowed {
        return no(RetryOutcome::SwitchedOff);
    }
    if request.facts.attempt.saturating_add(1) >= ATTEMPTS_MAX {
        return no(RetryOutcome::AttemptsSpent);
    }
    let Wait::AtLeast(wait) = ground.wait else {
        return no(RetryOutcome::PushedBack);
    };
    // Nobody has seen it and another way is there: waiting helps nobody.
    let at_once = ground.is_safe && ground.is_way && request.facts.attempt == 0;
    let pause = if at_once {
        Duration::ZERO
    } else {
        backoff(request.facts.attempt, dice)
    };
    match case.now.checked_add(pause.max(wait)) {
        Some(due) if case.limit.is_none_or(|limit| due < limit) => Ok(Next {
            due,
            may_wait: ground.is_way,
        }),
        _ => no(RetryOutcome::Deadline),
    }
}

impl Failure {
    /// Whether a service may have seen the attempt.
    pub(super) fn was_perhaps_seen(&self) -> bool {
        match self {
            Self::Relay(error) => error.retry == Retry::Ambiguous,
            Self::Service(_) => true,
        }
    }

    fn ground(&self) -> Result<Ground, Option<RetryOutcome>> {
        match self {
            Self::Relay(error) => ground_of(error),
            Self::Service(part) => Ok(Ground {
                is_safe: false,
                is_way: false,
                wait: wait_of(part),
            }),
        }
    }
}

fn ground_of(error: &RelayError) -> Result<Ground, Option<RetryOutcome>> {
    let in_set = matches!(error.reason, Reason::LinkLost | Reason::ServiceLost);
    match error.retry {
        Retry::Never if error.reason == Reason::UnitAway => Err(Some(RetryOutcome::Away)),
        Retry::Never => Err(None),
        // The other unit would say the same again; a newer owner was adopted before.
        _ if error.owner.is_some() => Err(None),
        Retry::Ambiguous if !in_set => Err(None),
        Retry::Ambiguous | Retry::Safe => Ok(Ground {
            is_safe: error.retry == Retry::Safe,
            is_way: matches!(error.reason, Reason::Draining | Reason::LinkLost | Reason::UnitAway),
            wait: Wait::AtLeast(error.pushback.unwrap_or_default()),
        }),
    }
}

/// Whether an answer of a service is tried again if the call is marked idempotent: the retry set of C-T1.
pub(super) fn is_in_retry_set(status: Code) -> bool {
    status == Code::Unavailable
}

/// What the service says about the next attempt, in trailers or, trailers-only, in the head (C-T4, C-T6).
fn wait_of(part: &Part) -> Wait {
    let trailers = part.end.iter().map(|end| &end.trailers);
    let mut blocks = trailers.chain(part.head.iter().map(|(_, head)| head));
    let said = blocks.find_map(|fields: &Metadata| {
        let value = |name, unit| fields.value(name).map(|value| (value, unit));
        value("grpc-retry-pushback-ms", 1).or_else(|| value("retry-after", 1000))
    });
    let Some((value, unit)) = said else {
        return Wait::AtLeast(Duration::ZERO);
    };
    // As gRPC says: what is negative, or no number, asks for no further attempt.
    let number = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    number.map_or(Wait::Never, |number| {
        Wait::AtLeast(Duration::from_millis(number.saturating_mul(unit)))
    })
}

/// The pause before the next attempt: exponential, with full jitter.
fn backoff(attempts_before: u8, dice: f64) -> Duration {
    let top = BASE.saturating_mul(1 << attempts_before.min(8)).min(CAP);
    top.mul_f64(dice.clamp(0.0, 1.0))
}

/// Attempts of a call in all, the first included.
pub(super) const ATTEMPTS_MAX: u8 = 5;
/// Longest first pause.
const BASE: Duration = Duration::from_millis(25);
/// Longest pause.
const CAP: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crossing::testing;
    use crate::model::{Ending, MetadataBuilder, ReplyBody};

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn relay(reason: Reason, retry: Retry) -> Failure {
        Failure::Relay(Box::new(RelayError::new(reason, retry, "test")))
    }

    fn service(trailers: &[(&str, &str)]) -> Failure {
        let mut block = MetadataBuilder::new();
        for (name, value) in trailers {
            block.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        Failure::Service(Box::new(Part {
            head: None,
            body: ReplyBody::default(),
            end: Some(Ending {
                status: Code::Unavailable,
                trailers: block.build(),
                ..Ending::default()
            }),
        }))
    }

    fn request(idempotent: bool, attempt: u8) -> Request {
        let mut request = testing::request("/im.Echo/Say");
        request.hints.idempotent = idempotent;
        request.facts.attempt = attempt;
        request.body.end = true;
        request
    }

    /// The verdict on a failure of a call with 1 s left, with the highest dice: pause in ms, or why not.
    fn check(failure: &Failure, request: &Request) -> Result<u128, Option<&'static str>> {
        let now = start();
        let case = Case {
            request: Ok(request),
            allowed: true,
            now,
            limit: Some(now + Duration::from_secs(1)),
        };
        let verdict = decide(failure, &case, 1.0);
        verdict
            .map(|next| (next.due - now).as_millis())
            .map_err(|outcome| outcome.map(RetryOutcome::as_str))
    }

    // C-T1
    #[test]
    fn only_what_no_service_saw_or_what_is_idempotent_is_tried_again() {
        let marked = request(true, 0);
        let plain = request(false, 0);
        for (reason, retry, idempotent, expected) in [
            (Reason::Limited, Retry::Safe, false, Ok(25)),
            (Reason::ServiceUnavailable, Retry::Safe, false, Ok(25)),
            (Reason::LinkLost, Retry::Ambiguous, true, Ok(25)),
            (Reason::ServiceLost, Retry::Ambiguous, true, Ok(25)),
            (Reason::LinkLost, Retry::Ambiguous, false, Err(Some("not_idempotent"))),
            (
                Reason::ServiceLost,
                Retry::Ambiguous,
                false,
                Err(Some("not_idempotent")),
            ),
            (Reason::DeadlineExceeded, Retry::Ambiguous, true, Err(None)),
            (Reason::NoRoute, Retry::Never, true, Err(None)),
            (Reason::UnitAway, Retry::Never, true, Err(Some("away"))),
        ] {
            let request = if idempotent { &marked } else { &plain };
            assert_eq!(check(&relay(reason, retry), request), expected, "{reason} {retry:?}");
        }
        assert_eq!(check(&service(&[]), &marked), Ok(25));
        assert_eq!(check(&service(&[]), &plain), Err(Some("not_idempotent")));
    }

    // C-L3, C-T3: nobody waits for nothing, and only once.
    #[test]
    fn what_a_broken_way_lost_unseen_goes_out_again_at_once() {
        for reason in [Reason::Draining, Reason::LinkLost, Reason::UnitAway] {
            let failure = relay(reason, Retry::Safe);
            assert_eq!(check(&failure, &request(false, 0)), Ok(0), "{reason}");
            assert_eq!(check(&failure, &request(false, 1)), Ok(50), "{reason}");
        }
    }

    // C-T3
    #[test]
    fn there_are_five_attempts_in_all_with_growing_pauses() {
        let failure = relay(Reason::ServiceLost, Retry::Ambiguous);
        let pauses: Vec<_> = (0..4).map(|attempt| check(&failure, &request(true, attempt))).collect();
        assert_eq!(pauses, [Ok(25), Ok(50), Ok(100), Ok(200)]);
        assert_eq!(check(&failure, &request(true, 4)), Err(Some("attempts_spent")));
    }

    // C-T4
    #[test]
    fn a_service_that_asks_for_time_gets_it_and_never_means_never() {
        let marked = request(true, 0);
        for (name, value, expected) in [
            ("grpc-retry-pushback-ms", "700", Ok(700)),
            ("grpc-retry-pushback-ms", "3", Ok(25)),
            ("grpc-retry-pushback-ms", "1000", Err(Some("deadline"))),
            ("grpc-retry-pushback-ms", "-1", Err(Some("pushed_back"))),
            ("grpc-retry-pushback-ms", "soon", Err(Some("pushed_back"))),
            ("retry-after", "0", Ok(25)),
            ("retry-after", "1", Err(Some("deadline"))),
            ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT", Err(Some("pushed_back"))),
        ] {
            assert_eq!(check(&service(&[(name, value)]), &marked), expected, "{name}: {value}");
        }
        let mut error = RelayError::new(Reason::Limited, Retry::Safe, "test");
        error.pushback = Some(Duration::from_millis(300));
        assert_eq!(check(&Failure::Relay(Box::new(error)), &marked), Ok(300));
    }

    // C-T5, C-T7: each reason has its word.
    #[test]
    fn what_keeps_a_call_from_being_tried_again_is_named() {
        let failure = relay(Reason::LinkLost, Retry::Ambiguous);
        let verdict = |request, allowed| {
            let now = start();
            let limit = Some(now);
            let case = Case {
                request,
                allowed,
                now,
                limit,
            };
            decide(&failure, &case, 0.5).unwrap_err().unwrap().as_str()
        };
        let whole = request(true, 0);
        let mut open = request(true, 0);
        open.body.end = false;
        assert_eq!(verdict(Err(RetryOutcome::TooLarge), true), "too_large");
        assert_eq!(verdict(Err(RetryOutcome::ReplyStarted), true), "reply_started");
        assert_eq!(verdict(Ok(&open), true), "request_open");
        assert_eq!(verdict(Ok(&whole), false), "switched_off");
        assert_eq!(verdict(Ok(&whole), true), "deadline");
    }

    proptest! {
        // C-T3: full jitter between nothing and the top, which doubles up to the cap.
        #[test]
        fn pauses_stay_within_their_bounds(attempt in any::<u8>(), dice in 0.0_f64..1.0) {
            let pause = backoff(attempt, dice);
            prop_assert!(pause <= CAP && pause <= BASE * (1 << attempt.min(10)));
            prop_assert_eq!(backoff(attempt, 0.0), Duration::ZERO);
            prop_assert!(backoff(attempt, 1.0) >= BASE);
        }

        // V2
        #[test]
        fn no_attempt_begins_when_the_time_is_over(
            left in 0_u64..400, pushback in prop::option::of(0_u64..400), attempt in 0_u8..4, dice in 0.0_f64..1.0,
        ) {
            let mut error = RelayError::new(Reason::Limited, Retry::Safe, "test");
            error.pushback = pushback.map(Duration::from_millis);
            let now = start();
            let limit = now + Duration::from_millis(left);
            let request = request(false, attempt);
            let case = Case { request: Ok(&request), allowed: true, now, limit: Some(limit) };
            if let Ok(next) = decide(&Failure::Relay(Box::new(error)), &case, dice) {
                prop_assert!(next.due < limit);
                prop_assert!(next.due >= now + pushback.map(Duration::from_millis).unwrap_or_default());
            }
        }
    }
}
