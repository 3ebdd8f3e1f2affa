//! What is told of a message that was refused, and of the books.

use super::messages::{faults, indented};
use super::pairs;
use crate::cli::demo::ledger::{Account, Sum};
use crate::cli::demo::publishing::UNREADABLE;
use crate::cli::demo::world::{GROUP, POISONED, UNITS, Unit};
use crate::cli::table::{Table, number};
use crate::queue::operator::{AuditRow, Peeked, RedriveStatus};

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
        let facts = facts.map(|(name, value)| format!("    {name:<8}{value}\n")).concat();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::report::tests::{account, check};

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

    // R1: what is as it should be passes, and can be told.
    #[test]
    fn a_redriven_message_and_books_that_balance_have_no_problems() {
        assert_eq!(poison().problems(), Vec::<String>::new());
        assert_eq!(books().problems(), Vec::<String>::new());
        assert!(poison().tell().contains("reason  terminated"));
    }

    // M-B1, M-C1: the last word on all messages.
    #[test]
    fn a_ledger_with_faults_is_a_problem() {
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
