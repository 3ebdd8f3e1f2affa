//! Whether relays can report a freeze. One that was killed and has started again cannot before all is over that it had let through
//! (P5 of the keeper): what is frozen meanwhile is frozen in vain.
//!
//! The store knows which lives followed one without a good-bye, but not on every implementation since when they last. That is
//! counted from when this mover saw them begin; what it saw when it began itself, it takes for new.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sight;
use crate::model::UnitId;
use crate::routing::record::{RelayId, Rev};

/// The present lives of relays.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives(BTreeMap<RelayId, Life>);

/// A life of a relay.
#[derive(Clone, Copy, Debug)]
struct Life {
    rev: Rev,
    /// Since when this mover knows of it: it began before.
    seen: Duration,
    /// Whether the life before ended without a good-bye; `None` until the store has said so.
    succeeds: Option<bool>,
}

/// Whether relays of a unit can report that nothing runs there (P5 of the keeper).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Settling {
    Over,
    /// How they stand is to be asked for.
    Unknown,
    /// This one cannot yet.
    Waits(RelayId),
}

impl Lives {
    /// Looks at who is there.
    pub(super) fn look(&mut self, sight: &Sight<'_>) {
        let known = std::mem::take(&mut self.0);
        for (relay, rev) in sight.routes.relays() {
            let before = known.get(relay).copied().filter(|life| life.rev == rev);
            let mut life = before.unwrap_or(Life {
                rev,
                seen: sight.now,
                succeeds: None,
            });
            // What was heard before the copy knew of this life may be about another one.
            if let Some(standing) = sight.standing.filter(|standing| standing.at >= rev) {
                let row = standing.relays.iter().find(|row| row.relay == *relay);
                life.succeeds = row.map(|row| row.succeeds).or(life.succeeds);
            }
            self.0.insert(relay.clone(), life);
        }
    }

    /// Whether relays of a unit can report a freeze. One that was killed and has started again cannot for a while: to freeze
    /// anything then would be in vain.
    pub(super) fn settling(&self, unit: &UnitId, in_flight_max: Duration, now: Duration) -> Settling {
        let of_unit = self.0.iter().filter(|(relay, _)| relay.unit == *unit);
        let mut settling = Settling::Over;
        for (relay, life) in of_unit.filter(|(_, life)| now.saturating_sub(life.seen) < in_flight_max) {
            match life.succeeds {
                Some(true) => return Settling::Waits(relay.clone()),
                Some(false) => {}
                None => settling = Settling::Unknown,
            }
        }
        settling
    }
}
