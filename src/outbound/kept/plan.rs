//! Whether a call whose unit is away is kept for it, and how (C-P1, C-P2). Pure.
//!
//! # Invariants
//! - P4. Only a call that no service of its unit can have seen is kept: its error says so, and so did those of all attempts before.
//! - P5. A call that is kept has an id by which its unit recognises it, one key, one message and a small body.

use crate::model::{
    Envelope, Key, Mode, OnFailure, Reason, RelayError, Request, Retry, RoutePolicy, SMALL_BODY_BYTES, WhileAway,
};
use crate::peer::Others;
use crate::wire::kept::is_one_message;

/// What is done with a call whose unit is away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Plan {
    /// The service of this unit executes it, then it is stored.
    Execute,
    /// It is stored.
    Park,
}

/// Why a call is not kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Not {
    /// Nothing is wrong with it: its unit may not be away, or no setting wants it kept.
    Meant,
    /// Its request has not ended; it is looked at again when it has.
    Yet,
    /// It cannot be: what to do about it.
    Possible(&'static str),
    /// Its unit does not count as away: others reach it.
    Reached(Others),
}

/// What is wanted of a call, by the settings and its caller; `None`: that it fails.
pub(super) fn wanted(away: WhileAway, request: &Request) -> Option<Plan> {
    match away.on_failure.wished(request.hints.on_failure) {
        OnFailure::Fail => None,
        OnFailure::Local => Some(Plan::Execute),
        OnFailure::Park => Some(Plan::Park),
    }
}

/// Whether an error says that the unit of the call is away, and that it has not seen the call.
pub(super) fn is_away(error: &RelayError) -> bool {
    match error.reason {
        Reason::UnitAway => error.retry != Retry::Ambiguous,
        // The link broke before anything of the call was on it.
        Reason::LinkLost => error.retry == Retry::Safe,
        _ => false,
    }
}

/// Decides about a call that ended with such an error. `was_seen`: an attempt before may have reached a service.
///
/// # Errors
/// [`Not`].
pub(super) fn decide(policy: &RoutePolicy, request: &Request, was_seen: bool) -> Result<Plan, Not> {
    let plan = wanted(policy.away, request).ok_or(Not::Meant)?;
    // What is replayed is stored already.
    if request.facts.mode != Mode::Usual {
        return Err(Not::Meant);
    }
    if policy.reads || request.hints.unit.is_some() || request.hints.keys.is_empty() {
        return Err(Not::Meant);
    }
    if was_seen {
        return Err(Not::Possible(
            "its unit may have executed it before it went away; make the call again with the same idempotency-key",
        ));
    }
    check_id(request)?;
    check_body(request)?;
    Ok(plan)
}

/// The id by which its unit recognises a call that comes twice.
pub(super) fn id_of(request: &Request) -> Option<&[u8]> {
    request.metadata.value(ID).filter(|id| !id.is_empty())
}

fn check_id(request: &Request) -> Result<(), Not> {
    let Some(id) = id_of(request) else {
        return Err(Not::Possible(
            "it has no idempotency-key, by which its unit would recognise it; put an id of its own into the metadata of each call",
        ));
    };
    if id.len() > ID_BYTES_MAX || !id.iter().all(|byte| matches!(byte, 0x21..=0x7e)) {
        return Err(Not::Possible(
            "its idempotency-key is no text of 1 to 255 visible ASCII characters",
        ));
    }
    Ok(())
}

fn check_body(request: &Request) -> Result<(), Not> {
    let body = &request.body;
    if body.chunk.len() > SMALL_BODY_BYTES {
        return Err(Not::Possible("its body is larger than 16 KiB"));
    }
    let is_grpc = request.envelope == Envelope::Grpc;
    if !body.end {
        // More than one message: a stream.
        return Err(if is_grpc && is_one_message(&body.chunk) == Some(false) {
            STREAM
        } else {
            Not::Yet
        });
    }
    if is_grpc && is_one_message(&body.chunk) != Some(true) {
        return Err(STREAM);
    }
    Ok(())
}

/// The key of a call that routes it, of this dimension.
pub(super) fn key_of<'a>(request: &'a Request, dimension: &str) -> Option<&'a Key> {
    let keys = request.hints.keys.iter();
    keys.clone().find(|key| key.dimension == dimension.as_bytes())
}

