//! Numbers of calls: index and generation, so that neither side needs a hash map.

/// Index and generation in one number, as the wire has it.
pub(super) fn join(index: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(u32::try_from(index).unwrap_or(u32::MAX))
}

/// The index part.
pub(super) fn index(id: u64) -> usize {
    usize::try_from(id & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

/// Gives out call numbers with the smallest free index, so that tables stay small.
#[derive(Default)]
pub(super) struct Ids {
    generations: Vec<u32>,
    free: Vec<usize>,
    in_use: usize,
}

impl Ids {
    /// A fresh number with an index below `limit`, or `None` if all are in use.
    pub(super) fn take(&mut self, limit: usize) -> Option<u64> {
        if self.in_use >= limit {
            return None;
        }
        let index = if let Some(index) = self.free.pop() {
            index
        } else {
            self.generations.push(0);
            self.generations.len() - 1
        };
        let slot = self.generations.get_mut(index)?;
        *slot = slot.wrapping_add(1);
        self.in_use += 1;
        Some(join(index, *slot))
    }

    /// Takes a number back, once, when its call has ended.
    pub(super) fn give(&mut self, id: u64) {
        self.free.push(index(id));
        self.in_use -= 1;
    }

    /// Numbers in use.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }
}

/// Calls by number: a table of slots, each with the full number of the call in it.
pub(super) struct Calls<T> {
    slots: Vec<Option<(u64, T)>>,
    len: usize,
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Calls<T> {
    /// The call with exactly this number; `None` for calls that have ended.
    pub(super) fn get(&mut self, id: u64) -> Option<&mut T> {
        match self.slots.get_mut(index(id)) {
            Some(Some((found, call))) if *found == id => Some(call),
            _ => None,
        }
    }

    /// Puts a call in. `false` if another call has its index.
    pub(super) fn put(&mut self, id: u64, call: T) -> bool {
        let at = index(id);
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        match self.slots.get_mut(at) {
            Some(slot @ None) => {
                *slot = Some((id, call));
                self.len += 1;
                true
            }
            _ => false,
        }
    }

    /// The call with this index and its full number.
    pub(super) fn at(&mut self, index: usize) -> Option<(u64, &mut T)> {
        let (id, call) = self.slots.get_mut(index)?.as_mut()?;
        Some((*id, call))
    }

    /// Takes a call out.
    pub(super) fn take(&mut self, id: u64) -> Option<T> {
        self.get(id)?;
        let (_, call) = self.slots.get_mut(index(id))?.take()?;
        self.len -= 1;
        Some(call)
    }

    /// All calls with their numbers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.slots.iter_mut().flatten().map(|(id, call)| (*id, call))
    }

    /// Takes all calls out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, T)> + use<T> {
        self.len = 0;
        std::mem::take(&mut self.slots).into_iter().flatten()
    }

    /// Number of calls.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}
