//! What came of a call, for people and for programs.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tonic::metadata::MetadataMap;

use super::super::{CliError, Output, write_json};
use crate::client::{CallError, Reply};
use crate::model::{Reason, RelayError, Retry};
use crate::telemetry::Chain;
use crate::wire::messages::PublishError;

/// What came of a call.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// What was called.
    pub(super) method: String,
    /// The unit that served it.
    pub(super) unit: Option<String>,
    /// The message; empty on errors.
    pub(super) body: Bytes,
    /// Why there is none.
    pub(super) error: Option<Trouble>,
    /// From the connection to the answer.
    pub(super) total: Duration,
    /// Of that, in the service, as its relay measured it.
    pub(super) service_ms: Option<u64>,
}

/// Why a call was not answered with success.
#[derive(Debug, Default, Serialize)]
pub(in crate::cli) struct Trouble {
    /// Who said so: `relay`, `service`, or `client` if the call got nowhere.
    from: &'static str,
    /// The relay's reason or the service's status.
    reason: String,
    /// In words.
    message: String,
    /// Unit of the relay that said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// That relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<String>,
    /// Whether the same call may be made again: `safe`, `ambiguous`, `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<&'static str>,
    /// When to call again at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pushback_ms: Option<u64>,
    /// What to do.
    advice: &'static str,
    /// A definite no, as opposed to a failure.
    #[serde(skip)]
    pub(in crate::cli) is_no: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    method: &'a str,
    unit: Option<&'a str>,
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
    error: Option<&'a Trouble>,
    total_ms: f64,
    service_ms: Option<u64>,
}

/// Writes the reply to `out` and the rest to standard error; all of it to `out` as JSON.
pub(super) fn print(answer: &Answer, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    if output == Output::Json {
        return write_json(out, &answer.document());
    }
    out.write_all(&answer.body)?;
    if io::stdout().is_terminal() && !answer.body.is_empty() && !answer.body.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    // Nowhere else to say that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{}", answer.summary());
    Ok(())
}

impl Answer {
    pub(super) fn failed(error: Trouble) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }

    pub(super) fn of_reply(reply: &Reply) -> Self {
        let field = |name| reply.metadata().text(name).or_else(|| reply.trailers().text(name));
        Self {
            unit: field("strait-unit").map(str::to_owned),
            service_ms: field("strait-service-time-ms").and_then(|text| text.parse().ok()),
            body: reply.body().clone(),
            ..Self::default()
        }
    }

    pub(super) fn of_grpc(reply: tonic::Response<Bytes>) -> Self {
        let fields = reply.metadata();
        Self {
            unit: text(fields, "strait-unit").map(str::to_owned),
            service_ms: text(fields, "strait-service-time-ms").and_then(|text| text.parse().ok()),
            body: reply.into_inner(),
            ..Self::default()
        }
    }

    fn document(&self) -> Document<'_> {
        let body = std::str::from_utf8(&self.body);
        Document {
            ok: self.error.is_none(),
            method: &self.method,
            unit: self.unit.as_deref(),
            body: body.ok().filter(|_| self.error.is_none()),
            body_hex: body.is_err().then(|| hex(&self.body)),
            error: self.error.as_ref(),
            total_ms: self.total.as_secs_f64() * 1000.0,
            service_ms: self.service_ms,
        }
    }

    fn summary(&self) -> String {
        let total = self.total.as_secs_f64() * 1000.0;
        let Some(error) = &self.error else {
            let unit = self.unit.as_deref().unwrap_or("this unit");
            let mut text = format!("answered by unit {unit} in {total:.1} ms, connecting included");
            if let Some(service) = self.service_ms {
                // Writing to a String cannot fail.
                let _ = write!(text, "; {service} ms of that in the service");
            }
            return text;
        };
        error.summary(&self.method, total)
    }
}

impl Trouble {
    /// Nothing came, not even an error.
    pub(in crate::cli) fn silent(timeout: Duration) -> Self {
        Self {
            from: "client",
            reason: "silence".to_owned(),
            message: format!(
                "the relay did not answer within {}",
                humantime::format_duration(timeout)
            ),
            advice: "check that the address is that of a relay: gRPC and framed have ports of their own",
            ..Self::default()
        }
    }

