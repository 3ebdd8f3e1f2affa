//! What was decided about single keys: millions of entries, read without a lock, changed without a copy of all of them.
//!
//! ```text
//! root --6 bits--> node --6 bits--> node --...--> leaf: up to 96 entries, sorted by hash
//! ```
//! A radix tree over the bits of the hash, which is spread evenly. Clones share everything; a change copies the nodes
//! from the root to one leaf, or nothing if no clone is left that could see it.
//!
//! # Invariants
//! - V1. A clone never changes, whatever happens to the one it came from.
//! - V2. An entry is 24 bytes; all else together stays below a third of that.
//! - V3. A look-up allocates nothing and takes no lock.

use std::sync::Arc;

use super::KeyHash;

/// Entries by hash.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    root: Tree,
    len: usize,
}

/// What is kept of an entry: 48 bits of revision, 16 bits for the owner of the map.
pub(super) type Packed = u64;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    /// Two halves, because 16 bytes would be aligned to 16.
    high: u64,
    low: u64,
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Tree {
    Leaf(Arc<[Entry]>),
    Node(Arc<[Tree; FAN]>),
}

impl Default for Tree {
    fn default() -> Self {
        Self::Leaf(Arc::new([]))
    }
}

impl Overrides {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of a key.
    pub(super) fn get(&self, hash: KeyHash) -> Option<Packed> {
        let (high, low) = halves(hash);
        let mut tree = &self.root;
        let mut depth = 0;
        loop {
            match tree {
                Tree::Node(children) => {
                    tree = children.get(slot(high, depth))?;
                    depth += 1;
                }
                Tree::Leaf(entries) => return find(entries, high, low, depth).ok().and_then(|at| packed(entries, at)),
            }
        }
    }

    /// Sets the entry of a key.
    pub(super) fn insert(&mut self, hash: KeyHash, packed: Packed) {
        let (high, low) = halves(hash);
        let entry = Entry { high, low, packed };
        if self.root.insert(entry, 0) {
            self.len += 1;
        }
    }

    /// All entries, by hash.
    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyHash, Packed)> + '_ {
        let mut stack = vec![&self.root];
        let mut leaf: &[Entry] = &[];
        std::iter::from_fn(move || {
            loop {
                if let Some((entry, rest)) = leaf.split_first() {
                    leaf = rest;
                    let hash = (u128::from(entry.high) << 64) | u128::from(entry.low);
                    return Some((KeyHash(hash), entry.packed));
                }
                match stack.pop()? {
                    Tree::Leaf(entries) => leaf = entries,
                    Tree::Node(children) => stack.extend(children.iter().rev()),
                }
            }
        })
    }

    /// Bytes it takes, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        let mut stack = vec![&self.root];
        let mut bytes = size_of::<Self>();
        while let Some(tree) = stack.pop() {
            bytes += COUNTERS;
            match tree {
                Tree::Leaf(entries) => bytes += size_of_val::<[Entry]>(entries),
                Tree::Node(children) => {
                    bytes += size_of::<[Tree; FAN]>();
                    stack.extend(children.iter());
                }
            }
        }
        bytes
    }
}

impl Tree {
    /// Whether the entry is new.
    fn insert(&mut self, entry: Entry, depth: u32) -> bool {
        match self {
            Self::Node(children) => match Arc::make_mut(children).get_mut(slot(entry.high, depth)) {
                Some(child) => child.insert(entry, depth + 1),
                None => false,
            },
            Self::Leaf(entries) => match find(entries, entry.high, entry.low, depth) {
                Ok(at) => {
                    if let Some(place) = Arc::make_mut(entries).get_mut(at) {
                        *place = entry;
                    }
                    false
                }
                Err(at) => {
                    let (before, after) = entries.split_at(at.min(entries.len()));
                    let grown: Vec<_> = before.iter().chain([&entry]).chain(after).copied().collect();
                    *self = Self::of(&grown, depth);
                    true
                }
            },
        }
    }

