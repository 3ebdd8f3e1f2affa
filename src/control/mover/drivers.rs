//! Since when relays drive moves. What a driver does for so long and no longer it does anew after a start, and so does the next one.
//!
//! Counted from when this mover saw it; what it saw when it began itself, it takes for new.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sight;
use crate::routing::record::{MoveId, RecordId, RelayId, Rev};

/// Who drives each move.
#[derive(Clone, Debug, Default)]
pub(super) struct Drivers(BTreeMap<MoveId, Seat>);

#[derive(Clone, Debug)]
struct Seat {
    relay: RelayId,
    /// The revision at which its present life began.
    life: Rev,
    seen: Duration,
}

impl Drivers {
    /// Looks at who drives.
    pub(super) fn look(&mut self, sight: &Sight<'_>) {
        let mut known = std::mem::take(&mut self.0);
        for work in sight.routes.moves() {
            let life = sight.routes.rev_of(&RecordId::Relay(work.driver.clone()));
            let before = known.remove(&work.id);
            let before = before.filter(|seat| (&seat.relay, seat.life) == (&work.driver, life));
            let seat = before.unwrap_or_else(|| Seat {
                relay: work.driver.clone(),
                life,
                seen: sight.now,
            });
            self.0.insert(work.id, seat);
        }
    }

    /// How long the present life of its driver has driven a move.
    pub(super) fn age(&self, id: MoveId, now: Duration) -> Duration {
        self.0
            .get(&id)
            .map_or(Duration::ZERO, |seat| now.saturating_sub(seat.seen))
    }
}
