//! Errors made by relays, as gRPC and HTTP say them (C-G2), and gRPC's way to write a timeout.
//!
//! An error of a relay always carries `strait-error: <reason>; unit=<unit>; relay=<relay>`; sessions take
//! that field out of what services and clients send, so nobody else can.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::envelope::percent_encode;
use crate::model::{Code, Metadata, MetadataBuilder, Reason, RelayError};

/// The gRPC status of a relay's error.
pub fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::BadInput => Code::InvalidArgument,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::Draining
        | Reason::LinkLost
        | Reason::Moving
        | Reason::NoLease
        | Reason::Parked
        | Reason::RoutesAway
        | Reason::ServiceLost
        | Reason::ServiceUnavailable
        | Reason::UnitAway
        | Reason::WrongUnit => Code::Unavailable,
        Reason::Internal => Code::Internal,
        Reason::Limited | Reason::Shed | Reason::TooLarge => Code::ResourceExhausted,
        Reason::Loop => Code::Aborted,
        Reason::NoRoute | Reason::UnknownService | Reason::UnknownTopic | Reason::UnknownUnit => Code::NotFound,
        Reason::Policy => Code::PermissionDenied,
        Reason::Undelivered => Code::FailedPrecondition,
    }
}

/// The HTTP status of a relay's error, for calls that are not gRPC.
pub fn http_status_of(reason: Reason) -> u16 {
    match reason {
        Reason::BadInput => 400,
        Reason::DeadlineExceeded => 504,
        Reason::Draining
        | Reason::Moving
        | Reason::NoLease
        | Reason::Parked
        | Reason::RoutesAway
        | Reason::ServiceUnavailable
        | Reason::UnitAway => 503,
        Reason::Internal => 500,
        Reason::Limited | Reason::Shed => 429,
        Reason::LinkLost | Reason::ServiceLost => 502,
        Reason::Loop => 508,
        Reason::NoRoute | Reason::UnknownService | Reason::UnknownTopic | Reason::UnknownUnit => 404,
        Reason::Policy => 403,
        Reason::TooLarge => 413,
        Reason::Undelivered => 410,
        Reason::WrongUnit => 421,
    }
}

/// Trailers that end a gRPC reply whose head is already out.
pub fn trailers(error: &RelayError) -> Metadata {
    let mut fields = MetadataBuilder::new();
    put_grpc(&mut fields, error);
    fields.build()
}

/// The only fields of a gRPC reply that has nothing but an error.
pub fn trailers_only(error: &RelayError) -> Metadata {
    let mut fields = MetadataBuilder::new();
    put(&mut fields, b"content-type", b"application/grpc");
    put_grpc(&mut fields, error);
    fields.build()
}

/// Status, fields and text of an HTTP reply that has nothing but an error.
pub fn http_reply(error: &RelayError) -> (u16, Metadata, Bytes) {
    let mut fields = MetadataBuilder::new();
    put(&mut fields, b"content-type", b"text/plain; charset=utf-8");
    put(&mut fields, b"strait-error", place_text(error).as_bytes());
    put_ticket(&mut fields, error);
    if let Some(wait) = error.pushback {
        let seconds = wait.as_millis().div_ceil(1000).to_string();
        put(&mut fields, b"retry-after", seconds.as_bytes());
    }
    (
        http_status_of(error.reason),
        fields.build(),
        format!("{error}\n").into(),
    )
}

/// Why a `grpc-timeout` cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("grpc-timeout must be 1 to 8 digits and one of H M S m u n, such as 250m")]
pub struct TimeoutError;

/// Reads a `grpc-timeout`.
///
/// # Errors
/// [`TimeoutError`] if it has another form.
pub fn parse_timeout(text: &[u8]) -> Result<Duration, TimeoutError> {
    let (unit, digits) = text.split_last().ok_or(TimeoutError)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(TimeoutError);
    }
    let count = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(count * 3600)),
        b'M' => Ok(Duration::from_secs(count * 60)),
        b'S' => Ok(Duration::from_secs(count)),
        b'm' => Ok(Duration::from_millis(count)),
        b'u' => Ok(Duration::from_micros(count)),
        b'n' => Ok(Duration::from_nanos(count)),
        _ => Err(TimeoutError),
    }
}

/// A `grpc-timeout` as text, without an allocation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeoutText {
    bytes: [u8; 9],
    start: usize,
}