/// Streams are never kept.
pub(super) const STREAM: Not = Not::Possible("it is a stream, and only unary calls are kept");
/// Name of the field with the id of a call.
const ID: &str = "idempotency-key";
const ID_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::crossing::testing;
    use crate::model::{MetadataBuilder, Name};

    fn policy(on_failure: OnFailure) -> RoutePolicy {
        let mut policy = RoutePolicy::default();
        policy.away.on_failure = on_failure;
        policy
    }

    /// A gRPC call with key and id.
    fn request(body: &'static [u8], id: Option<&str>) -> Request {
        let mut request = testing::request("/im.Room/Post");
        let mut fields = MetadataBuilder::new();
        if let Some(id) = id {
            fields.push(ID.as_bytes(), id.as_bytes()).unwrap();
        }
        request.metadata = fields.build();
        request.envelope = Envelope::Grpc;
        request.hints.keys = vec![Key {
            dimension: "uid".into(),
            key: "1".into(),
        }];
        request.body.chunk = Bytes::from_static(body);
        request.body.end = true;
        request
    }

    const BODY: &[u8] = b"\0\0\0\0\x02hi";

    // P4
    #[test]
    fn only_errors_that_prove_that_no_service_saw_the_call_count_as_away() {
        for (reason, retry, expected) in [
            (Reason::UnitAway, Retry::Never, true),
            (Reason::UnitAway, Retry::Safe, true),
            (Reason::UnitAway, Retry::Ambiguous, false),
            (Reason::LinkLost, Retry::Safe, true),
            (Reason::LinkLost, Retry::Ambiguous, false),
            (Reason::ServiceLost, Retry::Ambiguous, false),
            (Reason::ServiceUnavailable, Retry::Safe, false),
            (Reason::Limited, Retry::Safe, false),
            (Reason::Moving, Retry::Safe, false),
            (Reason::WrongUnit, Retry::Safe, false),
            (Reason::Draining, Retry::Safe, false),
            (Reason::DeadlineExceeded, Retry::Ambiguous, false),
            (Reason::NoRoute, Retry::Never, false),
        ] {
            let error = RelayError::new(reason, retry, "test");
            assert_eq!(is_away(&error), expected, "{reason} {retry:?}");
        }
    }

    // C-P1, C-P2
    #[test]
    fn the_settings_decide_and_a_caller_can_have_its_call_parked_instead_of_executed() {
        for (settings, wish, expected) in [
            (OnFailure::Fail, OnFailure::Park, None),
            (OnFailure::Fail, OnFailure::Local, None),
            (OnFailure::Park, OnFailure::Fail, Some(Plan::Park)),
            (OnFailure::Park, OnFailure::Local, Some(Plan::Park)),
            (OnFailure::Local, OnFailure::Fail, Some(Plan::Execute)),
            (OnFailure::Local, OnFailure::Park, Some(Plan::Park)),
        ] {
            let mut request = request(BODY, Some("7"));
            request.hints.on_failure = wish;
            let found = decide(&policy(settings), &request, false);
            assert_eq!(found, expected.ok_or(Not::Meant), "{settings:?} {wish:?}");
        }
    }

    // P5
    #[test]
    fn a_call_without_id_or_key_and_one_that_is_no_single_small_message_is_not_kept() {
        let local = policy(OnFailure::Local);
        let check = |request: &Request| decide(&local, request, false);
        let said = |request: &Request| match check(request) {
            Err(Not::Possible(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(said(&request(BODY, None)).contains("no idempotency-key"));
        assert!(said(&request(BODY, Some(""))).contains("no idempotency-key"));
        assert!(said(&request(BODY, Some("a b"))).contains("visible ASCII"));
        assert!(said(&request(b"\0\0\0\0\x02hi\0\0\0\0\0", Some("7"))).contains("stream"));
        assert!(said(&request(b"\0\0\0\0\x03hi", Some("7"))).contains("stream"));
        let large: &'static [u8] = Box::leak(vec![0; SMALL_BODY_BYTES + 1].into());
        assert!(said(&request(large, Some("7"))).contains("16 KiB"));
        let seen = decide(&local, &request(BODY, Some("7")), true);
        assert!(matches!(seen, Err(Not::Possible(text)) if text.contains("may have executed it")));
        let mut open = request(BODY, Some("7"));
        open.body.end = false;
        assert_eq!(check(&open), Err(Not::Yet));
        open.body.chunk = Bytes::from_static(b"\0\0\0\0\x02hi\0");
        assert!(said(&open).contains("stream"));
        let mut without_key = request(BODY, Some("7"));
        without_key.hints.keys.clear();
        assert_eq!(check(&without_key), Err(Not::Meant));
        let mut to_unit = request(BODY, Some("7"));
        to_unit.hints.unit = Some(Name::new("b").unwrap());
        assert_eq!(check(&to_unit), Err(Not::Meant));
        let mut replayed = request(BODY, Some("7"));
        replayed.facts.mode = Mode::Replay;
        assert_eq!(check(&replayed), Err(Not::Meant));
        let reads = RoutePolicy { reads: true, ..local };
        assert_eq!(decide(&reads, &request(BODY, Some("7")), false), Err(Not::Meant));
    }
}
