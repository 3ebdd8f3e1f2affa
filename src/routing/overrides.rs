//! What was decided about single keys: millions of entries, read without a lock, changed without a copy of all of them.
//!
//! ```text
//! root --6 bits--> node --6 bits--> node --...--> leaf: up to 96 entries, sorted by hash
//! ```
//! A radix tree over the bits of the hash, which is spread evenly. Clones share everything; a change copies the nodes
//! from the root to one leaf, or changes them in place if no clone is left that could see it.
//!
//! # Invariants
//! - V1. A clone never changes, whatever happens to the one it came from.
//! - V2. With eight bytes for each value an entry is 24 bytes; with all else it is below 60 at every size.
//! - V3. A look-up allocates nothing and takes no lock.

use std::sync::Arc;

use super::KeyHash;

/// Values by hash.
#[derive(Clone, Debug)]
pub(super) struct Overrides<V> {
    root: Tree<V>,
    len: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry<V> {
    /// Two halves, because 16 bytes would be aligned to 16.
    high: u64,
    low: u64,
    value: V,
}

#[derive(Clone, Debug)]
enum Tree<V> {
    Leaf(Arc<[Entry<V>]>),
    Node(Arc<[Tree<V>; FAN]>),
}

impl<V> Default for Overrides<V> {
    fn default() -> Self {
        Self {
            root: Tree::Leaf(Arc::new([])),
            len: 0,
        }
    }
}

impl<V: Clone> Overrides<V> {
    /// Of entries that are sorted by hash, each hash once.
    pub(super) fn from_sorted(entries: impl Iterator<Item = (KeyHash, V)>) -> Self {
        let entries: Vec<_> = entries.map(|(hash, value)| Entry::new(hash, value)).collect();
        Self {
            root: Tree::of(&entries, 0),
            len: entries.len(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value of a key.
    pub(super) fn get(&self, hash: KeyHash) -> Option<&V> {
        let (high, low) = halves(hash);
        let mut tree = &self.root;
        let mut depth = 0;
        loop {
            match tree {
                Tree::Node(children) => {
                    tree = children.get(slot(high, depth))?;
                    depth += 1;
                }
                Tree::Leaf(entries) => {
                    let at = find(entries, high, low, depth).ok()?;
                    return entries.get(at).map(|entry| &entry.value);
                }
            }
        }
    }

    /// Sets the value of a key.
    pub(super) fn insert(&mut self, hash: KeyHash, value: V) {
        if self.root.insert(Entry::new(hash, value), 0) {
            self.len += 1;
        }
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, hash: KeyHash) {
        if self.get(hash).is_some() {
            let (high, low) = halves(hash);
            self.root.remove(high, low, 0);
            self.len -= 1;
        }
    }

    /// All entries, by hash.
    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyHash, &V)> {
        let mut stack = vec![&self.root];
        let mut leaf: &[Entry<V>] = &[];
        std::iter::from_fn(move || {
            loop {
                if let Some((entry, rest)) = leaf.split_first() {
                    leaf = rest;
                    let hash = (u128::from(entry.high) << 64) | u128::from(entry.low);
                    return Some((KeyHash(hash), &entry.value));
                }
                match stack.pop()? {
                    Tree::Leaf(entries) => leaf = entries,
                    Tree::Node(children) => stack.extend(children.iter().rev()),
                }
            }
        })
    }

    /// Bytes it takes, without what the allocator adds and what values point at.
    pub(super) fn bytes(&self) -> usize {
        let mut stack = vec![&self.root];
        let mut bytes = size_of::<Self>();
        while let Some(tree) = stack.pop() {
            bytes += COUNTERS;
            match tree {
                Tree::Leaf(entries) => bytes += size_of_val::<[Entry<V>]>(entries),
                Tree::Node(children) => {
                    bytes += size_of::<[Tree<V>; FAN]>();
                    stack.extend(children.iter());
                }
            }
        }
        bytes
    }
}

impl<V: Clone> Tree<V> {
    /// Whether the entry is new.
    fn insert(&mut self, entry: Entry<V>, depth: u32) -> bool {
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
                    // The length is known, so this is one allocation.
                    let grown: Arc<[_]> = before.iter().chain([&entry]).chain(after).cloned().collect();
                    *self = if grown.len() <= LEAF_MAX {
                        Self::Leaf(grown)
                    } else {
                        Self::of(&grown, depth)
                    };
                    true
                }
            },
        }
    }

