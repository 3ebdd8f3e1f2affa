//! What is told of routes: a move under writes, and calls without the relay that keeps the routes.

use std::fmt::Write as _;
use std::time::Duration;

use super::{pairs, span};
use crate::cli::demo::moving::owners;
use crate::cli::demo::room::{Account, DIMENSION, HOT};
use crate::cli::demo::traffic::Tallies;
use crate::cli::demo::world::{ROUTES, Unit};
use crate::cli::table::number;
use crate::control::operator::Status;
use crate::routing::record::Epoch;

/// A conversation was moved while both units wrote to it.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Moved {
    /// What came of the writes.
    pub(in crate::cli) account: Account,
    /// From the operator's question to its end.
    pub(in crate::cli) took: Duration,
    /// Keys that were moved, as the relay says.
    pub(in crate::cli) keys: u32,
    /// Why it could not be shown.
    pub(in crate::cli) problem: Option<String>,
}

/// The relay that keeps the routes is away.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct WithoutRoutes {
    /// From its end until the others said so; `None` if they did not.
    pub(in crate::cli) known_after: Option<Duration>,
    /// How long it was away while others wrote and called.
    pub(in crate::cli) away_for: Duration,
    /// What came of the writes meanwhile.
    pub(in crate::cli) account: Account,
    /// Calls among all units meanwhile.
    pub(in crate::cli) calls: Tallies,
    /// What the first write to a new conversation got; `None` if it was taken.
    pub(in crate::cli) refused: Option<String>,
    /// What the other relays of its Geo say about it.
    pub(in crate::cli) status: Vec<(Unit, Status)>,
    /// From its start until the others heard of it again; `None` if they did not.
    pub(in crate::cli) back_after: Option<Duration>,
    /// What the same write got then; `None` if it was taken.
    pub(in crate::cli) refused_then: Option<String>,
}

impl Moved {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        if let Some(problem) = &self.problem {
            return vec![problem.clone()];
        }
        let mut problems = faults(&self.account);
        let [from, to] = owners();
        let wrote: Vec<Unit> = self.account.owners.iter().map(|(unit, ..)| *unit).collect();
        if self.keys != 1 || wrote != [from, to] {
            let names: Vec<_> = wrote.iter().map(|unit| unit.name).collect();
            problems.push(format!(
                "the room should have gone from unit {} to unit {}, but services wrote in {names:?}",
                from.name, to.name
            ));
        }
        if self.account.longest > PAUSE_LIMIT {
            problems.push(format!("a writer waited for {}", span(self.account.longest)));
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let [from, to] = owners();
        let account = &self.account;
        let mut text = format!(
            "Rooms belong to the unit that writes first; this one to unit {}. Services of units {} and {} write to it as fast as\n\
             they get answers, four writers in each. Meanwhile: strait route move --key {DIMENSION}={HOT} --to {}\n\n",
            from.name, from.name, to.name, to.name
        );
        for (unit, writes, epoch) in &account.owners {
            text += &row(
                &format!("written in unit {}", unit.name),
                *writes,
                &format!("it owns the room since revision {}", Epoch(*epoch)),
            );
        }
        text += &row("acknowledged to the writers", account.writes, "");
        text += &row("lost", account.lost, "");
        text += &row("doubled", account.doubled, "");
        text += &row("out of their writer's order", account.reordered, "");
        text += &row("refused", number_of(&account.refused), "");
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\nFrom the last write in unit {} to the first in unit {}: {}. No writer waited for an answer longer than {}.\n\
             The whole move took {}.",
            from.name,
            to.name,
            span(account.gap),
            span(account.longest),
            span(self.took)
        );
        text
    }
}

impl WithoutRoutes {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = faults(&self.account);
        for (from, owner) in pairs() {
            let tally = self.calls.0.get(&(from, owner)).cloned().unwrap_or_default();
            super::calls::all_answered(&mut problems, from, owner, &tally);
        }
        if self.known_after.is_none() {
            problems.push("the other relays did not notice that the routes are away".to_owned());
        }
        for (unit, status) in &self.status {
            let refuses = status.dimensions.iter().find(|row| !row.admits);
            if let Some(row) = refuses {
                problems.push(format!("unit {} does not admit writes of {}", unit.name, row.dimension));
            }
        }
        match &self.refused {
            None => problems.push("a new room was claimed while nobody could know who has it".to_owned()),
            Some(why) if !why.starts_with(REASON) => {
                problems.push(format!("a new room should have been refused as {REASON}, but: {why}"));
            }
            Some(_) => {}
        }
        if self.back_after.is_none() {
            problems.push("the other relays did not hear of the routes again".to_owned());
        }
        if let Some(why) = &self.refused_then {
            problems.push(format!(
                "a new room was refused when the routes were there again: {why}"
            ));
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let total = self.calls.total();
        let store = self.status.first().map_or("", |(_, status)| status.store.as_str());
        format!(
            "Relay {} keeps the routes of Geo {} ({store}). It was away for {}, and everything with an owner went on:\n\n{}{}\n\
             Only what needs a decision waits: the first write to a new room got\n\n    strait-error: {}\n\n\
             `strait route status` said so {} after its end, at both relays: the feed is SILENT, writes are admitted all the same\n\
             (owner_lease = \"infinite\"). {} after it was started again the room had its first write.",
            ROUTES.relay,
            ROUTES.geo,
            span(self.away_for),
            row(
                "writes to the room that was moved",
                self.account.writes,
                "none lost, doubled, reordered or refused"
            ),
            row(
                "calls between all units",
                total.answered,
                &format!("of {}", number(total.calls))
            ),
            self.refused.as_deref().unwrap_or_default(),
            self.known_after.map_or_else(String::new, span),
            self.back_after.map_or_else(String::new, span),
        )
    }
}

