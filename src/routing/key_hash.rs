//! The hash under which copies keep keys, and everything else that is decided about.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::record::{NodeId, RecordId};

/// A key of a dimension, as 128 bits. With the seed unknown, nobody can make two keys that share one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyHash(pub u128);

/// The hash of a key; the seed comes with the records, so that all relays of a Geo have the same.
pub fn key_hash(seed: u128, dimension: &[u8], key: &[u8]) -> KeyHash {
    let mut hasher = SipHasher24::new_with_key(&seed.to_le_bytes());
    // The length keeps the dimension apart from the key.
    let length = u64::try_from(dimension.len()).unwrap_or(u64::MAX);
    hasher.write(&length.to_le_bytes());
    hasher.write(dimension);
    hasher.write(key);
    KeyHash(hasher.finish128().as_u128())
}

/// What a record other than a key's is kept under. No key has the same hash: no dimension is as long as these kinds say.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    Bucket(&'a str, u16),
    Rule(&'a str, u32),
    Unit(&'a str),
    Move(u64),
    Relay(&'a str, &'a str),
    Book,
}

pub(super) fn part_hash(seed: u128, part: Part<'_>) -> KeyHash {
    let (kind, name, other, number) = match part {
        Part::Bucket(dimension, bucket) => (1, dimension, "", u64::from(bucket)),
        Part::Rule(dimension, rule) => (2, dimension, "", u64::from(rule)),
        Part::Unit(unit) => (3, unit, "", 0),
        Part::Move(id) => (4, "", "", id),
        Part::Relay(unit, relay) => (5, unit, relay, 0),
        Part::Book => (6, "", "", 0),
    };
    let mut hasher = SipHasher24::new_with_key(&seed.to_le_bytes());
    hasher.write(&(u64::MAX - kind).to_le_bytes());
    hasher.write(&number.to_le_bytes());
    hasher.write(name.as_bytes());
    // No name has this byte.
    hasher.write(&[0]);
    hasher.write(other.as_bytes());
    KeyHash(hasher.finish128().as_u128())
}

/// What a node is kept under.
pub(super) fn node_hash(seed: u128, id: &NodeId) -> KeyHash {
    match id {
        NodeId::Key { dimension, key } => key_hash(seed, dimension.as_str().as_bytes(), &key.0),
        NodeId::Bucket { dimension, bucket } => part_hash(seed, Part::Bucket(dimension.as_str(), *bucket)),
        NodeId::Rule { dimension, rule } => part_hash(seed, Part::Rule(dimension.as_str(), *rule)),
        NodeId::Unit(unit) => part_hash(seed, Part::Unit(unit.as_str())),
    }
}

/// What a record adds to digests with.
pub(super) fn record_hash(seed: u128, id: &RecordId) -> KeyHash {
    match id {
        RecordId::Book => part_hash(seed, Part::Book),
        RecordId::Node(id) => node_hash(seed, id),
        RecordId::Move(id) => part_hash(seed, Part::Move(id.0)),
        RecordId::Relay(id) => part_hash(seed, Part::Relay(id.unit.as_str(), id.relay.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    #[test]
    fn dimension_and_key_do_not_run_into_each_other() {
        let hash = |dimension: &str, key: &str| key_hash(7, dimension.as_bytes(), key.as_bytes());
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
        assert_eq!(hash("a", "bc"), hash("a", "bc"));
        assert_ne!(hash("a", "bc"), key_hash(8, b"a", b"bc"));
    }

    #[test]
    fn the_hash_of_a_key_never_changes() {
        // Relays of different versions compare digests, and read each other's files. Computed once with an independent
        // implementation of SipHash-2-4-128, which gives the vectors of its authors.
        let seed = u128::from_le_bytes(std::array::from_fn(|byte| u8::try_from(byte).unwrap()));
        assert_eq!(key_hash(seed, b"cid", b"1000").0, VECTOR);
    }

    const VECTOR: u128 = 0x693f_8f21_e306_e007_b1d3_20fc_1ddb_12a9;

    #[test]
    fn what_is_decided_about_has_a_hash_of_its_own() {
        let name = |text: &str| Name::new(text).unwrap();
        let nodes = [
            NodeId::Key {
                dimension: name("d"),
                key: "1".into(),
            },
            NodeId::Bucket {
                dimension: name("d"),
                bucket: 1,
            },
            NodeId::Rule {
                dimension: name("d"),
                rule: 1,
            },
            NodeId::Unit(name("d")),
        ];
        let hashes: std::collections::BTreeSet<_> = nodes.iter().map(|id| node_hash(1, id)).collect();
        assert_eq!(hashes.len(), nodes.len());
    }
}
