//! The state of the link to a unit, as operators see it (M-G1).
//!
//! # Invariants
//! - G1. `live` and `draining` are said only while what waits has an open lane, and everything that was sent has been
//!   acknowledged within [`STALLED`].

use std::time::Duration;

use super::lane::Lane;
use crate::queue::lanes::LaneKind;
use crate::queue::record::Pause;

/// What the state follows from.
pub(super) struct Facts<'a> {
    pub(super) lanes: &'a [Option<&'a Lane>],
    pub(super) pause: Option<&'a Pause>,
    /// What the peer said when it wanted no lane.
    pub(super) denied: Option<&'a str>,
    /// Why the last lane went, if one ever was.
    pub(super) lost: Option<&'a str>,
    pub(super) live: u64,
    pub(super) backlog: u64,
}

/// The state, and why.
pub(super) fn of(now: Duration, facts: &Facts<'_>) -> (&'static str, String) {
    let lanes = || facts.lanes.iter().flatten();
    if let Some(pause) = facts.pause {
        return ("paused", pause.reason.clone());
    }
    if let Some(detail) = facts.denied {
        return ("denied", detail.to_owned());
    }
    if let Some(lane) = lanes().find(|lane| owes(now, lane) >= STALLED) {
        let why = if lane.busy { BUSY } else { "acknowledges nothing" };
        return ("stalled", format!("{} {why}", lane.relay));
    }
    if lanes().next().is_none() {
        return match facts.lost {
            Some(why) => ("down", why.to_owned()),
            None => ("connecting", String::new()),
        };
    }
    let is_open = |kind: LaneKind| lanes().any(|lane| lane.kind == kind && lane.is_open());
    let (live, backlog) = (is_open(LaneKind::Live), is_open(LaneKind::Backlog));
    let lacks = (facts.live > 0 && !live) || (facts.backlog > 0 && !backlog);
    if lacks || !(live || backlog) {
        return ("connecting", facts.lost.unwrap_or_default().to_owned());
    }
    let state = if facts.backlog > 0 { "draining" } else { "live" };
    let busy = lanes().find(|lane| lane.busy);
    (
        state,
        busy.map_or(String::new(), |lane| format!("{} {BUSY}", lane.relay)),
    )
}

/// Whether a lane should be made anew. One whose peer said that it is out of resources should not.
pub(super) fn is_dead(now: Duration, lane: &Lane) -> bool {
    !lane.busy && owes(now, lane) >= DEAD
}

/// When a lane has to be looked at again.
pub(super) fn dead_at(lane: &Lane) -> Option<Duration> {
    lane.waits_since().filter(|_| !lane.busy).map(|since| since + DEAD)
}

fn owes(now: Duration, lane: &Lane) -> Duration {
    lane.waits_since()
        .map_or(Duration::ZERO, |since| now.saturating_sub(since))
}

const BUSY: &str = "is out of resources";
/// Without an acknowledgement for so long, a lane is stalled,
const STALLED: Duration = Duration::from_secs(10);
/// and given up after this.
const DEAD: Duration = Duration::from_secs(15);
