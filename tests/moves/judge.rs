//! Everything that can be wrong with a ledger.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::ledger::{Attempt, Execution, Said};
use crate::stage::RELAYS;

/// A time in which a relay was stopped for longer than its leases: what it had let through before can be done after others have
/// its keys, and only the storage of an application that looks at epochs can refuse that (level L2).
#[derive(Clone, Copy, Debug)]
pub struct Absence {
    /// The relay, by position.
    pub relay: usize,
    /// SIGSTOP.
    pub from: Instant,
    /// SIGCONT, and the time for what was under way.
    pub until: Instant,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// Writes that callers were told are done.
    pub acknowledged: usize,
    /// Writes whose callers saw an error.
    pub failed: usize,
    /// Of these, writes that were done all the same.
    pub failed_but_done: usize,
    /// Writes that services gave up half-way, because whoever asked was gone.
    pub given_up: usize,
    /// Changes of owners of keys, as services saw them.
    pub handovers: usize,
    /// Writes under an old epoch that only an application could have refused, as the guarantee says.
    pub beyond_the_relay: usize,
    /// What must not be; the first of each kind.
    pub wrong: Vec<String>,
}

/// Looks at all of it.
pub fn judge(executions: &[Execution], attempts: &[Attempt], absences: &[Absence]) -> Verdict {
    let mut verdict = Verdict::default();
    let done: Vec<_> = executions.iter().filter(|execution| !execution.cancelled).collect();
    verdict.given_up = executions.len() - done.len();
    let mut by_key: BTreeMap<usize, Vec<&Execution>> = BTreeMap::new();
    let mut by_write: HashMap<u64, Vec<&Execution>> = HashMap::new();
    for execution in done {
        by_key.entry(execution.key).or_default().push(execution);
        by_write.entry(execution.write).or_default().push(execution);
    }
    for of_key in by_key.values_mut() {
        of_key.sort_by_key(|execution| (execution.epoch, execution.begun));
        verdict.look_at_owners(of_key, absences);
    }
    for of_write in by_write.values().filter(|of_write| of_write.len() > 1) {
        verdict.complain(format!("a write was done twice: {of_write:?}"));
    }
    for attempt in attempts {
        let found = by_write.get(&attempt.write).and_then(|of_write| of_write.first());
        verdict.look_at_caller(attempt, found.copied());
    }
    verdict
}

impl Verdict {
    /// R-I1, R-I2, R-I3: one unit for each epoch, and nothing of a unit before the one before it has ended. A unit that has the key
    /// again, and wrote nothing in between, has it under a higher one.
    fn look_at_owners(&mut self, of_key: &[&Execution], absences: &[Absence]) {
        for of_epoch in of_key.chunk_by(|a, b| a.epoch == b.epoch) {
            if let Some(other) = of_epoch.iter().find(|other| unit(other) != unit(of_epoch[0])) {
                self.complain(format!("two units at one epoch: {:?} and {other:?}", of_epoch[0]));
            }
        }
        let terms: Vec<_> = of_key.chunk_by(|a, b| unit(a) == unit(b)).collect();
        self.handovers += terms.len().saturating_sub(1);
        let mut done = 0;
        for of_term in terms {
            if let Some(first) = of_term.iter().min_by_key(|execution| execution.begun) {
                let before = of_key[..done].iter().filter(|old| unit(old) != unit(first));
                let late = before.filter(|old| old.ended.is_some_and(|ended| ended > first.begun));
                for old in late {
                    self.late(old, first, absences);
                }
            }
            done += of_term.len();
        }
    }

    /// A write of an older owner ended after the first of a newer one had begun.
    fn late(&mut self, old: &Execution, next: &Execution, absences: &[Absence]) {
        let ended = old.ended.unwrap_or(old.begun);
        let is_absent =
            |absence: &Absence| absence.relay == old.relay && old.begun <= absence.until && ended >= absence.from;
        if absences.iter().any(is_absent) {
            self.beyond_the_relay += 1;
        } else {
            self.complain(format!(
                "an old epoch goes on under a newer one: {old:?} ended after {next:?} had begun"
            ));
        }
    }

