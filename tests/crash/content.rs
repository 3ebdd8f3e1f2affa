//! What the message of a number looks like. Both ends know, so that every byte that arrives can be checked.

use bytes::Bytes;

/// All parts follow from the seed and the number.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// Its number, which it carries in its first bytes and as the `CloudEvents` attribute `id`.
    pub number: u64,
    /// Unit that owns the key: nobody else may get the message.
    pub unit: &'static str,
    /// The key.
    pub key: String,
    /// The body.
    pub body: Bytes,
}

/// Keys of each unit: few enough that each always has several messages under way.
const KEYS: u64 = 300;

impl Content {
    /// The message with this number.
    pub fn of(seed: u64, number: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Some stay where they are published.
        let unit = if dice.u8(..) < 26 { "a" } else { "b" };
        let key = format!("{unit}:{}", dice.u64(0..KEYS));
        let length = match dice.u8(..) {
            0 => dice.usize(0..100_000),
            1..=24 => dice.usize(0..8_192),
            _ => dice.usize(0..1_024),
        };
        let mut body = Vec::with_capacity(length + 8);
        body.extend_from_slice(&number.to_be_bytes());
        body.extend(std::iter::repeat_with(|| dice.u8(..)).take(length));
        Self {
            number,
            unit,
            key,
            body: body.into(),
        }
    }

    /// Whether a consumer fails this one at its first attempt.
    pub fn is_failed_once(&self) -> bool {
        self.number % 211 == 7
    }
}
