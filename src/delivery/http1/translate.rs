//! A unary call as an HTTP/1.1 exchange, and the answer as a reply. Pure.
//!
//! ```text
//! call /im.Echo/Say, message      ->  POST /im.Echo/Say HTTP/1.1, message as the body
//! content-type application/grpc   ->  application/x-protobuf; application/grpc+json -> application/json
//! metadata                        ->  header fields, without those that concern a connection
//! 200..299                        ->  OK; else the gRPC code that stands for the HTTP status (google.rpc.Code)
//! response body                   ->  the message, whatever the status
//! ```

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};

use crate::model::{Code, Metadata, MetadataBuilder, Reason, RelayError, Request, Retry};
use crate::wire::envelope;
use crate::wire::status::TimeoutText;

/// Fields that concern one connection or are set here.
const OWN_FIELDS: [&[u8]; 9] = [
    b"connection",
    b"content-length",
    b"host",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// The exchange for a call; `message` is its body without framing.
pub(super) fn request(
    call: &Request,
    authority: &str,
    message: Bytes,
    now: Instant,
) -> Result<hyper::Request<Full<Bytes>>, RelayError> {
    let bad = |detail: String| RelayError::new(Reason::BadInput, Retry::Never, detail);
    let mut request = hyper::Request::new(Full::new(message));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = call
        .path
        .as_ref()
        .try_into()
        .map_err(|_| bad("the path cannot be used in HTTP/1.1".to_owned()))?;
    let fields = request.headers_mut();
    for (name, value) in envelope::carried(&call.metadata).iter() {
        if OWN_FIELDS.contains(&name) {
            continue;
        }
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            let name = String::from_utf8_lossy(name);
            return Err(bad(format!("metadata field {name} cannot be a field of HTTP/1.1")));
        };
        fields.append(name, value);
    }
    fields.insert(CONTENT_TYPE, content_type(&call.metadata));
    let host = std::str::from_utf8(&call.authority)
        .ok()
        .filter(|host| !host.is_empty());
    insert(fields, HOST, host.unwrap_or(authority).as_bytes());
    if let Some(deadline) = call.deadline {
        let left = TimeoutText::new(deadline.saturating_duration_since(now));
        insert(fields, HeaderName::from_static("grpc-timeout"), left.as_bytes());
    }
    if call.facts.attempt > 0 {
        let attempts = call.facts.attempt.to_string();
        insert(
            fields,
            HeaderName::from_static("grpc-previous-rpc-attempts"),
            attempts.as_bytes(),
        );
    }
    if let Some(epoch) = call.facts.owner_epoch {
        insert(
            fields,
            HeaderName::from_static("strait-owner-epoch"),
            epoch.to_string().as_bytes(),
        );
    }
    if let Some(source) = &call.facts.source {
        insert(
            fields,
            HeaderName::from_static("strait-source-geo"),
            source.geo.as_str().as_bytes(),
        );
        insert(
            fields,
            HeaderName::from_static("strait-source-unit"),
            source.unit.as_str().as_bytes(),
        );
        if let Some(service) = &source.service {
            insert(
                fields,
                HeaderName::from_static("strait-source-service"),
                service.as_str().as_bytes(),
            );
        }
    }
    Ok(request)
}

/// Status, text and fields of an answer.
pub(super) fn answer(status: hyper::StatusCode, fields: &HeaderMap) -> (Code, Bytes, Metadata) {
    let mut metadata = MetadataBuilder::new();
    for (name, value) in fields {
        let name = name.as_str().as_bytes();
        if !OWN_FIELDS.contains(&name) {
            // What gRPC does not allow, such as a value that is too long, is left out.
            let _ = metadata.push(name, value.as_bytes());
        }
    }
    let metadata = metadata.build();
    // A service that knows gRPC may say more than HTTP can.
    let (code, text) = envelope::status_of(&metadata).unwrap_or_else(|| {
        let code = code_of(status.as_u16());
        let text = if code == Code::Ok {
            String::new()
        } else {
            format!("HTTP {status}")
        };
        (code, text.into())
    });
    (code, text, envelope::carried(&metadata))
}

