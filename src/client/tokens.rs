//! Route tokens of the keys that a client uses most: sent along with calls, learnt from answers and from what the relay tells.
//!
//! A token says to the relay who owns its key, so that it need not ask the route store. Nothing depends on it: without one, or
//! with one that is out of date, a call goes the same way.
//!
//! # Invariants
//! - K1. What is kept is bounded: so many keys of each of so many dimensions, those that are used most.
//! - K2. A token replaces another one only if its epoch is higher, or it is the same and its revision is. So answers
//!   that come in another order than they were made take nothing back.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::model::{Hottest, Key, Map, Metadata, RouteHints, RoutePush};

/// What a client knows of its keys.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Keys of each dimension.
    max: usize,
    dimensions: Map<Bytes, Hottest<Bytes, Kept>>,
}

#[derive(Clone, Debug)]
struct Kept {
    text: Bytes,
    age: Age,
}

/// Epoch and revision of a token: all that a client reads of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Age {
    epoch: u64,
    as_of: u64,
}

impl Tokens {
    /// Keeps so many of each dimension; with 0 none.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            dimensions: Map::default(),
        }
    }

    /// Adds what is known of the keys of a call, unless the program has given it a token itself.
    pub(super) fn attach(&mut self, hints: &mut RouteHints) {
        if self.dimensions.is_empty() || hints.token.is_some() {
            return;
        }
        let mut field = Vec::new();
        for key in &hints.keys {
            let of_dimension = self.dimensions.get_mut(&key.dimension);
            if let Some(kept) = of_dimension.and_then(|kept| kept.used(&key.key)) {
                if !field.is_empty() {
                    field.push(b',');
                }
                field.extend_from_slice(&key.dimension);
                field.push(b';');
                field.extend_from_slice(&kept.text);
            }
        }
        if !field.is_empty() {
            hints.token = Some(field.into());
        }
    }

    /// What the answer of a call with these keys says.
    pub(super) fn learn_from(&mut self, keys: &[Key], blocks: [&Metadata; 2]) {
        for block in blocks {
            for (_, value) in block.iter().filter(|(name, _)| *name == b"strait-token") {
                self.learn(keys, value);
            }
        }
    }

    /// The value of a `strait-token` field that came with the answer of a call with these keys.
    pub(super) fn learn(&mut self, keys: &[Key], value: &[u8]) {
        for part in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let Some(at) = part.iter().position(|byte| *byte == b';') else {
                continue;
            };
            let (dimension, text) = (part.get(..at), part.get(at + 1..));
            let key = keys.iter().find(|key| Some(&key.dimension[..]) == dimension);
            if let (Some(key), Some(text)) = (key, text) {
                self.keep(key, text, true);
            }
        }
    }

    /// The relay says that a key has another owner. Of a key that is not kept any more this is no news.
    pub(super) fn on_route(&mut self, push: &RoutePush) {
        self.keep(&push.key, &push.token, false);
    }

    /// The token of a key.
    pub(super) fn of(&self, dimension: &[u8], key: &[u8]) -> Option<Bytes> {
        Some(self.dimensions.get(dimension)?.peek(key)?.text.clone())
    }

    fn keep(&mut self, key: &Key, text: &[u8], may_be_new: bool) {
        let Some(age) = age_of(text) else { return };
        let max = self.max;
        let dimensions = &mut self.dimensions;
        if !dimensions.contains_key(&key.dimension) {
            if !may_be_new || max == 0 || dimensions.len() >= DIMENSIONS_MAX {
                return;
            }
            dimensions.insert(Bytes::copy_from_slice(&key.dimension), Hottest::new(max));
        }
        let Some(of_dimension) = dimensions.get_mut(&key.dimension) else {
            return;
        };
        let text = Bytes::copy_from_slice(text);
        match of_dimension.peek_mut(&key.key) {
            Some(kept) if age > kept.age => *kept = Kept { text, age },
            None if may_be_new => of_dimension.insert(Bytes::copy_from_slice(&key.key), Kept { text, age }),
            Some(_) | None => {}
        }
    }
}

