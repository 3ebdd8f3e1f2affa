//! The hash under which copies keep keys.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

/// A key of a dimension, as 128 bits. With the seed unknown, nobody can make two keys that share one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyHash(pub u128);

/// The hash of a key; the seed comes with the records, so that all relays of a Geo have the same.
pub fn key_hash(seed: u128, dimension: &[u8], key: &[u8]) -> KeyHash {
    let mut hasher = SipHasher24::new_with_key(&seed.to_le_bytes());
    // The length keeps the dimension apart from the key.
    hasher.write_u64(u64::try_from(dimension.len()).unwrap_or(u64::MAX));
    hasher.write(dimension);
    hasher.write(key);
    KeyHash(hasher.finish128().as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimension_and_key_do_not_run_into_each_other() {
        let hash = |dimension: &str, key: &str| key_hash(7, dimension.as_bytes(), key.as_bytes());
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
        assert_eq!(hash("a", "bc"), hash("a", "bc"));
        assert_ne!(hash("a", "bc"), key_hash(8, b"a", b"bc"));
    }
}
