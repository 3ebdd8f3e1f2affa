//! What became of the messages of `strait publish`.

use std::io::{self, Write};

use serde::Serialize;

use super::super::Output;
use super::super::call::answer::Trouble;
use crate::wire::messages::{AckLevel, Durability, PublishReply};

/// What became of all messages.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) ok: bool,
    published: u64,
    duplicates: u64,
    pub(super) failed: u64,
    pub(super) seconds: f64,
    /// Each message that was sent, in order.
    messages: Vec<One>,
    #[serde(skip)]
    pub(super) is_no: bool,
}

/// What became of one message.
#[derive(Debug, Serialize)]
pub(super) struct One {
    id: Option<String>,
    level: Option<&'static str>,
    duplicate: bool,
    durability: Option<&'static str>,
    error: Option<Trouble>,
}

impl One {
    pub(super) fn of(reply: PublishReply) -> Self {
        let level = match AckLevel::try_from(reply.level) {
            Ok(AckLevel::Accepted) => Some("ACCEPTED"),
            Ok(AckLevel::Relayed) => Some("RELAYED"),
            Ok(AckLevel::Delivered) => Some("DELIVERED"),
            _ => None,
        };
        let durability = match Durability::try_from(reply.durability) {
            Ok(Durability::Group) => Some("group"),
            Ok(Durability::Buffered) => Some("buffered"),
            _ => None,
        };
        Self {
            id: (!reply.id.is_empty()).then_some(reply.id),
            level,
            duplicate: reply.duplicate,
            durability,
            error: reply.error.as_ref().map(Trouble::of_message),
        }
    }

    pub(super) fn failed(error: Trouble) -> Self {
        Self {
            error: Some(error),
            ..Self::unknown()
        }
    }

    pub(super) fn unknown() -> Self {
        Self {
            id: None,
            level: None,
            duplicate: false,
            durability: None,
            error: None,
        }
    }
}

impl Summary {
    pub(super) fn add(&mut self, one: One, output: Output, out: &mut impl Write) -> io::Result<()> {
        let is_ok = one.error.is_none() && one.id.is_some();
        if is_ok {
            self.published += 1;
            self.duplicates += u64::from(one.duplicate);
        } else {
            self.failed += 1;
            self.is_no |= one.error.as_ref().is_some_and(|error| error.is_no);
        }
        if output == Output::Human {
            if let (Some(id), Some(level)) = (&one.id, one.level) {
                let mark = if one.duplicate { " duplicate" } else { "" };
                let weak = if one.durability == Some("buffered") {
                    " buffered"
                } else {
                    ""
                };
                writeln!(out, "{id} {level}{mark}{weak}")?;
            }
            if let Some(error) = &one.error {
                let _ = writeln!(io::stderr().lock(), "{}", error.words());
            }
        } else {
            self.messages.push(one);
        }
        Ok(())
    }

    pub(super) fn words(&self) -> String {
        let rate = if self.seconds > 0.0 {
            f64_of(self.published) / self.seconds
        } else {
            0.0
        };
        format!(
            "{} published ({} of them duplicates), {} failed, in {:.2} s ({rate:.0}/s)",
            self.published, self.duplicates, self.failed, self.seconds
        )
    }
}

pub(super) fn f64_of(number: u64) -> f64 {
    // Exact for what one command can publish.
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}