    /// What was acknowledged was done, once, by whom it was said.
    fn look_at_caller(&mut self, attempt: &Attempt, found: Option<&Execution>) {
        match (&attempt.said, found) {
            (Said::Done { unit: said, epoch }, Some(execution)) => {
                self.acknowledged += 1;
                let is_so = said == unit(execution) && *epoch == execution.epoch && attempt.key == execution.key;
                if !is_so {
                    self.complain(format!(
                        "the caller was told something else: {attempt:?}, {execution:?}"
                    ));
                }
            }
            (Said::Done { .. }, None) => {
                self.acknowledged += 1;
                self.complain(format!("an acknowledged write was never done: {attempt:?}"));
            }
            (Said::Failed(_), found) => {
                self.failed += 1;
                self.failed_but_done += usize::from(found.is_some());
            }
        }
    }

    /// Keeps the first of what is wrong.
    pub fn complain(&mut self, text: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(text);
        }
    }
}

fn unit(execution: &Execution) -> &'static str {
    RELAYS[execution.relay].0
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Story {
        start: Instant,
        executions: Vec<Execution>,
        attempts: Vec<Attempt>,
    }

    impl Story {
        fn new() -> Self {
            Self {
                start: Instant::now(),
                executions: Vec::new(),
                attempts: Vec::new(),
            }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        /// A write of the only key that a service began and ended then.
        fn done(&mut self, write: u64, relay: usize, epoch: u64, (begun, ended): (u64, u64)) -> &mut Execution {
            let (begun, ended) = (self.at(begun), Some(self.at(ended)));
            self.executions.push(Execution {
                write,
                key: 0,
                relay,
                epoch,
                begun,
                ended,
                cancelled: false,
            });
            self.executions.last_mut().unwrap()
        }

        fn told(&mut self, write: u64, said: Said) {
            self.attempts.push(Attempt {
                write,
                key: 0,
                from: 0,
                begun: self.start,
                took: Duration::from_millis(1),
                said,
            });
        }

        fn verdict(&self, absences: &[Absence]) -> Verdict {
            judge(&self.executions, &self.attempts, absences)
        }
    }

    fn by(unit: &str, epoch: u64) -> Said {
        Said::Done {
            unit: unit.to_owned(),
            epoch,
        }
    }

    fn check(story: &Story, expected: &str) {
        let wrong = story.verdict(&[]).wrong;
        assert!(wrong.len() == 1 && wrong[0].contains(expected), "{expected}: {wrong:?}");
    }

    #[test]
    fn a_move_without_a_fault_is_well() {
        let mut story = Story::new();
        story.done(1, 0, 5, (0, 2));
        story.done(2, 1, 5, (1, 3));
        story.done(6, 1, 6, (2, 4));
        story.done(7, 0, 5, (3, 4));
        story.done(3, 2, 7, (4, 6));
        story.done(4, 3, 9, (7, 8)).cancelled = true;
        story.told(1, by("a", 5));
        story.told(3, by("b", 7));
        story.told(2, Said::Failed("unit_away".to_owned()));
        story.told(5, Said::Failed("moving".to_owned()));
        let verdict = story.verdict(&[]);
        assert_eq!(verdict.wrong, [""; 0]);
        let counts = (
            verdict.acknowledged,
            verdict.failed,
            verdict.failed_but_done,
            verdict.given_up,
            verdict.handovers,
        );
        assert_eq!(counts, (2, 2, 1, 1, 1));
    }

    #[test]
    fn each_kind_of_fault_is_found() {
        let mut story = Story::new();
        story.done(1, 0, 5, (0, 1));
        story.done(2, 2, 5, (2, 3));
        check(&story, "two units at one epoch");

        let mut story = Story::new();
        story.done(1, 0, 5, (0, 9));
        story.done(2, 2, 7, (8, 10));
        check(&story, "an old epoch goes on");

        let mut story = Story::new();
        story.done(1, 2, 7, (0, 1));
        story.done(2, 0, 5, (2, 3));
        check(&story, "an old epoch goes on");
        let absence = Absence {
            relay: 0,
            from: story.at(0),
            until: story.at(2),
        };
        let verdict = story.verdict(&[absence]);
        assert_eq!((verdict.wrong.len(), verdict.beyond_the_relay), (0, 1));
        let other = Absence { relay: 1, ..absence };
        assert_eq!(story.verdict(&[other]).wrong.len(), 1);

        let mut story = Story::new();
        story.done(1, 0, 5, (0, 1));
        story.done(1, 0, 5, (2, 3));
        check(&story, "done twice");

        let mut story = Story::new();
        story.told(1, by("a", 5));
        check(&story, "never done");
        story.done(1, 0, 5, (0, 1)).cancelled = true;
        check(&story, "never done");

        let mut story = Story::new();
        story.done(1, 0, 5, (0, 1));
        story.told(1, by("b", 5));
        check(&story, "told something else");
    }
}
