//! Values of labels: few, whatever services and peers write (E1).

use crate::model::{DeadPlace, GroupName, Topic};
use crate::queue::lanes::LaneKind;
use crate::queue::{TopicSettings, Topics};

/// The settings a topic fell under, as they are named.
pub(super) fn pattern<'a>(topics: &'a Topics, topic: &Topic) -> &'a str {
    TopicSettings::named(topics, topic).map_or(OTHER, |(pattern, _)| pattern)
}

pub(super) fn known_group<'a>(topics: &Topics, topic: &Topic, group: &'a GroupName) -> &'a str {
    let declared = TopicSettings::of(topics, topic).is_some_and(|settings| settings.groups.contains_key(group));
    if declared { group.as_str() } else { OTHER }
}

pub(super) fn known_reason(reason: &str) -> &'static str {
    let known = DEAD.into_iter().find(|(_, known)| *known == reason);
    known.map_or(OTHER, |(_, known)| known)
}

pub(super) fn lane_number(lane: LaneKind) -> usize {
    match lane {
        LaneKind::Backlog => 0,
        LaneKind::Live => 1,
    }
}

pub(super) const LINK: &str = "link";
pub(super) const DELIVERY: &str = "delivery";
pub(super) const OTHER: &str = "other";
pub(super) const LANES: [&str; 2] = ["backlog", "live"];
/// Places and words of dead letters (`record::DeadLetter`).
pub(super) const DEAD: [(DeadPlace, &str); 11] = [
    (DeadPlace::Delivery, "attempts"),
    (DeadPlace::Delivery, "terminated"),
    (DeadPlace::Delivery, "expired"),
    (DeadPlace::Delivery, "rest_of_key"),
    (DeadPlace::Link, "expired"),
    (DeadPlace::Link, "too_large"),
    (DeadPlace::Link, "unknown_topic"),
    (DeadPlace::Link, "not_allowed"),
    (DeadPlace::Link, "loop"),
    (DeadPlace::Policy, "loop"),
    (DeadPlace::Policy, "not_allowed"),
];
