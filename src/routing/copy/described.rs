//! Words for what a look-up sees, for `explain`.

use super::resolve::Walk;
use crate::routing::evidence::{Known, Source, Verdict};
use crate::routing::record::{Epoch, Node, NodeId, State, Target};

pub(super) fn part_name(id: &NodeId) -> &'static str {
    match id {
        NodeId::Key { .. } => "key",
        NodeId::Bucket { .. } => "bucket",
        NodeId::Rule { .. } => "rule",
        NodeId::Unit(_) => "unit",
    }
}

pub(super) fn node(node: &Node) -> String {
    if node.state == State::Tombstone {
        return format!("what was decided about it was taken back at revision {}", node.rev);
    }
    let owner = match &node.target {
        Target::Unit(unit) => format!("unit {unit} owns it"),
        Target::Follow(dimension) => format!("it goes where the call's key of {dimension} goes"),
        Target::Group { dimension, .. } => format!("it belongs to a group of {dimension}"),
    };
    let state = match &node.state {
        State::Active | State::Tombstone | State::Evacuated { .. } => String::new(),
        State::Draining => "; it gets no new keys".to_owned(),
        State::Migrating { to, by } => format!("; move {by} copies it to unit {to}"),
        State::Frozen { to, by } => format!("; move {by} has frozen it on its way to unit {to}"),
        State::Fencing { by } => format!("; evacuation {by} waits for its relays to stop"),
        State::Returning { by, .. } => format!("; work {by} waits until it can have its keys again"),
    };
    format!("{owner}, since revision {}{state}", node.rev)
}

pub(super) fn evidence(source: Source, known: &Known, verdict: Verdict) -> String {
    let what = match source {
        Source::Token => "the call's token",
        _ => "the key's claim",
    };
    let as_of = known.as_of;
    match verdict {
        Verdict::Current => {
            let target = match &known.target {
                Target::Unit(unit) => format!("gives the key to unit {unit}"),
                Target::Follow(dimension) => format!("lets it go where the call's key of {dimension} goes"),
                Target::Group { dimension, .. } => format!("puts it into a group of {dimension}"),
            };
            format!("{what} {target}, as of revision {as_of}")
        }
        Verdict::Superseded => format!("{what} is of revision {as_of}, and something was decided about the key since"),
        Verdict::TooOld => format!("{what} is of revision {as_of}, from before the route store was restored"),
        Verdict::Ahead(needs) => format!("{what} speaks of revision {needs}, of which this relay has not heard yet"),
    }
}

/// A choice without the store.
pub(super) fn provisional(known: &Known, counts: bool) -> String {
    let what = match &known.target {
        Target::Unit(unit) => format!("for unit {unit}"),
        Target::Follow(dimension) => format!("for the owner of the call's key of {dimension}"),
        Target::Group { dimension, .. } => format!("for a group of {dimension}"),
    };
    let standing = if counts {
        "claimed when the route store is back"
    } else {
        "but something was decided about the key since, or the route store was restored"
    };
    format!("this relay chose {what} while the route store is away; {standing}")
}

/// What came of it.
pub(super) fn end(walk: &Walk, epoch: Epoch) -> String {
    match walk.frozen {
        None => format!("no move holds up writes; epoch {epoch}"),
        Some((rev, by)) => format!("move {by} froze it at revision {rev}: writes wait; epoch {epoch}"),
    }
}