impl TimeoutText {
    /// The longest timeout of the form that is not longer than `left` (C-D1: never more than what remains).
    pub fn new(left: Duration) -> Self {
        let nanos = left.as_nanos();
        let units: [(u8, u128); 6] = [
            (b'n', 1),
            (b'u', 1_000),
            (b'm', 1_000_000),
            (b'S', 1_000_000_000),
            (b'M', 60_000_000_000),
            (b'H', 3_600_000_000_000),
        ];
        let (unit, count) = units
            .into_iter()
            .map(|(unit, size)| (unit, nanos / size))
            .find(|(_, count)| *count <= COUNT_MAX)
            .unwrap_or((b'H', COUNT_MAX));
        let mut text = Self {
            bytes: [unit; 9],
            start: 8,
        };
        let mut rest = count;
        for (index, place) in text.bytes.iter_mut().enumerate().take(8).rev() {
            *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            text.start = index;
            if rest == 0 {
                break;
            }
        }
        text
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

fn put_grpc(fields: &mut MetadataBuilder, error: &RelayError) {
    let code = code_of(error.reason);
    put(fields, b"grpc-status", code.number().to_string().as_bytes());
    let text = clip(&error.detail);
    put(fields, b"grpc-message", &percent_encode(text.as_bytes()));
    put(fields, b"strait-error", place_text(error).as_bytes());
    if let Some(token) = &error.token {
        put(fields, b"strait-token", token);
    }
    put_ticket(fields, error);
    if let Some(wait) = error.pushback {
        put(
            fields,
            b"grpc-retry-pushback-ms",
            wait.as_millis().to_string().as_bytes(),
        );
    }
    let status = status_of(error, code, text).encode_to_vec();
    put(fields, b"grpc-status-details-bin", &base64(&status));
}

/// Names are constants and values clean, so nothing is ever left out.
fn put(fields: &mut MetadataBuilder, name: &[u8], value: &[u8]) {
    let result = fields.push(name, value);
    debug_assert!(result.is_ok(), "a field of a relay's error is malformed");
}

fn put_ticket(fields: &mut MetadataBuilder, error: &RelayError) {
    if let Some(ticket) = &error.ticket {
        put(fields, b"strait-ticket", ticket.to_string().as_bytes());
    }
}

fn place_text(error: &RelayError) -> String {
    let mut text = error.reason.as_str().to_owned();
    if let Some(place) = &error.place {
        text.push_str("; unit=");
        text.push_str(place.unit.as_str());
        text.push_str("; relay=");
        text.push_str(place.relay.as_str());
    }
    text
}

fn status_of(error: &RelayError, code: Code, text: &str) -> Status {
    let mut metadata = Vec::new();
    let mut tell = |key: &str, value: String| {
        metadata.push(Entry {
            key: key.to_owned(),
            value,
        });
    };
    if let Some(place) = &error.place {
        tell("unit", place.unit.to_string());
        tell("relay", place.relay.to_string());
    }
    if let Some((unit, epoch)) = &error.owner {
        tell("owner", unit.to_string());
        tell("epoch", epoch.to_string());
    }
    if let Some(ticket) = &error.ticket {
        tell("ticket", ticket.to_string());
    }
    let info = ErrorInfo {
        reason: error.reason.as_str().to_ascii_uppercase(),
        domain: "strait".to_owned(),
        metadata,
    };
    let mut details = vec![Any::new("google.rpc.ErrorInfo", &info)];
    if let Some(wait) = error.pushback {
        let retry = RetryInfo {
            retry_delay: Some(Span {
                seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(wait.subsec_nanos()).unwrap_or(0),
            }),
        };
        details.push(Any::new("google.rpc.RetryInfo", &retry));
    }
    Status {
        code: i32::from(code.number()),
        message: text.to_owned(),
        details,
    }
}

fn clip(text: &str) -> &str {
    let end = (0..=text.len().min(MESSAGE_BYTES_MAX))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Base 64 without padding, as `-bin` fields have it.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let group = piece
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
        for shift in [18, 12, 6, 0].into_iter().take(piece.len() + 1) {
            let digit = usize::try_from((group >> shift) & 63).unwrap_or(0);
            out.extend(DIGITS.get(digit));
        }
    }
    out
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Text for a developer.
    #[prost(string, tag = "2")]
    pub message: String,
    /// What else is known.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// `type.googleapis.com/` and the type's name.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message, encoded.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl Any {
    fn new(name: &str, message: &impl Message) -> Self {
        Self {
            type_url: format!("type.googleapis.com/{name}"),
            value: message.encode_to_vec(),
        }
    }
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorInfo {
    /// [`Reason::as_str`] in capitals.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// `strait`.
    #[prost(string, tag = "2")]
    pub domain: String,
    /// `unit` and `relay` that made the error; `owner` and `epoch` with `WRONG_UNIT`. A map on the wire.
    #[prost(message, repeated, tag = "3")]
    pub metadata: Vec<Entry>,
}

/// An entry of a `map<string, string>`.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Its key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub struct RetryInfo {
    /// When to try again at the earliest.
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<Span>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// gRPC allows eight digits.
const COUNT_MAX: u128 = 99_999_999;

/// Error texts are for people; longer ones are cut.
const MESSAGE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Name, Retry};

