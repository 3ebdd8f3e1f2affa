//! What the reply of a service means for the message it was handed. Pure.
//!
//! ```text
//! OK, HTTP 2xx                                              done
//! INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE,      failed for good, unless the reply names a pause
//!   UNIMPLEMENTED; HTTP 4xx but 408, 425, 429
//! any other status                                          failed; again after the pause it names, else by the topic's back-off
//! never reached the service (retry safe)                    unavailable: no attempt, and nothing for a while
//! ```
//! A pause is `grpc-retry-pushback-ms` (milliseconds; negative: never again) or `retry-after` (seconds).

use std::time::Duration;

use crate::model::{Code, Metadata, Part, Reason, RelayError, Retry};
use crate::queue::api::Settlement;

/// What has come of a reply.
#[derive(Debug, Default)]
pub(super) struct Answer {
    http_status: u16,
    pause: Option<Pause>,
}

/// A whole reply.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: Code,
    http_status: u16,
    pause: Option<Pause>,
    /// The status and what the service said, for people.
    pub(super) reason: String,
}

/// What a service says about the next attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pause {
    After(Duration),
    Never,
}

impl Answer {
    /// More of it; all that counts at its end.
    pub(super) fn on_part(&mut self, part: Part) -> Option<Ended> {
        if let Some((status, head)) = &part.head {
            self.http_status = *status;
            self.pause = self.pause.or(pause(head));
        }
        let end = part.end?;
        let pause = self.pause.or(pause(&end.trailers));
        let said = end.trailers.value("grpc-message").unwrap_or(&end.message);
        Some(Ended {
            status: end.status,
            http_status: self.http_status,
            pause,
            reason: format!("{}: {}", word(end.status, self.http_status), clip(said)),
        })
    }
}

impl Ended {
    /// Its status, in a word.
    pub(super) fn code(&self) -> String {
        word(self.status, self.http_status)
    }

    /// What it means for a message.
    pub(super) fn settle(self) -> Settlement {
        self.settle_by(|status| {
            matches!(
                status,
                Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented
            )
        })
    }

    /// The same, if these statuses are for good.
    pub(super) fn settle_by(self, is_for_good: impl FnOnce(Code) -> bool) -> Settlement {
        if self.status == Code::Ok {
            return Settlement::Ack;
        }
        let is_final = match self.http_status {
            408 | 425 | 429 | 500..=599 => false,
            400..=499 => true,
            _ => is_for_good(self.status),
        };
        let reason = self.reason;
        match self.pause {
            Some(Pause::Never) => Settlement::Terminate { reason },
            Some(Pause::After(delay)) => Settlement::Nack {
                delay: Some(delay),
                reason,
            },
            None if is_final => Settlement::Terminate { reason },
            None => Settlement::Nack { delay: None, reason },
        }
    }
}

/// A relay ended the call.
pub(super) fn of_error(error: &RelayError) -> Settlement {
    let reason = format!("{error}");
    let is_missing = error.reason == Reason::UnknownService;
    match error.retry {
        Retry::Safe => Settlement::Unavailable {
            pushback: error.pushback.unwrap_or(PAUSE),
        },
        // The settings name a service that nobody has configured or registered yet.
        Retry::Never if is_missing => Settlement::Unavailable { pushback: PAUSE },
        Retry::Never => Settlement::Terminate { reason },
        Retry::Ambiguous => Settlement::Nack {
            delay: error.pushback,
            reason,
        },
    }
}

fn pause(fields: &Metadata) -> Option<Pause> {
    if let Some(text) = fields.text("grpc-retry-pushback-ms") {
        // gRPC: what is no number, or negative, means never.
        let millis = text.parse::<u64>().ok().map(Duration::from_millis);
        return Some(millis.map_or(Pause::Never, |pause| Pause::After(pause.min(PAUSE_MAX))));
    }
    // A date in place of a number is not read: the back-off of the topic counts then.
    let seconds = fields.text("retry-after")?.trim().parse::<u64>().ok()?;
    Some(Pause::After(Duration::from_secs(seconds).min(PAUSE_MAX)))
}

