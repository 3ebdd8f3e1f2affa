//! What is told of messages that cross, wait and are replayed.

use std::time::Duration;

use super::{grid, pairs, span};
use crate::cli::demo::ledger::{Account, Conversation, Spread, Sum};
use crate::cli::demo::world::{AWAY, PUBLISHING, Unit};
use crate::cli::table::{Table, number};

/// All units publish to all.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Publishing {
    /// By the ledger.
    pub(in crate::cli) account: Account,
    /// How long messages of the unit that goes on publishing took, by unit that they went to.
    pub(in crate::cli) spreads: Vec<(Unit, Spread)>,
}

/// Messages for the unit that is away.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Waiting {
    /// What was published to.
    pub(in crate::cli) conversations: Vec<Conversation>,
    /// Those that were published when it was known to be away.
    pub(in crate::cli) accepted: u64,
    /// Those that the relay of the publisher keeps for it, by its own count.
    pub(in crate::cli) kept: u64,
    /// State of the unit, in the words of that relay.
    pub(in crate::cli) state: String,
}

/// The unit gets what waited for it.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Replay {
    /// Messages that waited when it began.
    pub(in crate::cli) backlog: u64,
    /// Messages that waited at the last look.
    pub(in crate::cli) left: u64,
    /// Messages a second, as the relay is configured.
    pub(in crate::cli) limit: f64,
    /// How long it took.
    pub(in crate::cli) took: Duration,
    /// New messages of conversations that waited, published while it got its backlog.
    pub(in crate::cli) behind: u64,
    /// Messages that came after later ones of their conversation.
    pub(in crate::cli) out_of_order: u64,
    /// New messages to the unit, before it went away.
    pub(in crate::cli) before: Spread,
    /// The same of other conversations, published while it got its backlog.
    pub(in crate::cli) during: Spread,
}

impl Publishing {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = faults(&self.account);
        for (from, owner) in pairs() {
            let sum = self.account.pairs.get(&(from, owner)).copied().unwrap_or_default();
            let (from, owner) = (from.name, owner.name);
            if sum.published == 0 {
                problems.push(format!("unit {from} published nothing for unit {owner}"));
            }
            if sum.lost() > 0 {
                let (lost, all) = (sum.lost(), sum.published);
                problems.push(format!(
                    "{lost} of {all} messages from unit {from} did not come to unit {owner}"
                ));
            }
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let Sum { published, delivered } = self.account.total;
        let grid = grid("published for keys of", |from, owner| {
            let sum = self.account.pairs.get(&(from, owner)).copied().unwrap_or_default();
            (sum.delivered, sum.published)
        });
        let mut times = spreads();
        for (owner, spread) in &self.spreads {
            let way = if *owner == PUBLISHING {
                "to its own subscriber".to_owned()
            } else {
                format!("to the subscriber in unit {}", owner.name)
            };
            times.row(timed(way, spread));
        }
        format!(
            "{} of {} messages delivered. Each was accepted when it was on the disk of the relay next to its publisher,\n\
             and went to a subscriber in the unit that owns its key, in the order of its conversation:\n\n{grid}\n\
             Unit {} goes on publishing to the end of the demo. From `publish` to the subscriber, disks on the way included:\n\n{}",
            number(delivered),
            number(published),
            PUBLISHING.name,
            indented(&times),
        )
    }
}

impl Waiting {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.accepted == 0 {
            problems.push("no message for the unit that is away was accepted".to_owned());
        }
        if self.kept < self.accepted {
            let (kept, accepted) = (self.kept, self.accepted);
            problems.push(format!(
                "the relay keeps {kept} messages for the unit that is away, but accepted {accepted}"
            ));
        }
        if self.state != "down" {
            problems.push(format!("the relay says that the unit that is away is {:?}", self.state));
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        format!(
            "\nMessages are not refused: {} more for unit {} were accepted since, and wait on the disk of relay {}.",
            number(self.accepted),
            AWAY.name,
            PUBLISHING.relay,
        )
    }
}

impl Replay {
    /// Messages a second. Never more than it was: see `Watch::replay`.
    pub(in crate::cli) fn rate(&self) -> f64 {
        float(self.backlog) / self.took.as_secs_f64().max(0.001)
    }

    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.backlog == 0 || self.left > 0 {
            let (left, all) = (self.left, self.backlog);
            problems.push(format!("{left} of {all} messages of the backlog were not replayed"));
            return problems;
        }
        if self.limit <= 0.0 || self.rate() > self.limit * TOLERANCE {
            let (rate, limit) = (self.rate(), self.limit);
            problems.push(format!(
                "the backlog went at {rate:.0} messages a second, but {limit:.0} are allowed"
            ));
        }
        if self.before.count == 0 || self.during.count == 0 {
            problems.push("no new message was measured before the outage, or during the replay".to_owned());
        }
        if self.behind == 0 || self.out_of_order > 0 {
            let (late, new) = (self.out_of_order, self.behind);
            problems.push(format!(
                "conversations that waited went on with {new} new messages, but {late} came out of order"
            ));
        }
        if self.during.half > self.took / 4 {
            let half = span(self.during.half);
            problems.push(format!(
                "new messages waited behind the backlog: half of them for {half} or longer"
            ));
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let waited = format!("waited on the disk of relay {}", PUBLISHING.relay);
        let facts = [
            (waited.as_str(), number(self.backlog), String::new()),
            (
                "rate that is set for the replay",
                format!("{:.0}", self.limit),
                " a second".to_owned(),
            ),
            (
                "rate that was seen",
                format!("{:.0}", self.rate()),
                format!(" a second, over {}", span(self.took)),
            ),
        ];
        let facts = facts.map(|(name, value, over)| format!("    {name:<34}{value:>6} messages{over}\n"));
        let mut times = spreads();
        times.row(timed("before unit c went away".to_owned(), &self.before));
        times.row(timed("during the replay".to_owned(), &self.during));
        format!(
            "\nThe messages that waited for it, its backlog, were replayed at a limited rate:\n\n{}\n\
             Conversations that went on meanwhile kept their order: {} new messages went behind the old ones of theirs.\n\
             Messages of other conversations did not wait. From `publish` in unit {} to the subscriber in unit {}:\n\n{}",
            facts.concat(),
            self.behind,
            PUBLISHING.name,
            AWAY.name,
            indented(&times),
        )
    }
}