    /// Leaves may become empty, and stay.
    fn remove(&mut self, high: u64, low: u64, depth: u32) {
        match self {
            Self::Node(children) => {
                if let Some(child) = Arc::make_mut(children).get_mut(slot(high, depth)) {
                    child.remove(high, low, depth + 1);
                }
            }
            Self::Leaf(entries) => {
                let others = entries.iter().filter(|entry| (entry.high, entry.low) != (high, low));
                *entries = others.cloned().collect();
            }
        }
    }

    /// A leaf, or a node if there are too many for one.
    fn of(entries: &[Entry<V>], depth: u32) -> Self {
        if entries.len() <= LEAF_MAX || depth >= DEPTH_MAX {
            return Self::Leaf(entries.into());
        }
        let mut rest = entries;
        let children = std::array::from_fn(|child| {
            let end = rest.partition_point(|entry| slot(entry.high, depth) <= child);
            let (mine, others) = rest.split_at(end);
            rest = others;
            Self::of(mine, depth + 1)
        });
        Self::Node(Arc::new(children))
    }
}

impl<V> Entry<V> {
    fn new(hash: KeyHash, value: V) -> Self {
        let (high, low) = halves(hash);
        Self { high, low, value }
    }
}

/// Where an entry is, or would be. Starts where an even spread puts it.
fn find<V>(entries: &[Entry<V>], high: u64, low: u64, depth: u32) -> Result<usize, usize> {
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
    use crate::routing::key_hash;

    proptest! {
        // V1. Few high halves, so that leaves are full and entries of equal halves meet.
        #[test]
        fn it_is_a_map_and_clones_stay_as_they_were(
            steps in prop::collection::vec(
                (0_u64..6, 0_u64..300, any::<u64>(), prop::bool::weighted(0.02), prop::bool::weighted(0.1)), 1..800,
            ),
            spread in any::<bool>(),
        ) {
            let (mut map, mut model) = (Overrides::default(), BTreeMap::new());
            let mut clones = Vec::new();
            for (high, low, value, clone, removes) in steps {
                let high = if spread { low.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { high };
                let hash = KeyHash((u128::from(high) << 64) | u128::from(low));
                if clone {
                    clones.push((map.clone(), model.clone()));
                }
                if removes {
                    map.remove(hash);
                    model.remove(&hash);
                } else {
                    map.insert(hash, value);
                    model.insert(hash, value);
                }
                prop_assert_eq!(map.get(hash), model.get(&hash));
                let other = KeyHash(hash.0 ^ 1);
                prop_assert_eq!(map.get(other), model.get(&other));
            }
            clones.push((map, model));
            for (map, model) in clones {
                prop_assert_eq!(map.len(), model.len());
                let sorted = Overrides::from_sorted(model.iter().map(|(hash, value)| (*hash, *value)));
                for map in [map, sorted] {
                    prop_assert!(map.iter().eq(model.iter().map(|(hash, value)| (*hash, value))));
                    for (hash, value) in &model {
                        prop_assert_eq!(map.get(*hash), Some(value));
                    }
                }
            }
        }
    }

    // V2, at every size: leaves of a depth all become nodes at about the same one.
    #[test]
    fn an_entry_costs_little_at_every_size() {
        let mut map = Overrides::default();
        let mut worst = 0;
        for number in 1..100_000_u64 {
            map.insert(key_hash(1, b"d", &number.to_le_bytes()), number);
            if number % 9973 == 0 || (5000..8000).contains(&number) && number % 500 == 0 {
                worst = worst.max(map.bytes() / map.len());
            }
        }
        assert!(worst <= 60, "{worst} bytes");
    }

    // V2, V1: what nobody else sees is changed where it is, so a batch copies each node once at most.
    #[test]
    fn what_no_clone_can_see_is_changed_in_place() {
        let mut map = Overrides::default();
        let hash = |number: u64| key_hash(1, b"d", &number.to_le_bytes());
        for number in 0..1000 {
            map.insert(hash(number), number);
        }
        let place = |map: &Overrides<u64>| std::ptr::from_ref(map.get(hash(7)).unwrap());
        let before = place(&map);
        map.insert(hash(7), 0);
        assert_eq!(place(&map), before);
        let clone = map.clone();
        map.insert(hash(7), 1);
        assert_ne!(place(&map), before);
        assert_eq!((place(&clone), clone.get(hash(7))), (before, Some(&0)));
        // Leaves beside it are shared.
        let shared = (0..1000).filter(|number| {
            std::ptr::from_ref(map.get(hash(*number)).unwrap()) == std::ptr::from_ref(clone.get(hash(*number)).unwrap())
        });
        assert!(shared.count() > 900);
    }
}