fn word(status: Code, http_status: u16) -> String {
    match http_status {
        0 | 200..=299 => format!("{status:?}"),
        other => format!("HTTP {other}"),
    }
}

/// Text of a service for dead letters.
fn clip(text: &[u8]) -> String {
    let text = text.get(..TEXT_MAX).unwrap_or(text);
    String::from_utf8_lossy(text).into_owned()
}

/// Nobody takes messages: look again after this time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause a service can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
const TEXT_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Ending, MetadataBuilder};

    fn check(http_status: u16, status: Code, fields: &[(&str, &str)], expected: &str) {
        let mut trailers = MetadataBuilder::new();
        for (name, value) in fields {
            trailers.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        let part = Part {
            head: Some((http_status, Metadata::default())),
            end: Some(Ending {
                status,
                message: "m".into(),
                trailers: trailers.build(),
                ..Ending::default()
            }),
            ..Part::default()
        };
        let found = match Answer::default().on_part(part).unwrap().settle() {
            Settlement::Nack { delay, .. } => format!("nack {delay:?}"),
            Settlement::Terminate { .. } => "terminate".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        assert_eq!(found, expected, "{http_status} {status:?} {fields:?}");
    }

    // M-B4, M-E1: transient and terminal failures are told apart.
    #[test]
    fn the_reply_is_the_settlement() {
        check(200, Code::Ok, &[], "ack");
        check(204, Code::Ok, &[], "ack");
        for status in [
            Code::InvalidArgument,
            Code::FailedPrecondition,
            Code::OutOfRange,
            Code::Unimplemented,
        ] {
            check(200, status, &[], "terminate");
            check(200, status, &[("grpc-retry-pushback-ms", "250")], "nack Some(250ms)");
        }
        for status in [
            Code::Unavailable,
            Code::Internal,
            Code::Unknown,
            Code::ResourceExhausted,
            Code::NotFound,
        ] {
            check(200, status, &[], "nack None");
        }
        check(200, Code::Unavailable, &[("grpc-retry-pushback-ms", "-1")], "terminate");
        check(400, Code::InvalidArgument, &[], "terminate");
        check(404, Code::NotFound, &[], "terminate");
        check(409, Code::Aborted, &[], "terminate");
        for status in [408, 425, 429] {
            check(status, Code::Unknown, &[], "nack None");
        }
        check(429, Code::ResourceExhausted, &[("retry-after", "2")], "nack Some(2s)");
        check(503, Code::Unavailable, &[("retry-after", "3")], "nack Some(3s)");
        check(
            503,
            Code::Unavailable,
            &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")],
            "nack None",
        );
        check(500, Code::Internal, &[], "nack None");
        check(501, Code::Unimplemented, &[], "nack None");
    }

    // M-E1: what never reached the service is no attempt.
    #[test]
    fn only_what_reached_the_service_is_an_attempt() {
        let of = |reason, retry| of_error(&RelayError::new(reason, retry, "x"));
        let away = Settlement::Unavailable { pushback: PAUSE };
        assert_eq!(of(Reason::ServiceUnavailable, Retry::Safe), away);
        assert_eq!(of(Reason::UnknownService, Retry::Never), away);
        assert!(matches!(
            of(Reason::ServiceLost, Retry::Ambiguous),
            Settlement::Nack { .. }
        ));
        assert!(matches!(
            of(Reason::TooLarge, Retry::Never),
            Settlement::Terminate { .. }
        ));
        let limited = RelayError::new(Reason::Limited, Retry::Safe, "x").pushed_back(Duration::from_millis(50));
        let pushback = Duration::from_millis(50);
        assert_eq!(of_error(&limited), Settlement::Unavailable { pushback });
    }
}