/// Epoch (bytes 6 to 14) and revision (bytes 14 to 20) of a token; the rest is the relays' affair.
fn age_of(text: &[u8]) -> Option<Age> {
    let mut bytes = [0; TOKEN_BYTES_MAX];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    let number = |range: std::ops::Range<usize>| {
        let digits = bytes.get(..length)?.get(range)?;
        Some(digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    Some(Age {
        epoch: number(6..14)?,
        as_of: number(14..20)?,
    })
}

/// Kinds of keys whose tokens are kept.
const DIMENSIONS_MAX: usize = 64;
/// Of a later kind perhaps; those of today have 42.
const TOKEN_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A token as far as clients read it.
    fn token(epoch: u64, as_of: u64) -> String {
        let mut bytes = [7; 42];
        bytes[6..14].copy_from_slice(&epoch.to_be_bytes());
        bytes[14..20].copy_from_slice(&as_of.to_be_bytes()[2..]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn key(dimension: &str, key: u64) -> Key {
        Key {
            dimension: Bytes::copy_from_slice(dimension.as_bytes()),
            key: Bytes::from(key.to_string()),
        }
    }

    fn sent(tokens: &mut Tokens, keys: &[Key]) -> Option<String> {
        let mut hints = RouteHints {
            keys: keys.to_vec(),
            ..RouteHints::default()
        };
        tokens.attach(&mut hints);
        hints.token.map(|token| String::from_utf8(token.to_vec()).unwrap())
    }

    // K2
    #[test]
    fn a_newer_token_replaces_an_older_one_and_never_the_other_way() {
        let mut tokens = Tokens::new(4);
        let keys = [key("cid", 1)];
        let mut newest = (0, 0);
        for age in [(3, 3), (2, 9), (3, 3), (3, 4), (3, 2), (4, 1), (3, 9)] {
            let value = format!("cid;{}", token(age.0, age.1));
            tokens.learn(&keys, value.as_bytes());
            newest = newest.max(age);
            let expected = format!("cid;{}", token(newest.0, newest.1));
            assert_eq!(sent(&mut tokens, &keys), Some(expected), "{age:?}");
        }
    }

    #[test]
    fn each_key_of_a_call_brings_its_own_and_a_given_one_wins() {
        let mut tokens = Tokens::new(4);
        let keys = [key("cid", 1), key("org", 2), key("uid", 3)];
        let value = format!("org;{} , cid;{}", token(1, 1), token(2, 2));
        tokens.learn(&keys, value.as_bytes());
        let expected = format!("cid;{},org;{}", token(2, 2), token(1, 1));
        assert_eq!(sent(&mut tokens, &keys), Some(expected));
        assert_eq!(sent(&mut tokens, &[key("cid", 9)]), None);
        let mut given = RouteHints {
            keys: keys.to_vec(),
            token: Some(Bytes::from_static(b"own")),
            ..RouteHints::default()
        };
        tokens.attach(&mut given);
        assert_eq!(given.token.unwrap(), "own");
        for garbage in ["", ";", "cid", "cid;", "cid;!!", "cid;AAAA", "other;AAAA"] {
            tokens.learn(&keys, garbage.as_bytes());
        }
        assert_eq!(tokens.of(b"cid", b"1").unwrap(), token(2, 2));
    }

    // S6: what the relay tells without being asked counts for keys that are kept.
    #[test]
    fn what_the_relay_tells_replaces_what_is_kept_and_adds_nothing() {
        let mut tokens = Tokens::new(4);
        let push = |number, epoch| RoutePush {
            key: key("cid", number),
            token: token(epoch, epoch).into(),
        };
        tokens.on_route(&push(1, 5));
        assert_eq!(tokens.of(b"cid", b"1"), None);
        tokens.learn(&[key("cid", 1)], format!("cid;{}", token(1, 1)).as_bytes());
        tokens.on_route(&push(1, 5));
        assert_eq!(tokens.of(b"cid", b"1").unwrap(), token(5, 5));
        tokens.on_route(&push(2, 5));
        assert_eq!(tokens.of(b"cid", b"2"), None);
    }

    proptest! {
        // K1
        #[test]
        fn never_more_is_kept_than_may_be(uses in prop::collection::vec((0_u64..100, 0_u64..30), 0..300), max in 0_usize..6) {
            let mut tokens = Tokens::new(max);
            for (dimension, number) in uses {
                let keys = [key(&format!("d{dimension}"), number)];
                let value = format!("d{dimension};{}", token(1, 1));
                sent(&mut tokens, &keys);
                tokens.learn(&keys, value.as_bytes());
            }
            prop_assert!(tokens.dimensions.len() <= DIMENSIONS_MAX);
            prop_assert!(tokens.dimensions.values().all(|kept| kept.len() <= max));
            prop_assert!(max > 0 || tokens.dimensions.is_empty());
        }
    }
}