/// What no message may meet.
pub(super) fn faults(account: &Account) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(first) = account.failed.first() {
        let count = account.failed.len();
        problems.push(format!(
            "{count} messages were not accepted, the first one because: {first}"
        ));
    }
    if account.out_of_order > 0 {
        let count = account.out_of_order;
        problems.push(format!("{count} messages came after later ones of their conversation"));
    }
    if account.strays > 0 {
        let count = account.strays;
        problems.push(format!("{count} messages came to the wrong unit, or under another id"));
    }
    problems
}

fn spreads() -> Table {
    Table::new(&["", "MESSAGES>", "HALF WITHIN>", "99 OF 100 WITHIN>"])
}

fn timed(name: String, spread: &Spread) -> Vec<String> {
    vec![name, number(spread.count), fine(spread.half), fine(spread.most)]
}

/// Milliseconds with a tenth.
fn fine(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

pub(super) fn indented(table: &Table) -> String {
    let mut out = Vec::new();
    // Writing to a vector cannot fail.
    let _ = table.print(&mut out);
    let text = String::from_utf8_lossy(&out);
    text.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}

fn float(count: u64) -> f64 {
    // Exact for what a demo publishes.
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// M-D2 allows 5 % over any 10 s; this is shorter, and a burst at its beginning counts.
const TOLERANCE: f64 = 1.1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::report::tests::{account, check};
    use crate::cli::demo::world::UNITS;

    fn publishing() -> Publishing {
        Publishing {
            account: account(20),
            spreads: Vec::new(),
        }
    }

    fn waiting() -> Waiting {
        Waiting {
            accepted: 1000,
            kept: 1010,
            conversations: Vec::new(),
            state: "down".to_owned(),
        }
    }

    fn replay() -> Replay {
        let spread = Spread {
            count: 100,
            half: Duration::from_millis(2),
            most: Duration::from_millis(9),
        };
        Replay {
            backlog: 1000,
            left: 0,
            limit: 500.0,
            took: Duration::from_secs(2),
            behind: 20,
            out_of_order: 0,
            before: spread,
            during: spread,
        }
    }

    // R1: what is as it should be passes, and can be told.
    #[test]
    fn good_observations_of_messages_have_no_problems() {
        let problems = [publishing().problems(), waiting().problems(), replay().problems()];
        assert_eq!(problems.concat(), Vec::<String>::new());
        assert!(replay().tell().contains("500 messages a second, over 2.0 s"));
    }

    // M-B1, M-C1, M-G4: the demo must not pass over what is lost, disordered or astray.
    #[test]
    fn a_message_that_is_lost_late_or_astray_is_a_problem() {
        let pair = (UNITS[0], UNITS[2]);
        let of = Publishing::problems;
        let lose = |seen: &mut Publishing| seen.account.pairs.get_mut(&pair).unwrap().delivered -= 1;
        check(
            publishing(),
            lose,
            of,
            "1 of 20 messages from unit a did not come to unit c",
        );
        let none = |seen: &mut Publishing| _ = seen.account.pairs.remove(&pair);
        check(publishing(), none, of, "unit a published nothing for unit c");
    }

    // M-D2, M-D3: a replay that is too fast, ends early, or holds up what is new.
    #[test]
    fn a_replay_without_limit_or_in_the_way_is_a_problem() {
        let of = Replay::problems;
        check(
            replay(),
            |seen| seen.took = Duration::from_millis(1700),
            of,
            "588 messages a second, but 500",
        );
        check(replay(), |seen| seen.limit = 0.0, of, "but 0 are allowed");
        check(replay(), |seen| seen.left = 3, of, "3 of 1000 messages of the backlog");
        check(replay(), |seen| seen.backlog = 0, of, "0 of 0 messages");
        check(
            replay(),
            |seen| seen.during.count = 0,
            of,
            "no new message was measured",
        );
        check(
            replay(),
            |seen| seen.during.half = seen.took / 2,
            of,
            "waited behind the backlog",
        );
        check(replay(), |seen| seen.behind = 0, of, "0 new messages");
        check(replay(), |seen| seen.out_of_order = 2, of, "2 came out of order");
        let of = Waiting::problems;
        check(waiting(), |seen| seen.kept = 999, of, "keeps 999 messages");
        check(
            waiting(),
            |seen| seen.accepted = 0,
            of,
            "no message for the unit that is away",
        );
        check(waiting(), |seen| seen.state = "live".to_owned(), of, "\"live\"");
    }
}
