//! What can be said of settings in which some values could not be read. Pure.
//!
//! With a default in the place of such a value, or without it, others may seem wrong that are right: a rule that names a unit, if it is
//! the unit that could not be read. So nothing is said of what is compared with a table that has a mistake.

use super::path;

/// Settings with mistakes.
pub(super) struct Rest<'a> {
    /// Where the mistakes are.
    mistakes: Vec<&'a str>,
}

impl<'a> Rest<'a> {
    pub(super) fn new(mistakes: Vec<&'a str>) -> Self {
        Self { mistakes }
    }

    /// Whether a complaint about a value holds whatever should have stood at the mistakes.
    pub(super) fn may_say(&self, key: &str) -> bool {
        let table = first(key);
        self.mistakes.iter().all(|mistake| {
            let is_elsewhere = path::parent(mistake).unwrap_or(mistake) != path::parent(key).unwrap_or(key)
                && entry(mistake) != entry(key);
            is_elsewhere && !mistake.is_empty() && !compared_with(table).contains(&first(mistake))
        })
    }
}

/// The tables that values of a table are compared with; itself too, if its own parts are compared with each other. One that is not
/// listed is compared with all that others refer to.
fn compared_with(table: &str) -> &'static [&'static str] {
    match table {
        "admin" | "delivery" | "ingress" | "log" | "queue" | "relay" => &[],
        "peer" => &["peer", "units"],
        "units" => &["peer", "relay"],
        "replay" | "retry" | "services" => &["relay", "units"],
        "access" | "routing" => &["relay", "routing", "units"],
        "routes" => &["relay", "routes", "routing", "units"],
        "topics" => &["queue", "relay", "routing", "services", "units"],
        _ => &[
            "peer", "queue", "relay", "routes", "routing", "services", "topics", "units",
        ],
    }
}

/// The table at the top that a value is in.
fn first(key: &str) -> &str {
    let mut key = key;
    while let Some(parent) = path::parent(key) {
        key = parent;
    }
    key
}

/// The value, table or entry below the top that a value is in.
fn entry(key: &str) -> &str {
    let mut key = key;
    while let Some(parent) = path::parent(key).filter(|parent| path::parent(parent).is_some()) {
        key = parent;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_mistake_cannot_have_caused_is_said() {
        for (mistake, key, expected) in [
            ("units.b.geo", "log.access", true),
            ("units.b.geo", "units.c.geo", true),
            ("units.b.dial", "units.b.relays[0].addresses", false),
            ("units.b.geo", "routing.rules[0].unit", false),
            ("peer.trust", "units.c.geo", false),
            ("routes.store", "routes.dimension[0]", false),
            ("routes.store", "topics.t.retry.attempts", true),
            ("topics.t.ttl", "topics.s.retry.attempts", true),
            ("topics.t.ttl", "topics.t.retry.attempts", false),
            ("queue.message_bytes_max", "topics.t.message_bytes_max", false),
            ("services.\"im.Echo\".timeout", "services.\"im.Room\"", true),
            ("log.level", "log.access", false),
            ("", "log.access", false),
        ] {
            assert_eq!(Rest::new(vec![mistake]).may_say(key), expected, "{mistake} {key}");
        }
    }
}
