//! What is told of messages.

use std::time::Duration;

use super::{grid, pairs, span};
use crate::cli::demo::ledger::{Account, Spread, Sum};
use crate::cli::demo::publishing::UNREADABLE;
use crate::cli::demo::world::{AWAY, GROUP, POISONED, PUBLISHING, UNITS, Unit};
use crate::cli::table::{Table, number};
use crate::queue::operator::{AuditRow, Peeked, RedriveStatus};

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
    /// New messages to the unit, before it went away.
    pub(in crate::cli) before: Spread,
    /// New messages to the unit, while it got its backlog.
    pub(in crate::cli) during: Spread,
}

/// A message that its subscriber cannot read.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Poison {
    /// The message.
    pub(in crate::cli) id: String,
    /// Its key.
    pub(in crate::cli) key: String,
    /// The one before and the one after it in its conversation were delivered.
    pub(in crate::cli) others_arrived: bool,
    /// It was taken before the redrive.
    pub(in crate::cli) arrived_early: bool,
    /// Among the dead letters of the relay.
    pub(in crate::cli) letter: Option<Peeked>,
    /// How it was taken back.
    pub(in crate::cli) redrive: Option<RedriveStatus>,
    /// It was delivered then.
    pub(in crate::cli) arrived: bool,
    /// Its dead letters at the end.
    pub(in crate::cli) left: usize,
}

/// The books of the relays, and the ledger.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Books {
    /// Of each unit's relay.
    pub(in crate::cli) rows: Vec<(Unit, AuditRow)>,
    /// By the ledger.
    pub(in crate::cli) account: Account,
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
             New messages did not wait behind them. From `publish` in unit {} to the subscriber in unit {}:\n\n{}",
            facts.concat(),
            PUBLISHING.name,
            AWAY.name,
            indented(&times),
        )
    }
}

impl Poison {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        let letter = self.letter.as_ref();
        check(
            letter.is_some(),
            "the message that was refused is not among the dead letters",
        );
        check(
            letter.is_none_or(|letter| {
                letter.id == self.id
                    && letter.key.as_ref() == Some(&self.key)
                    && letter.error.as_ref().is_some_and(|error| error.contains(UNREADABLE))
            }),
            "the dead letter is not the message that was refused, or does not say why",
        );
        check(
            self.others_arrived,
            "other messages of the conversation were not delivered",
        );
        check(!self.arrived_early, "the message that was refused counts as delivered");
        let redrive = self.redrive.as_ref();
        check(
            redrive.is_some_and(|task| task.state == "done" && task.moved == 1 && task.failed == 0),
            "the redrive did not take the message back",
        );
        check(self.arrived, "the message that was redriven was not delivered");
        check(self.left == 0, "the message is still among the dead letters");
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let (unit, relay) = (POISONED.name, POISONED.relay);
        let letter = self.letter.clone().unwrap_or_default();
        let facts = [
            ("id", letter.id),
            ("key", letter.key.unwrap_or_default()),
            (
                "reason",
                format!("{} (no further attempt is wanted)", letter.reason.unwrap_or_default()),
            ),
            ("error", letter.error.unwrap_or_default()),
        ];
        let facts: String = facts
            .iter()
            .map(|(name, value)| format!("    {name:<8}{value}\n"))
            .collect();
        format!(
            "Three messages of one conversation went to unit {unit}. Its subscriber refused the second one for good and took\n\
             the others. What was refused is not lost, it lies among the dead letters of relay {relay}:\n\n{facts}\n\
             Then the subscriber was repaired and the dead letter redriven, which means sent on its way again. Now it was\n\
             taken: behind the third one, which a redrive has to allow where messages keep their order."
        )
    }
}