    /// There is no relay.
    pub(in crate::cli) fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self {
            from: "client",
            reason: "no_relay".to_owned(),
            message: Chain(error).to_string(),
            retry: Some("safe"),
            advice: "start the relay, or name its address with --relay",
            ..Self::default()
        }
    }

    pub(in crate::cli) fn of_call(error: &CallError) -> Self {
        let retry = Some(retry_word(error.retry()));
        match error {
            CallError::Relay(error) => Self::of_relay(error),
            CallError::Status(status) => Self::of_service(format!("{:?}", status.code), &status.message),
            CallError::Deadline { .. } => Self {
                from: "client",
                retry,
                message: "the deadline passed".to_owned(),
                ..Self::because(Reason::DeadlineExceeded)
            },
            CallError::Invalid(_) => Self {
                from: "client",
                reason: "invalid".to_owned(),
                message: Chain(error).to_string(),
                advice: "correct the call",
                is_no: true,
                ..Self::default()
            },
            _ => Self {
                from: "client",
                reason: "lost".to_owned(),
                message: Chain(error).to_string(),
                retry,
                advice: "see whether the relay still runs, then call again if calling twice does no harm",
                ..Self::default()
            },
        }
    }

    pub(in crate::cli) fn of_status(status: &tonic::Status) -> Self {
        let fields = status.metadata();
        let Some(said) = text(fields, "strait-error").and_then(RelaySaid::parse) else {
            return Self::of_own_status(status);
        };
        Self {
            message: status.message().to_owned(),
            unit: said.unit.map(str::to_owned),
            relay: said.relay.map(str::to_owned),
            pushback_ms: text(fields, "grpc-retry-pushback-ms").and_then(|text| text.parse().ok()),
            ..Self::because(said.reason)
        }
    }

    /// A status that no relay made: the service's, or one of the client library.
    fn of_own_status(status: &tonic::Status) -> Self {
        if status.source().is_none() {
            return Self::of_service(format!("{:?}", status.code()), status.message());
        }
        Self {
            from: "client",
            reason: "lost".to_owned(),
            message: plain(status),
            advice: "check that the address is the gRPC address of a relay, such as http://127.0.0.1:7400 or unix:data/grpc.sock: \
                     7401 and strait.sock are for the framed protocol",
            ..Self::default()
        }
    }

    fn of_service(status: String, message: &str) -> Self {
        Self {
            from: "service",
            reason: status,
            message: message.to_owned(),
            advice: "the call arrived; the service itself said no",
            is_no: true,
            ..Self::default()
        }
    }

    fn of_relay(error: &RelayError) -> Self {
        let place = error.place.as_ref();
        Self {
            message: error.detail.clone(),
            unit: place.map(|place| place.unit.to_string()),
            relay: place.map(|place| place.relay.to_string()),
            retry: Some(retry_word(error.retry)),
            pushback_ms: error.pushback.and_then(|wait| u64::try_from(wait.as_millis()).ok()),
            ..Self::because(error.reason)
        }
    }

    fn because(reason: Reason) -> Self {
        Self {
            from: "relay",
            reason: reason.as_str().to_owned(),
            advice: advice(reason),
            is_no: is_no(reason),
            ..Self::default()
        }
    }

    /// Whether to call again, in words. A relay that names a time expects the call again.
    fn again(&self) -> Option<String> {
        if let Some(wait) = self.pushback_ms {
            return Some(format!("yes, after {wait} ms"));
        }
        let text = match self.retry? {
            "safe" => "yes: no service has seen the call",
            "ambiguous" => "only if calling twice does no harm: the service may have acted",
            _ => "no: the answer would be the same",
        };
        Some(text.to_owned())
    }

    /// One message of a batch or stream was refused.
    pub(in crate::cli) fn of_message(error: &PublishError) -> Self {
        let retry = match error.retry.as_str() {
            "safe" => "safe",
            "never" => "never",
            _ => "ambiguous",
        };
        Self {
            reason: error.reason.clone(),
            message: error.message.clone(),
            retry: Some(retry),
            pushback_ms: (error.pushback_ms > 0).then_some(error.pushback_ms),
            ..Self::because(Reason::from_word(&error.reason).unwrap_or(Reason::Internal))
        }
    }

    /// In words, for people.
    pub(in crate::cli) fn words(&self) -> String {
        let again = self.again().map(|again| format!("\n  again?    {again}"));
        format!(
            "{}: {}{}\n  what now  {}",
            self.reason,
            self.message,
            again.unwrap_or_default(),
            self.advice
        )
    }

    fn summary(&self, method: &str, total_ms: f64) -> String {
        let mut text = format!("{method} was not answered: {}: {}", self.reason, self.message);
        let who = match (&self.relay, &self.unit, self.from) {
            (Some(relay), Some(unit), _) => format!("relay {relay} of unit {unit}"),
            (_, _, "service") => "the service".to_owned(),
            (_, _, "relay") => "a relay".to_owned(),
            _ => "this command".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  said by   {who}, after {total_ms:.1} ms");
        if let Some(again) = self.again() {
            let _ = write!(text, "\n  again?    {again}");
        }
        let _ = write!(text, "\n  what now  {}", self.advice);
        text
    }
}

/// The value of `strait-error`.
#[derive(Debug, Eq, PartialEq)]
struct RelaySaid<'a> {
    reason: Reason,
    unit: Option<&'a str>,
    relay: Option<&'a str>,
}

impl<'a> RelaySaid<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let reason = Reason::from_word(parts.next()?)?;
        let mut said = Self {
            reason,
            unit: None,
            relay: None,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("unit", unit)) => said.unit = Some(unit),
                Some(("relay", relay)) => said.relay = Some(relay),
                _ => {}
            }
        }
        Some(said)
    }
}

/// Whether a relay with this reason means no, whatever is tried.
fn is_no(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadInput
            | Reason::Loop
            | Reason::NoRoute
            | Reason::Policy
            | Reason::TooLarge
            | Reason::UnknownService
            | Reason::UnknownTopic
            | Reason::UnknownUnit
            | Reason::WrongUnit
    )
}

fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::BadInput => "correct the call; the method looks like im.Echo/Say",
        Reason::DeadlineExceeded => {
            "give it more time with --timeout, or look at why the service, or what the text names, is slow"
        }
        Reason::Draining => "call again; another relay of the unit takes over, or this one comes back",
        Reason::Internal => "look at the log of that relay",
        Reason::Limited => "wait as long as the relay says, then call again",
        Reason::LinkLost => "call again if calling twice does no harm: the service may have acted",
        Reason::Loop => "compare [routing] of the units: they send the key in circles",
        Reason::Moving => "call again; `strait route moves` shows how far the move is",
        Reason::NoLease => "see why that relay cannot reach the route store; `strait route status` shows how it stands",
        Reason::NoRoute => "name a key with --key or a unit with --unit; `strait explain` shows which rules there are",
        Reason::Parked => {
            "do not call again: the unit gets the call when it is back; `strait queue status` shows what waits for it"
        }
        Reason::Policy => "this crossing is forbidden; ask those who run the unit",
        Reason::RoutesAway => "see whether the route store of [routes] runs and can be reached, then call again",
        Reason::ServiceLost => "look at the service: it broke off in the middle of the call",
        Reason::ServiceUnavailable => "start the service, or check its endpoints in [services] at that unit",
        Reason::Shed => "the relay is overloaded; call again later",
        Reason::TooLarge => "send less, or raise the limit that the text names",
        Reason::UnitAway => {
            "see whether the relay of the owner runs and can be reached over UDP; calls work again by themselves then"
        }
        Reason::Undelivered => "do not publish it again before you know why; `strait dlq list` shows dead letters",
        Reason::UnknownUnit => "add the unit to [units], or correct its name",
        Reason::UnknownService => "add the service to [services] of the unit that owns the key, or correct its name",
        Reason::UnknownTopic => "add the topic to [topics] of this relay, or correct its name",
        Reason::WrongUnit => "compare [routing] of the two units: they disagree about the owner",
    }
}

/// What ended a call below gRPC, without the layers that it came through.
fn plain(status: &tonic::Status) -> String {
    let mut last: &dyn Error = status;
    let mut is_http2 = false;
    while let Some(source) = last.source() {
        last = source;
        is_http2 |= last.to_string().contains("http2");
    }
    if is_http2 {
        return format!("what answers there does not speak gRPC as expected, or broke off ({last})");
    }
    last.to_string()
}

fn retry_word(retry: Retry) -> &'static str {
    match retry {
        Retry::Ambiguous => "ambiguous",
        Retry::Never => "never",
        Retry::Safe => "safe",
    }
}

fn text<'a>(fields: &'a MetadataMap, name: &str) -> Option<&'a str> {
    fields.get(name)?.to_str().ok()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_relay_says_in_a_trailer_is_understood() {
        let said = RelaySaid::parse("unit_away; unit=a; relay=a-1").unwrap();
        assert_eq!(
            (said.reason, said.unit, said.relay),
            (Reason::UnitAway, Some("a"), Some("a-1"))
        );
        assert_eq!(RelaySaid::parse("unit_away").unwrap().unit, None);
        assert_eq!(RelaySaid::parse("something_new; unit=a"), None);
    }

    // A text that says "no" next to "after 1000 ms" helps nobody.
    #[test]
    fn an_error_says_who_said_it_and_what_to_do() {
        let place = |name: &str| crate::model::Name::new(name).unwrap();
        let error = RelayError::new(Reason::UnitAway, Retry::Never, "no link")
            .at(&place("a"), &place("a-1"))
            .pushed_back(Duration::from_secs(1));
        let text = Trouble::of_relay(&error).summary("im.Echo/Say", 1.0);
        assert!(text.contains("unit_away: no link"), "{text}");
        assert!(text.contains("relay a-1 of unit a"), "{text}");
        assert!(text.contains("yes, after 1000 ms"), "{text}");
        assert!(!Trouble::of_relay(&error).is_no);
        assert!(Trouble::because(Reason::NoRoute).is_no);
    }

    // Of a stream whose relay went away, or an address that speaks another protocol.
    #[test]
    fn what_broke_below_grpc_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("http2 error")]
        struct Http2(#[source] io::Error);
        let cause = io::Error::other("frame with invalid size");
        let said = Trouble::of_status(&tonic::Status::from_error(Box::new(Http2(cause))));
        assert_eq!(
            said.message.matches("frame with invalid size").count(),
            1,
            "{}",
            said.message
        );
        assert!(said.advice.contains("grpc.sock") && said.advice.contains("strait.sock"));
    }

    #[test]
    fn a_body_that_is_no_text_is_shown_as_digits() {
        let answer = Answer {
            body: Bytes::from_static(&[0xff, 0x01]),
            ..Answer::default()
        };
        let document = answer.document();
        assert_eq!((document.body, document.body_hex.as_deref()), (None, Some("ff01")));
    }
}