    proptest! {
        // C-D1
        #[test]
        fn a_timeout_never_grows_on_its_way(nanos in any::<u64>(), seconds in 0_u64..400_000_000_000) {
            for left in [Duration::from_nanos(nanos), Duration::from_secs(seconds)] {
                let text = TimeoutText::new(left);
                let read = parse_timeout(text.as_bytes()).expect("own text is legal");
                prop_assert!(read <= left);
                // Seven digits are always kept.
                prop_assert!(left.as_secs() > 359_999_999_999 || left.saturating_sub(read) * 100_000 <= left);
            }
        }

        #[test]
        fn reading_a_timeout_and_writing_it_keeps_its_length(count in 0_u32..100_000_000, unit in "[HMSmun]") {
            let read = parse_timeout(format!("{count}{unit}").as_bytes()).expect("legal");
            let again = parse_timeout(TimeoutText::new(read).as_bytes()).expect("legal");
            prop_assert_eq!(read, again);
        }

        #[test]
        fn any_bytes_as_a_timeout_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse_timeout(&text);
        }
    }

    #[test]
    fn malformed_timeouts_are_refused() {
        for text in ["", "S", "5", "123456789S", "-1S", "1.5S", "5s", "5 S"] {
            assert_eq!(parse_timeout(text.as_bytes()), Err(TimeoutError), "{text:?}");
        }
    }

    // C-G2
    #[test]
    fn each_error_names_its_reason_and_place_in_the_trailers() {
        for reason in Reason::ALL {
            let (unit, relay) = (Name::new("b").expect("name"), Name::new("b-1").expect("name"));
            let error = RelayError::new(reason, Retry::Safe, "100 % \u{e9}")
                .at(&unit, &relay)
                .pushed_back(Duration::from_millis(250));
            let fields = trailers_only(&error);
            assert_eq!(
                fields.text("grpc-status"),
                Some(code_of(reason).number().to_string().as_str())
            );
            assert_eq!(fields.text("grpc-message"), Some("100 %25 %C3%A9"));
            assert_eq!(
                fields.text("strait-error"),
                Some(format!("{reason}; unit=b; relay=b-1").as_str())
            );
            assert_eq!(fields.text("grpc-retry-pushback-ms"), Some("250"));
            let (status, head, _) = http_reply(&error);
            assert!((400..600).contains(&status));
            assert_eq!(head.text("retry-after"), Some("1"));
        }
    }

    #[test]
    fn the_status_in_the_details_is_what_google_rpc_says() {
        assert_eq!(base64(b""), b"");
        assert_eq!(base64(b"f"), b"Zg");
        assert_eq!(base64(b"fo"), b"Zm8");
        assert_eq!(base64(b"foobar"), b"Zm9vYmFy");
        let error = RelayError::new(Reason::Shed, Retry::Safe, "full").pushed_back(Duration::from_millis(1500));
        let status = status_of(&error, Code::ResourceExhausted, "full");
        let again = Status::decode(status.encode_to_vec().as_slice()).expect("decodes");
        assert_eq!(again.code, 8);
        let info = ErrorInfo::decode(again.details[0].value.as_slice()).expect("decodes");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SHED", "strait"));
        let retry = RetryInfo::decode(again.details[1].value.as_slice()).expect("decodes");
        assert_eq!(
            retry.retry_delay,
            Some(Span {
                seconds: 1,
                nanos: 500_000_000
            })
        );
    }
}