impl Books {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = faults(&self.account);
        if self.account.total.lost() > 0 {
            let Sum { published, delivered } = self.account.total;
            problems.push(format!(
                "{published} messages were published, {delivered} of them delivered"
            ));
        }
        for (from, to) in pairs().filter(|(from, to)| from != to) {
            let sum = self.account.pairs.get(&(from, to)).copied().unwrap_or_default();
            self.check(&mut problems, from, to.name, (sum.published, 0));
        }
        for unit in UNITS {
            let sums = self.account.pairs.iter().filter(|((_, owner), _)| *owner == unit);
            let dead = u64::from(unit == POISONED);
            let arrived = sums.map(|(_, sum)| sum.published).sum();
            self.check(&mut problems, unit, &format!("group {GROUP}"), (arrived, dead));
        }
        problems
    }

    /// The row of a relay for a unit or group: what arrived, and what was a dead letter first.
    fn check(&self, problems: &mut Vec<String>, of: Unit, to: &str, (arrived, dead): (u64, u64)) {
        let row = self.rows.iter().find(|(unit, row)| *unit == of && row.to == to);
        let row = row.map(|(_, row)| row.clone()).unwrap_or_default();
        let wanted = AuditRow {
            topic: row.topic.clone(),
            to: row.to.clone(),
            accepted: arrived + dead,
            relayed: arrived,
            dead_lettered: dead,
            ..AuditRow::default()
        };
        if row != wanted {
            problems.push(format!(
                "the books of relay {} for {to} should say {} accepted, {arrived} arrived, {dead} dead, but say {row:?}",
                of.relay, wanted.accepted
            ));
        }
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let mut table = Table::new(&[
            "RELAY",
            "FOR",
            "ACCEPTED>",
            "= ARRIVED>",
            "+ WAITING>",
            "+ EXPIRED>",
            "+ DROPPED>",
            "+ DEAD>",
            "+ PURGED>",
        ]);
        for (unit, row) in &self.rows {
            let to = if row.to.contains(' ') {
                "its subscribers".to_owned()
            } else {
                format!("unit {}", row.to)
            };
            let numbers = [
                row.accepted,
                row.relayed,
                row.pending,
                row.expired,
                row.dropped,
                row.dead_lettered,
                row.purged,
            ];
            let mut texts = vec![unit.relay.to_owned(), to];
            texts.extend(numbers.map(number));
            table.row(texts);
        }
        let Account {
            twice,
            out_of_order,
            moved,
            ..
        } = self.account;
        let Sum { published, delivered } = self.account.total;
        let mut ledger = Table::new(&["PUBLISHED>", "DELIVERED>", "LOST>", "TWICE>", "OUT OF ORDER>"]);
        let numbers = [published, delivered, self.account.total.lost(), twice, out_of_order];
        ledger.row(numbers.map(number).to_vec());
        format!(
            "What the relays accepted for other units and for their own subscribers, and what became of it:\n\n{}\n\
             (The message that was redriven counts as dead, and as accepted a second time.)\n\n\
             And by the demo's own count of what was published and what subscribers got:\n\n{}\n\
             Twice: a message may come a second time if a relay was killed before it had noted the first (\"at least once\").\n\
             Out of order: within a conversation; without the message that was redriven{}.",
            indented(&table),
            indented(&ledger),
            if moved > 0 { ", which came late as allowed" } else { "" },
        )
    }
}

