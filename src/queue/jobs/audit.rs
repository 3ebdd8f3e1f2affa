//! Counts every message a second time, from the log, and lays it beside the books (M-G8).
//!
//! # Invariants
//! - A1. Books and what is done are of one moment; the log keeps what it had then until the audit is through.

use std::collections::{BTreeMap, VecDeque};

use super::slice;
use crate::model::{Seq, Topic};
use crate::queue::CALLS_TOPIC;
use crate::queue::line::{LineId, Settled};
use crate::queue::log::Scan;
use crate::queue::operator::AuditRow;

/// An audit under way.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    rows: BTreeMap<(String, String), AuditRow>,
    lines: VecDeque<AuditLine>,
    read: u64,
    of: u64,
}

/// A line to be counted.
#[derive(Debug)]
pub(crate) struct AuditLine {
    /// In the log.
    pub(crate) id: LineId,
    /// The last number.
    pub(crate) end: Seq,
    /// Whom its messages are for, and what is done of them.
    pub(crate) shares: Vec<(String, Settled)>,
    /// The next number to read.
    pub(crate) next: Seq,
}

impl Audit {
    /// Beside these books.
    pub(crate) fn new(books: Vec<AuditRow>, lines: Vec<AuditLine>) -> Self {
        let of = lines.iter().map(|line| (line.end + 1).saturating_sub(line.next)).sum();
        Self {
            rows: books
                .into_iter()
                .map(|row| ((row.topic.clone(), row.to.clone()), row))
                .collect(),
            lines: lines.into(),
            read: 0,
            of,
        }
    }

    /// The next read, if it is not through.
    pub(crate) fn scan(&mut self) -> Option<Scan> {
        while self.lines.front().is_some_and(|line| line.next > line.end) {
            self.lines.pop_front();
        }
        self.lines.front().map(|line| slice(line.id, line.next))
    }

    /// A slice was read: topics of messages by number, and where the next slice begins.
    pub(crate) fn on_read(&mut self, found: &[(Seq, Topic)], next: Option<Seq>) {
        let Some(line) = self.lines.front_mut() else {
            return;
        };
        for (seq, topic) in found.iter().filter(|(seq, _)| *seq <= line.end) {
            for (to, done) in &line.shares {
                if !done.contains(*seq) {
                    let row = self.rows.entry((topic.to_string(), to.clone()));
                    row.or_insert_with(|| AuditRow {
                        topic: topic.to_string(),
                        to: to.clone(),
                        ..AuditRow::default()
                    })
                    .pending += 1;
                }
            }
        }
        let before = line.next;
        line.next = next.unwrap_or(line.end + 1);
        self.read += line.next.min(line.end + 1).saturating_sub(before);
    }

    /// How far it is, and of how many.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.read, self.of)
    }

    /// What came out. The relays' own topic is left out where nothing was ever kept: nobody has asked for it.
    pub(crate) fn into_rows(self) -> Vec<AuditRow> {
        let balanced = |mut row: AuditRow| {
            row.difference = difference(&row);
            row
        };
        let rows = self.rows.into_values().filter(|row| !is_unused(row));
        rows.map(balanced).collect()
    }
}

/// Whether the books know nothing of kept calls, and neither does the log.
fn is_unused(row: &AuditRow) -> bool {
    let nothing = AuditRow {
        topic: CALLS_TOPIC.to_owned(),
        to: row.to.clone(),
        ..AuditRow::default()
    };
    *row == nothing
}

/// `accepted` less all that became of it.
fn difference(row: &AuditRow) -> i64 {
    let became = [
        row.relayed,
        row.pending,
        row.expired,
        row.dropped,
        row.dead_lettered,
        row.purged,
        row.corrupted,
        row.rerouted,
    ];
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    became
        .into_iter()
        .fold(whole(row.accepted), |left, part| left.saturating_sub(whole(part)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    #[test]
    fn what_the_log_has_and_what_the_books_say_must_agree() {
        // M-G8
        let topic = Name::new("t").unwrap();
        let row = |accepted, relayed| AuditRow {
            topic: "t".to_owned(),
            to: "b".to_owned(),
            accepted,
            relayed,
            ..AuditRow::default()
        };
        let line = || AuditLine {
            id: LineId(1),
            end: 10,
            shares: vec![("b".to_owned(), Settled::up_to(4))],
            next: 1,
        };
        for (accepted, difference) in [(10, 0), (11, 1), (9, -1)] {
            let mut audit = Audit::new(vec![row(accepted, 4)], vec![line()]);
            assert!(audit.scan().is_some());
            let found: Vec<_> = (3..=8).map(|seq| (seq, topic.clone())).collect();
            audit.on_read(&found, Some(9));
            let found: Vec<_> = (9..=12).map(|seq| (seq, topic.clone())).collect();
            assert_eq!(audit.scan().map(|scan| scan.from), Some(9));
            audit.on_read(&found, None);
            assert!(audit.scan().is_none());
            assert_eq!(audit.progress(), (10, 10));
            let rows = audit.into_rows();
            assert_eq!((rows[0].pending, rows[0].difference), (6, difference));
        }
    }

    // Symptom: a row of zeros for a topic that nobody knows of, at every relay. Of topics that somebody has named it says something.
    #[test]
    fn the_relays_own_topic_is_left_out_until_a_call_was_kept() {
        let row = |topic: &str, accepted| AuditRow {
            topic: topic.to_owned(),
            to: "b".to_owned(),
            accepted,
            ..AuditRow::default()
        };
        let shown = |books, lines, found: &[(Seq, Topic)]| {
            let mut audit = Audit::new(books, lines);
            if audit.scan().is_some() {
                audit.on_read(found, None);
            }
            audit.into_rows().into_iter().map(|row| row.topic).collect::<Vec<_>>()
        };
        assert_eq!(shown(vec![row(CALLS_TOPIC, 0), row("t", 0)], Vec::new(), &[]), ["t"]);
        assert_eq!(shown(vec![row(CALLS_TOPIC, 1)], Vec::new(), &[]), [CALLS_TOPIC]);
        // In the log, and in no book: that is what an audit is for.
        let line = AuditLine {
            id: LineId(1),
            end: 1,
            shares: vec![("b".to_owned(), Settled::up_to(0))],
            next: 1,
        };
        let found = [(1, Name::new(CALLS_TOPIC).unwrap())];
        assert_eq!(shown(vec![row(CALLS_TOPIC, 0)], vec![line], &found), [CALLS_TOPIC]);
    }
}