    /// A leaf, or a node if there are too many for one.
    fn of(entries: &[Entry], depth: u32) -> Self {
        if entries.len() <= LEAF_MAX || depth >= DEPTH_MAX {
            return Self::Leaf(entries.into());
        }
        let mut rest = entries;
        let children = std::array::from_fn(|child| {
            let end = rest.partition_point(|entry| slot(entry.high, depth) <= child);
            let (mine, others) = rest.split_at(end);
            rest = others;
            Self::Leaf(mine.into())
        });
        Self::Node(Arc::new(children))
    }
}

/// Where an entry is, or would be. Starts where an even spread puts it.
fn find(entries: &[Entry], high: u64, low: u64, depth: u32) -> Result<usize, usize> {
    let wanted = (high, low);
    let at = |index: usize| entries.get(index).map(|entry| (entry.high, entry.low));
    // The bits below those that led here, as a share of the leaf.
    let share = (high << (BITS * depth).min(63)) >> 32;
    let length = u64::try_from(entries.len()).unwrap_or_default();
    let mut index = usize::try_from((share * length) >> 32).unwrap_or_default();
    while at(index).is_some_and(|found| found < wanted) {
        index += 1;
    }
    while let Some(before) = index.checked_sub(1)
        && at(before).is_some_and(|found| found >= wanted)
    {
        index = before;
    }
    if at(index) == Some(wanted) {
        Ok(index)
    } else {
        Err(index)
    }
}

fn packed(entries: &[Entry], at: usize) -> Option<Packed> {
    entries.get(at).map(|entry| entry.packed)
}

/// The child of a node at this depth.
fn slot(high: u64, depth: u32) -> usize {
    let shifted = high << (BITS * depth).min(63);
    usize::try_from(shifted >> (64 - BITS)).unwrap_or_default()
}

fn halves(hash: KeyHash) -> (u64, u64) {
    let low = u64::try_from(hash.0 & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(hash.0 >> 64).unwrap_or_default();
    (high, low)
}

const BITS: u32 = 6;
const FAN: usize = 1 << BITS;
/// Beyond it a leaf becomes a node. Copying one costs less than a microsecond.
const LEAF_MAX: usize = 96;
/// All bits of the first half are used.
const DEPTH_MAX: u32 = 10;
/// What an `Arc` adds.
const COUNTERS: usize = 2 * size_of::<usize>();

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // V1. Few high halves, so that leaves are full and entries of equal halves meet.
        #[test]
        fn it_is_a_map_and_clones_stay_as_they_were(
            steps in prop::collection::vec((0_u64..6, 0_u64..300, any::<u64>(), prop::bool::weighted(0.02)), 1..800),
            spread in any::<bool>(),
        ) {
            let (mut map, mut model) = (Overrides::default(), BTreeMap::new());
            let mut clones = Vec::new();
            for (high, low, packed, clone) in steps {
                let high = if spread { low.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { high };
                let hash = KeyHash((u128::from(high) << 64) | u128::from(low));
                if clone {
                    clones.push((map.clone(), model.clone()));
                }
                map.insert(hash, packed);
                model.insert(hash, packed);
                prop_assert_eq!(map.get(hash), Some(packed));
                prop_assert_eq!(map.get(KeyHash(hash.0 ^ 1)), model.get(&KeyHash(hash.0 ^ 1)).copied());
            }
            clones.push((map, model));
            for (map, model) in clones {
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter().map(|(hash, packed)| (*hash, *packed))));
                for (hash, packed) in &model {
                    prop_assert_eq!(map.get(*hash), Some(*packed));
                }
            }
        }
    }

    // V2, at every fill.
    #[test]
    fn an_entry_costs_little_at_every_fill() {
        let mut map = Overrides::default();
        let mut worst = 0;
        for number in 1..200_000_u128 {
            map.insert(crate::routing::key_hash(1, b"d", &number.to_le_bytes()), 0);
            if number % 9973 == 0 {
                worst = worst.max(map.bytes() / map.len());
            }
        }
        assert!(worst <= 60, "{worst} bytes");
    }
}