/// What must not be, whoever owns the room.
fn faults(account: &Account) -> Vec<String> {
    let mut problems = Vec::new();
    if account.writes == 0 {
        problems.push("nobody wrote to the room".to_owned());
    }
    for (count, what) in [
        (account.lost, "acknowledged and lost"),
        (account.doubled, "done twice"),
        (account.reordered, "done after a later one of their writer"),
        (account.misplaced, "done by a unit that did not own the room any more"),
    ] {
        if count > 0 {
            problems.push(format!("{count} writes to the room were {what}"));
        }
    }
    if let Some(why) = account.refused.first() {
        let count = account.refused.len();
        problems.push(format!(
            "{count} writes to the room were refused, the first with {why:?}"
        ));
    }
    problems
}

fn row(what: &str, count: u64, more: &str) -> String {
    let text = format!("    {what:<34}{:>9}   {more}", number(count));
    format!("{}\n", text.trim_end())
}

fn number_of(refused: &[String]) -> u64 {
    u64::try_from(refused.len()).unwrap_or(u64::MAX)
}

/// What a relay says when it cannot ask who has a key.
const REASON: &str = "routes_away";
/// A pause that callers would take for an outage.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::demo::report::tests::check;
    use crate::cli::demo::traffic::Tally;

    type Change<T> = fn(&mut T);

    fn moved() -> Moved {
        let [from, to] = owners();
        Moved {
            account: Account {
                writes: 30,
                owners: vec![(from, 10, 5), (to, 20, 9)],
                ..Account::default()
            },
            keys: 1,
            ..Moved::default()
        }
    }

    fn away() -> WithoutRoutes {
        let tally = Tally {
            calls: 4,
            answered: 4,
            by_owner: 4,
            ..Tally::default()
        };
        let second = Duration::from_secs(1);
        WithoutRoutes {
            known_after: Some(second),
            account: moved().account,
            calls: Tallies(pairs().map(|pair| (pair, tally.clone())).collect::<BTreeMap<_, _>>()),
            refused: Some("routes_away; unit=a; relay=a-1".to_owned()),
            back_after: Some(second),
            ..WithoutRoutes::default()
        }
    }

    #[test]
    fn good_observations_have_no_problems() {
        assert_eq!(moved().problems(), Vec::<String>::new());
        assert_eq!(away().problems(), Vec::<String>::new());
    }

    // R1: one false observation each, and the demo must not claim it.
    #[test]
    fn each_false_observation_is_a_problem() {
        let moves: [(Change<Moved>, &str); 9] = [
            (|seen| seen.account.writes = 0, "nobody wrote"),
            (
                |seen| seen.account.lost = 1,
                "1 writes to the room were acknowledged and lost",
            ),
            (|seen| seen.account.doubled = 2, "2 writes to the room were done twice"),
            (|seen| seen.account.reordered = 1, "after a later one"),
            (|seen| seen.account.misplaced = 1, "did not own"),
            (
                |seen| seen.account.refused.push("moving".to_owned()),
                "refused, the first with \"moving\"",
            ),
            (
                |seen| seen.account.owners.truncate(1),
                "should have gone from unit a to unit b",
            ),
            (
                |seen| seen.account.longest = Duration::from_secs(6),
                "a writer waited for 6.0 s",
            ),
            (|seen| seen.problem = Some("no".to_owned()), "no"),
        ];
        for (change, text) in moves {
            check(moved(), change, Moved::problems, text);
        }
        let outages: [(Change<WithoutRoutes>, &str); 6] = [
            (|seen| seen.account.lost = 1, "acknowledged and lost"),
            (|seen| seen.calls.0.clear(), "was made"),
            (|seen| seen.known_after = None, "did not notice"),
            (|seen| seen.refused = None, "was claimed"),
            (|seen| seen.refused = Some("internal".to_owned()), "but: internal"),
            (|seen| seen.back_after = None, "did not hear"),
        ];
        for (change, text) in outages {
            check(away(), change, WithoutRoutes::problems, text);
        }
    }
}
