//! Which of very many keys are used most: so many are kept, each with a value.
//!
//! A new key takes the place of the coldest and its count, as in the space-saving sketch: a key that is used more often than
//! once in as many uses as there are places is always kept.

use std::borrow::Borrow;
use std::hash::Hash;

use super::Map;

/// The keys that are used most.
#[derive(Clone, Debug)]
pub struct Hottest<K, V> {
    max: usize,
    kept: Map<K, (u64, V)>,
}

impl<K: Clone + Eq + Hash, V> Hottest<K, V> {
    /// Keeps at most `max` keys.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            kept: Map::default(),
        }
    }

    /// The value of a key that is used now; `None` if it is not kept.
    pub fn used<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (count, value) = self.kept.get_mut(key)?;
        *count = count.saturating_add(1);
        Some(value)
    }

    /// The value of a key, which is not counted as used.
    pub fn peek<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.kept.get(key).map(|(_, value)| value)
    }

    /// The value of a key, to be changed; it is not counted as used.
    pub fn peek_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.kept.get_mut(key).map(|(_, value)| value)
    }

    /// Keeps a key that is used now. Costs a look at all that are kept if there are as many as may be.
    pub fn insert(&mut self, key: K, value: V) {
        if self.max == 0 {
            return;
        }
        if let Some((_, old)) = self.kept.get_mut(&key) {
            *old = value;
            return;
        }
        let mut count = 1;
        if self.kept.len() >= self.max {
            let coldest = self.kept.iter().min_by_key(|(_, (count, _))| *count);
            if let Some((coldest, of_coldest)) = coldest.map(|(key, (count, _))| (key.clone(), *count)) {
                self.kept.remove(&coldest);
                count = of_coldest.saturating_add(1);
            }
        }
        self.kept.insert(key, (count, value));
    }

    /// Forgets what is not to be kept.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &mut V) -> bool) {
        self.kept.retain(|key, (_, value)| keeps(key, value));
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // bounded whatever comes, and who is used more often than once in `max` uses is there.
        #[test]
        fn the_hottest_are_kept_and_never_more(uses in prop::collection::vec(0_u8..40, 0..600), max in 1_usize..12) {
            let mut kept = Hottest::new(max);
            let mut counts = [0_usize; 40];
            for (at, key) in uses.iter().enumerate() {
                counts[usize::from(*key)] += 1;
                if kept.used(key).is_none() {
                    kept.insert(*key, ());
                }
                prop_assert!(kept.len() <= max);
                for (key, count) in (0_u8..).zip(counts) {
                    prop_assert!(count <= (at + 1) / max || kept.peek(&key).is_some(), "{key} of {count}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_kept_if_nothing_may_be() {
        let mut kept = Hottest::new(0);
        kept.insert(1, ());
        assert!(kept.is_empty() && kept.used(&1).is_none());
    }
}
