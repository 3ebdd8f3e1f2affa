//! From a header block to a request.

use std::time::Instant;

use bytes::Bytes;

use crate::model::{
    Envelope, Facts, Key, Name, OnFailure, Reason, RelayError, Request, RequestBody, Retry, RouteHints, Source,
};
use crate::wire::http2::Head;
use crate::wire::status;

/// Makes the request that a header block and the body bytes that came with it stand for.
pub(super) fn parse(
    head: Head,
    body: RequestBody,
    received: Instant,
    source: Option<&Source>,
) -> Result<Request, RelayError> {
    if head.is_too_large {
        return Err(error(
            Reason::TooLarge,
            "the request's metadata is over this relay's limit; send less metadata",
        ));
    }
    if !head.is_post {
        return Err(bad("only POST requests are carried; this is not a gRPC call"));
    }
    if !head.path.starts_with(b"/") {
        return Err(bad("the path must have the form /package.Service/Method"));
    }
    let mut hints = RouteHints::default();
    let mut deadline = None;
    let block = head.apart.as_bytes();
    for (name, value) in head.apart.iter() {
        match name {
            b"grpc-timeout" => {
                let timeout = status::parse_timeout(value).map_err(|error| bad(error.to_string()))?;
                deadline = received.checked_add(timeout);
            }
            b"strait-key" => hints.keys.push(key(block, value)?),
            b"strait-unit" => hints.unit = Some(parse_name("strait-unit", value)?),
            b"strait-token" => hints.token = Some(tokens(hints.token.take(), block, value)),
            b"strait-class" => hints.class = Some(parse_name("strait-class", value)?),
            b"strait-idempotent" => {
                hints.idempotent = match value {
                    b"true" => true,
                    b"false" => false,
                    _ => return Err(bad("strait-idempotent must be true or false")),
                }
            }
            b"strait-on-failure" => {
                hints.on_failure = match value {
                    b"fail" => OnFailure::Fail,
                    b"park" => OnFailure::Park,
                    b"local" => OnFailure::Local,
                    _ => return Err(bad("strait-on-failure must be fail, park or local")),
                }
            }
            // `te` is of this hop; other `strait-` fields are a relay's to set (G3).
            _ => {}
        }
    }
    Ok(Request {
        path: head.path,
        authority: head.authority,
        envelope: Envelope::Grpc,
        metadata: head.fields,
        hints,
        facts: Facts {
            source: source.cloned(),
            ..Facts::default()
        },
        received,
        deadline,
        body,
    })
}

/// Whether errors go into trailers; else into the HTTP status.
pub(super) fn is_grpc(head: &Head) -> bool {
    head.fields
        .value("content-type")
        .is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

fn key(block: &Bytes, value: &[u8]) -> Result<Key, RelayError> {
    let at = value.iter().position(|byte| *byte == b'=');
    let parts = at.and_then(|at| value.split_at_checked(at));
    let Some((dimension, [b'=', key @ ..])) = parts else {
        return Err(bad("strait-key must have the form dimension=key, such as uid=4711"));
    };
    let is_name = (1..=255).contains(&dimension.len())
        && dimension
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !is_name || key.is_empty() {
        return Err(bad(
            "strait-key needs a dimension of A-Z a-z 0-9 . _ - and a key that is not empty",
        ));
    }
    Ok(Key {
        dimension: block.slice_ref(dimension),
        key: block.slice_ref(key),
    })
}

/// Fields of one name are one list, as HTTP says.
fn tokens(before: Option<Bytes>, block: &Bytes, value: &[u8]) -> Bytes {
    match before {
        Some(before) => [&before[..], b",", value].concat().into(),
        None => block.slice_ref(value),
    }
}

fn parse_name(field: &str, value: &[u8]) -> Result<Name, RelayError> {
    let text = std::str::from_utf8(value).map_err(|_| bad(format!("{field} must be a name")))?;
    Name::new(text).map_err(|error| bad(format!("{field} is not a name: {error}")))
}

fn bad(detail: impl Into<String>) -> RelayError {
    error(Reason::BadInput, detail)
}

fn error(reason: Reason, detail: impl Into<String>) -> RelayError {
    RelayError::new(reason, Retry::Never, detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Metadata, MetadataBuilder};

    fn block(fields: &[(&str, &str)]) -> Metadata {
        let mut builder = MetadataBuilder::new();
        for (name, value) in fields {
            builder.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.build()
    }

    fn read(apart: &[(&str, &str)]) -> Result<Request, RelayError> {
        let head = Head {
            path: Bytes::from_static(b"/im.Echo/Say"),
            authority: Bytes::new(),
            fields: block(&[("content-type", "application/grpc+proto")]),
            apart: block(apart),
            status: 0,
            is_post: true,
            is_too_large: false,
        };
        parse(
            head,
            RequestBody::default(),
            tokio::time::Instant::now().into_std(),
            None,
        )
    }

    #[test]
    fn routing_fields_become_hints_and_nothing_else_passes() {
        let request = read(&[
            ("strait-key", "uid=a=b"),
            ("strait-key", "im.conversation=c:1"),
            ("strait-unit", "b"),
            ("strait-token", "t"),
            ("strait-token", "u"),
            ("strait-class", "gold"),
            ("strait-idempotent", "true"),
            ("strait-on-failure", "park"),
            ("strait-source-unit", "forged"),
            ("grpc-timeout", "250m"),
            ("te", "trailers"),
        ])
        .unwrap();
        assert_eq!(request.hints.keys.len(), 2);
        assert_eq!(&request.hints.keys[0].key[..], b"a=b");
        assert_eq!(&request.hints.keys[1].dimension[..], b"im.conversation");
        assert_eq!(request.hints.unit.unwrap().as_str(), "b");
        assert_eq!(request.hints.token.unwrap(), "t,u");
        assert_eq!(request.hints.class.unwrap().as_str(), "gold");
        assert!(request.hints.idempotent);
        assert_eq!(request.hints.on_failure, OnFailure::Park);
        assert_eq!(request.facts.source, None);
        assert_eq!(request.metadata.len(), 1);
        assert_eq!(request.deadline.unwrap() - request.received, Duration::from_millis(250));
    }

    // O-S4
    #[test]
    fn malformed_routing_fields_are_refused_with_what_is_allowed() {
        for (name, value) in [
            ("strait-key", "4711"),
            ("strait-key", "=4711"),
            ("strait-key", "uid="),
            ("strait-key", "u/id=1"),
            ("strait-unit", "a/b"),
            ("strait-class", ""),
            ("strait-idempotent", "yes"),
            ("strait-on-failure", "retry"),
            ("grpc-timeout", "5"),
            ("grpc-timeout", "999999999S"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!(error.reason, Reason::BadInput, "{name}: {value}");
            assert!(error.detail.contains(name), "{}", error.detail);
        }
    }
}