/// What no message may meet.
fn faults(account: &Account) -> Vec<String> {
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

fn indented(table: &Table) -> String {
    let mut out = Vec::new();
    // Writing to a vector cannot fail.
    let _ = table.print(&mut out);
    let text = String::from_utf8_lossy(&out);
    text.lines().map(|line| format!("    {line}\n")).collect()
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

    fn account(messages: u64) -> Account {
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
            before: spread,
            during: spread,
        }
    }

    fn poison() -> Poison {
        Poison {
            id: "a/a-1/1/7".to_owned(),
            key: "im.conversation=cid:2007".to_owned(),
            others_arrived: true,
            arrived_early: false,
            letter: Some(Peeked {
                id: "a/a-1/1/7".to_owned(),
                key: Some("im.conversation=cid:2007".to_owned()),
                reason: Some("terminated".to_owned()),
                error: Some(UNREADABLE.to_owned()),
                ..Peeked::default()
            }),
            redrive: Some(RedriveStatus {
                state: "done".to_owned(),
                moved: 1,
                ..RedriveStatus::default()
            }),
            arrived: true,
            left: 0,
        }
    }

    fn books() -> Books {
        let row = |to: String, relayed, dead_lettered| AuditRow {
            topic: "im.events".to_owned(),
            to,
            accepted: relayed + dead_lettered,
            relayed,
            dead_lettered,
            ..AuditRow::default()
        };
        let links = pairs().filter(|(from, to)| from != to);
        let mut rows: Vec<_> = links.map(|(from, to)| (from, row(to.name.to_owned(), 20, 0))).collect();
        let groups = UNITS.map(|unit| (unit, row(format!("group {GROUP}"), 60, u64::from(unit == POISONED))));
        rows.extend(groups);
        Books {
            rows,
            account: account(20),
        }
    }

    /// An observation with one thing changed has this problem.
    fn check<T>(good: T, change: impl FnOnce(&mut T), problems: impl FnOnce(&T) -> Vec<String>, text: &str) {
        let mut seen = good;
        change(&mut seen);
        let problems = problems(&seen);
        assert!(problems.iter().any(|problem| problem.contains(text)), "{problems:?}");
    }

    // R1: what is as it should be passes, and can be told.
    #[test]
    fn good_observations_of_messages_have_no_problems() {
        let problems = [
            publishing().problems(),
            waiting().problems(),
            replay().problems(),
            poison().problems(),
            books().problems(),
        ];
        assert_eq!(problems.concat(), Vec::<String>::new());
        assert!(replay().tell().contains("500 messages a second, over 2.0 s"));
        assert!(poison().tell().contains("reason  terminated"));
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
        let of = Books::problems;
        check(
            books(),
            |seen| seen.account.total.delivered -= 1,
            of,
            "179 of them delivered",
        );
        check(
            books(),
            |seen| seen.account.out_of_order = 2,
            of,
            "2 messages came after later ones",
        );
        check(
            books(),
            |seen| seen.account.strays = 1,
            of,
            "1 messages came to the wrong unit",
        );
        let refuse = |seen: &mut Books| seen.account.failed.push("full".to_owned());
        check(books(), refuse, of, "not accepted, the first one because: full");
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

    // M-E4, M-F1
    #[test]
    fn a_dead_letter_that_is_missing_other_or_stays_is_a_problem() {
        let of = Poison::problems;
        check(poison(), |seen| seen.letter = None, of, "not among the dead letters");
        check(
            poison(),
            |seen| seen.id = "other".to_owned(),
            of,
            "not the message that was refused",
        );
        check(
            poison(),
            |seen| seen.letter.as_mut().unwrap().error = None,
            of,
            "does not say why",
        );
        check(
            poison(),
            |seen| seen.others_arrived = false,
            of,
            "other messages of the conversation",
        );
        check(poison(), |seen| seen.arrived_early = true, of, "counts as delivered");
        check(
            poison(),
            |seen| seen.redrive.as_mut().unwrap().moved = 0,
            of,
            "did not take the message back",
        );
        check(poison(), |seen| seen.arrived = false, of, "was not delivered");
        check(poison(), |seen| seen.left = 1, of, "still among the dead letters");
    }

    // M-G8: each figure of each row of the books counts.
    #[test]
    fn books_that_differ_from_the_ledger_are_a_problem() {
        for index in 0..books().rows.len() {
            for change in [
                |row: &mut AuditRow| row.accepted += 1,
                |row: &mut AuditRow| row.relayed -= 1,
                |row: &mut AuditRow| row.pending = 1,
                |row: &mut AuditRow| row.corrupted = 1,
                |row: &mut AuditRow| row.difference = 1,
                |row: &mut AuditRow| row.dead_lettered += 1,
            ] {
                let change = |seen: &mut Books| change(&mut seen.rows[index].1);
                check(books(), change, Books::problems, "the books of relay");
            }
        }
        check(
            books(),
            |seen| seen.rows.clear(),
            Books::problems,
            "should say 20 accepted",
        );
    }
}