/// The gRPC code that stands for an HTTP status, as `google.rpc.Code` pairs them.
fn code_of(status: u16) -> Code {
    match status {
        200..300 => Code::Ok,
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        412 => Code::FailedPrecondition,
        416 => Code::OutOfRange,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        500 => Code::Internal,
        501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}

/// The type of the message inside of the framing.
fn content_type(metadata: &Metadata) -> HeaderValue {
    // A message that is pushed says what its body is as CloudEvents do.
    let kind = metadata.value("content-type").or(metadata.value("ce-datacontenttype"));
    let kind = kind.unwrap_or_default();
    let inner = match kind.strip_prefix(b"application/grpc") {
        Some(b"" | b"+proto") => b"application/x-protobuf",
        Some(b"+json") => b"application/json".as_slice(),
        None if !kind.is_empty() => kind,
        _ => b"application/octet-stream",
    };
    HeaderValue::from_bytes(inner).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

fn insert(fields: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    // Names, timeouts and authorities that came this far are legal values.
    if let Ok(value) = HeaderValue::from_bytes(value) {
        fields.insert(name, value);
    }
}

/// What remains of a deadline; `None` without one.
pub(super) fn is_over(call: &Request, now: Instant) -> bool {
    call.deadline
        .is_some_and(|deadline| deadline.saturating_duration_since(now) == Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crossing::testing;

    fn check(status: u16, fields: &[(&str, &str)], code: Code, text: &str) {
        let fields: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        let (found, message, _) = answer(hyper::StatusCode::from_u16(status).unwrap(), &fields);
        assert_eq!((found, &message[..]), (code, text.as_bytes()), "{status}");
    }

    // C-E1
    #[test]
    fn statuses_become_the_codes_that_stand_for_them() {
        check(200, &[], Code::Ok, "");
        check(204, &[], Code::Ok, "");
        check(404, &[], Code::NotFound, "HTTP 404 Not Found");
        check(429, &[], Code::ResourceExhausted, "HTTP 429 Too Many Requests");
        check(503, &[], Code::Unavailable, "HTTP 503 Service Unavailable");
        check(302, &[], Code::Unknown, "HTTP 302 Found");
        check(
            200,
            &[("grpc-status", "9"), ("grpc-message", "not%20now")],
            Code::FailedPrecondition,
            "not now",
        );
    }

    #[test]
    fn fields_of_a_connection_stay_where_they_are_and_the_others_go_along() {
        let mut call = testing::request("/im.Echo/Say");
        let mut metadata = MetadataBuilder::new();
        for (name, value) in [
            ("te", "trailers"),
            ("content-type", "application/grpc+json"),
            ("x-a", "1"),
            ("x-a", "2"),
        ] {
            metadata.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        call.metadata = metadata.build();
        call.deadline = Some(call.received + Duration::from_secs(3));
        call.facts.attempt = 2;
        let request = request(&call, "h:1", Bytes::new(), call.received).unwrap();
        let fields = request.headers();
        assert_eq!(request.uri(), "/im.Echo/Say");
        assert_eq!(fields.get("te"), None);
        assert_eq!(fields.get("content-type").unwrap(), "application/json");
        assert_eq!(fields.get("host").unwrap(), "h:1");
        assert_eq!(fields.get_all("x-a").iter().count(), 2);
        assert_eq!(fields.get("grpc-previous-rpc-attempts").unwrap(), "2", "C-T2");
        let timeout = fields.get("grpc-timeout").unwrap().as_bytes();
        assert_eq!(
            crate::wire::status::parse_timeout(timeout).unwrap(),
            Duration::from_secs(3)
        );
    }
}
