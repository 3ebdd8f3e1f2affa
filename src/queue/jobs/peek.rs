//! A message as operators see it (M-H1).

use super::filter::key_text;
use crate::model::{Message, Seq};
use crate::queue::operator::Peeked;
use crate::queue::record::{DeadLetter, DeadSource};

/// A message of a line.
pub(crate) fn message(seq: Seq, message: &Message, (state, attempts): (&str, u32), body: bool) -> Peeked {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Peeked {
        seq,
        id: message.id.to_string(),
        topic: message.topic.to_string(),
        key: message.key.as_ref().map(key_text),
        accepted_at: message.accepted_at.0,
        deadline: message.deadline.map(|deadline| deadline.0),
        state: state.to_owned(),
        attempts,
        redrives: message.redrives,
        attributes: message
            .attributes
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        body_bytes: u64::try_from(message.body.len()).unwrap_or(u64::MAX),
        body: body.then(|| base64(&message.body)),
        ..Peeked::default()
    }
}

/// A dead letter.
pub(crate) fn letter(letter: &DeadLetter, body: bool) -> Peeked {
    Peeked {
        place: Some(letter.place.as_str().to_owned()),
        reason: Some(letter.reason.clone()),
        error: Some(letter.error.clone()),
        first_failure: Some(letter.first_failure.0),
        last_failure: Some(letter.last_failure.0),
        was_for: match &letter.at {
            DeadSource::None => None,
            DeadSource::Outbox(unit, _) => Some(format!("unit {unit}")),
            DeadSource::Group(group, _) => Some(format!("group {group}")),
        },
        ..message(letter.seq, &letter.message, ("dead", letter.attempts), body)
    }
}

/// Base64 with padding, as JSON has it for bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap_or(0);
            match DIGITS.get(digit).filter(|_| place <= group.len()) {
                Some(digit) => text.push(char::from(*digit)),
                None => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_base64() {
        // RFC 4648, 10
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
