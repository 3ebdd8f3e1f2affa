//! What the demo saw, whether that is what it claims, and how it says so. Pure.
//!
//! # Invariants
//! - R1. Nothing is told that was not checked: an act is told only if its `problems` are none.

mod books;
mod calls;
mod document;
mod messages;
mod moving;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

pub(super) use self::books::{Books, Poison};
pub(super) use self::calls::{Crossing, Outage, Return, Start};
pub(super) use self::document::{Document, Seen};
pub(super) use self::messages::{Publishing, Replay, Waiting};
pub(super) use self::moving::{Moved, WithoutRoutes};
use super::world::{AWAY, UNITS, Unit};

/// Counts by unit of the caller and owner of the key.
pub(super) type Counts = BTreeMap<(Unit, Unit), u64>;

/// The units that stay.
pub(super) fn stay() -> impl Iterator<Item = Unit> {
    UNITS.into_iter().filter(|unit| *unit != AWAY)
}

fn pairs() -> impl Iterator<Item = (Unit, Unit)> {
    UNITS
        .into_iter()
        .flat_map(|from| UNITS.into_iter().map(move |owner| (from, owner)))
}

fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{} ms", time.as_millis());
    }
    format!("{:.1} s", time.as_secs_f64())
}

/// How many of how many, for each unit that called or published and each owner.
fn grid(verb: &str, counts: impl Fn(Unit, Unit) -> (u64, u64)) -> String {
    let mut text = String::new();
    for from in UNITS {
        // Writing to a String cannot fail.
        let _ = write!(text, "    services of {} {verb} ", from.name);
        for owner in UNITS {
            let (some, all) = counts(from, owner);
            let _ = write!(text, " {}: {some:>3}/{all:<4}", owner.name);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::ledger::{Account, Sum};

    /// An account in which each unit published so much for each, and all arrived.
    pub(super) fn account(messages: u64) -> Account {
        let sum = |messages| Sum {
            published: messages,
            delivered: messages,
        };
        Account {
            pairs: pairs().map(|pair| (pair, sum(messages))).collect(),
            total: sum(9 * messages),
            ..Account::default()
        }
    }

    /// An observation with one thing changed has this problem.
    pub(super) fn check<T>(good: T, change: impl FnOnce(&mut T), problems: impl FnOnce(&T) -> Vec<String>, text: &str) {
        let mut seen = good;
        change(&mut seen);
        let problems = problems(&seen);
        assert!(problems.iter().any(|problem| problem.contains(text)), "{problems:?}");
    }
}
