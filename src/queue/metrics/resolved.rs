//! Series that are resolved once for what they are of.

use std::hash::Hash;

use crate::model::Map;

/// Series by what they are of. Many topics share those of the settings they fall under: which they are is remembered of some of
/// them, and to find it out again costs little.
pub(super) struct Resolved<K, S> {
    pub(super) places: Map<K, usize>,
    by_labels: Map<String, usize>,
    pub(super) all: Vec<S>,
}

impl<K, S> Default for Resolved<K, S> {
    fn default() -> Self {
        Self {
            places: Map::default(),
            by_labels: Map::default(),
            all: Vec::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, S> Resolved<K, S> {
    /// The series of something that has these labels; they are made if they are new.
    pub(super) fn of(&mut self, key: &K, labels: impl FnOnce() -> String, make: impl FnOnce() -> S) -> &mut S {
        let known = self.places.get(key).copied();
        let at = known.unwrap_or_else(|| self.resolve(key, labels(), make));
        self.at(at)
    }

    fn resolve(&mut self, key: &K, labels: String, make: impl FnOnce() -> S) -> usize {
        let new = self.all.len();
        let at = *self.by_labels.entry(labels).or_insert(new);
        if at == new {
            self.all.push(make());
        }
        if self.places.len() >= RESOLVED_MAX {
            self.places.clear();
        }
        self.places.insert(key.clone(), at);
        at
    }

    #[expect(clippy::indexing_slicing, reason = "places come from this list, which never shrinks")]
    fn at(&mut self, at: usize) -> &mut S {
        &mut self.all[at]
    }
}

/// Topics or groups that are remembered at a time; services choose the names.
pub(super) const RESOLVED_MAX: usize = 4096;
