//! Links between relays, and to the store: each direction for itself loses, repeats, delays and reorders what is sent on it.

use std::collections::BTreeSet;

use super::{Event, World};

/// What can be at an end of a link.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Spot {
    Relay(usize),
    Store,
}

pub(super) struct Net {
    /// Directions in which everything is lost.
    pub cut: BTreeSet<(Spot, Spot)>,
}

impl Net {
    pub(super) fn new() -> Self {
        Self { cut: BTreeSet::new() }
    }
}

impl World {
    /// Something goes from one to another; it may come late, twice or never.
    #[expect(clippy::needless_pass_by_value, reason = "what is sent is gone")]
    pub(super) fn send(&mut self, from: Spot, to: Spot, event: Event) {
        if self.net.cut.contains(&(from, to)) {
            return;
        }
        let copies = match self.dice.u8(..100) {
            0 if !self.calm => 0,
            1 | 2 if !self.calm => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let time = self.delay(to);
            self.plan_in(time, event.clone());
        }
    }

    fn delay(&mut self, to: Spot) -> u64 {
        let late = if to == Spot::Store { 20 } else { 4 };
        match self.dice.u16(..1000) {
            dice if dice < late && !self.calm => self.dice.u64(500_000..8_000_000),
            20..70 => self.dice.u64(3_000..200_000),
            _ => self.dice.u64(200..3_000),
        }
    }
}
