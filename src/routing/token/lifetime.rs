//! How long tokens are good for, and when a client gets a new one.

use super::Token;
use crate::routing::record::Rev;

/// How long a token is good for.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Lifetime {
    /// Renewed after 10 minutes, refused after a day.
    #[default]
    Usual,
    /// Renewed after a minute, refused after an hour.
    Short,
    /// Renewed after an hour, refused after a week.
    Long,
}

impl Lifetime {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Usual, Self::Short, Self::Long];

    /// Seconds after which a client gets a new one.
    pub fn soft(self) -> u64 {
        match self {
            Self::Usual => 10 * MINUTE,
            Self::Short => MINUTE,
            Self::Long => HOUR,
        }
    }

    /// Seconds after which it is refused.
    pub fn hard(self) -> u64 {
        match self {
            Self::Usual => DAY,
            Self::Short => HOUR,
            Self::Long => DAYS_BACK * DAY,
        }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Usual => 0,
            Self::Short => 1,
            Self::Long => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lifetime| lifetime.number() == number)
    }
}

impl Token {
    /// Whether its time is over. A token of a relay whose clock is ahead counts as new.
    pub fn is_expired(&self, now: u64) -> bool {
        now.saturating_sub(self.issued_at) > self.lifetime.hard()
    }

    /// Whether a client that presented it, and has the right owner in it, gets a new one with the answer: past the soft time,
    /// or older than `then`, the revision the relay's copy was at [`AS_OF_AGE_MAX`] ago.
    pub fn is_due(&self, now: u64, then: Rev) -> bool {
        now.saturating_sub(self.issued_at) >= self.lifetime.soft() || self.as_of < then
    }
}

/// Seconds after which what a token says of its revision is renewed.
pub const AS_OF_AGE_MAX: u64 = 10 * MINUTE;

/// Days back whose keys are accepted: the longest hard lifetime.
pub(super) const DAYS_BACK: u64 = 7;
pub(super) const DAY: u64 = 24 * HOUR;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
