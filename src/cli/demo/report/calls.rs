//! What is told of calls.

use std::time::Duration;

use super::{Counts, grid, pairs, span, stay};
use crate::cli::demo::traffic::{Tallies, Tally};
use crate::cli::demo::world::{AWAY, Unit};

/// All relays run.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Start {
    /// From nothing to ready.
    pub(in crate::cli) took: Duration,
    /// Links that the relays report as up, by the unit that reports and the other one.
    pub(in crate::cli) links: Counts,
}

/// Services of all units call keys of all units.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Crossing {
    /// What callers saw.
    pub(in crate::cli) calls: Tallies,
    /// Calls that ended well, as the relays of the callers counted them.
    pub(in crate::cli) outbound: Counts,
    /// The same, as the relays of the owners counted what came from other units.
    pub(in crate::cli) inbound: Counts,
}

/// A unit is away.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Outage {
    /// From the end of its relay until its peers refused calls to its keys at once.
    pub(in crate::cli) known_after: Duration,
    /// Calls to its keys until then.
    pub(in crate::cli) before: Tallies,
    /// Calls to its keys from then on.
    pub(in crate::cli) refused: Tallies,
    /// How long these took, one after the other in each unit.
    pub(in crate::cli) refused_took: Duration,
    /// Calls that the relays of the callers refused as `unit_away`, by their own count.
    pub(in crate::cli) counted: Counts,
}

/// The unit is back.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Return {
    /// From the start of its relay until services of the other units could call its keys again.
    pub(in crate::cli) after: Duration,
    /// Calls to its keys then, and of its own services.
    pub(in crate::cli) calls: Tallies,
    /// Calls among the other units, from the end of its relay until now.
    pub(in crate::cli) others: Tallies,
}

impl Start {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let missing =
            pairs().filter(|(from, to)| from != to && self.links.get(&(*from, *to)).is_none_or(|up| *up == 0));
        missing
            .map(|(from, to)| format!("the relay of unit {} reports no link to unit {}", from.name, to.name))
            .collect()
    }

    pub(in crate::cli) fn tell(&self) -> String {
        format!(
            "All three are linked to each other over QUIC, each side with a certificate of its Geo's own CA.\n\
             It took {} to start.",
            span(self.took)
        )
    }
}

impl Crossing {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (from, owner) in pairs() {
            let tally = self.calls.0.get(&(from, owner)).cloned().unwrap_or_default();
            all_answered(&mut problems, from, owner, &tally);
            let counted = |counts: &Counts| counts.get(&(from, owner)).copied().unwrap_or_default();
            let outbound = counted(&self.outbound);
            if outbound != tally.calls {
                problems.push(format!(
                    "the relay of unit {} counted {outbound} calls to unit {}, not {}",
                    from.name, owner.name, tally.calls
                ));
            }
            let inbound = counted(&self.inbound);
            if from != owner && inbound != tally.calls {
                problems.push(format!(
                    "the relay of unit {} counted {inbound} calls from unit {}, not {}",
                    owner.name, from.name, tally.calls
                ));
            }
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let total = self.calls.total();
        let mut text = format!(
            "{} of {} calls answered, half of them made over gRPC, half framed:\n\n",
            total.answered, total.calls
        );
        text += &grid("called keys of", |from, owner| {
            let tally = self.calls.0.get(&(from, owner)).cloned().unwrap_or_default();
            (tally.answered, tally.calls)
        });
        text.push_str(
            "\nEvery reply came from the unit that owns the key, and the counters of the relays say the same.",
        );
        text
    }
}

impl Outage {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.known_after > OUTAGE_LIMIT {
            problems.push(format!("the outage was noticed only after {}", span(self.known_after)));
        }
        if self.refused_took > AT_ONCE {
            problems.push(format!("calls were refused, but it took {}", span(self.refused_took)));
        }
        for (from, owner) in pairs().filter(|(from, owner)| *from != AWAY && *owner == AWAY) {
            let of = |tallies: &Tallies| tallies.0.get(&(from, owner)).cloned().unwrap_or_default();
            let (before, refused) = (of(&self.before), of(&self.refused));
            if before.answered + refused.answered > 0 {
                problems.push(format!("unit {} answered while its relay was dead", owner.name));
            }
            let wanted = away_error(from);
            if refused.calls == 0 || refused.errors.get(&wanted) != Some(&refused.calls) {
                problems.push(format!(
                    "{} calls from unit {} should all have failed with {wanted:?}, but: {:?}",
                    refused.calls, from.name, refused.errors
                ));
            }
            let seen = refused.errors.get(&wanted).copied().unwrap_or_default()
                + before.errors.get(&wanted).copied().unwrap_or_default();
            let counted = self.counted.get(&(from, owner)).copied().unwrap_or_default();
            if counted != seen {
                problems.push(format!(
                    "the relay of unit {} counted {counted} calls refused as unit_away, its callers saw {seen}",
                    from.name
                ));
            }
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let (before, refused) = (self.before.total(), self.refused.total());
        let example = stay().next().map(away_error).unwrap_or_default();
        format!(
            "Its peers noticed after {}; {} calls to its keys failed until then.\n\
             From then on such calls are refused at once, {} in {}, with an error that says why and where:\n\n    \
             strait-error: {example}",
            span(self.known_after),
            before.calls,
            refused.calls,
            span(self.refused_took),
        )
    }
}

impl Return {
    pub(in crate::cli) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.after > RETURN_LIMIT {
            problems.push(format!("calls worked again only after {}", span(self.after)));
        }
        for (from, owner) in pairs() {
            let tally = self.calls.0.get(&(from, owner)).cloned().unwrap_or_default();
            all_answered(&mut problems, from, owner, &tally);
            if from != AWAY && owner != AWAY {
                let tally = self.others.0.get(&(from, owner)).cloned().unwrap_or_default();
                all_answered(&mut problems, from, owner, &tally);
            }
        }
        problems
    }

    pub(in crate::cli) fn tell(&self) -> String {
        let (total, others) = (self.calls.total(), self.others.total());
        format!(
            "{} after its relay was started, services of the other units could call its keys again.\n\
             Links and registrations came back by themselves. All units, all keys: {} of {} calls answered.\n\
             All the while calls among the other units had gone on: {} of {} answered.",
            span(self.after),
            total.answered,
            total.calls,
            others.answered,
            others.calls
        )
    }
}

/// What callers of a unit read when the owner of the key is away.
fn away_error(from: Unit) -> String {
    format!("unit_away; unit={}; relay={}", from.name, from.relay)
}

pub(super) fn all_answered(problems: &mut Vec<String>, from: Unit, owner: Unit, tally: &Tally) {
    let (from, owner) = (from.name, owner.name);
    if tally.calls == 0 {
        problems.push(format!("no call of unit {from} to keys of unit {owner} was made"));
    } else if tally.answered != tally.calls {
        let missing = tally.calls - tally.answered.min(tally.calls);
        problems.push(format!(
            "{missing} of {} calls of unit {from} to keys of unit {owner} were not answered: {:?}",
            tally.calls, tally.errors
        ));
    } else if tally.by_owner != tally.calls {
        let wrong = tally.calls - tally.by_owner.min(tally.calls);
        problems.push(format!(
            "{wrong} calls of unit {from} to keys of unit {owner} were answered by another unit"
        ));
    }
}

/// "Within seconds", with room for a machine that is busy with other things.
const RETURN_LIMIT: Duration = Duration::from_secs(10);
const OUTAGE_LIMIT: Duration = Duration::from_secs(10);
/// For some tens of calls; one that waited for an answer that cannot come would take longer alone.
const AT_ONCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::demo::world::UNITS;

    fn answered(calls: u64) -> Tally {
        Tally {
            calls,
            answered: calls,
            by_owner: calls,
            ..Tally::default()
        }
    }

    fn counts(value: u64) -> Counts {
        pairs().map(|pair| (pair, value)).collect()
    }

    fn everywhere(tally: &Tally) -> Tallies {
        Tallies(pairs().map(|pair| (pair, tally.clone())).collect())
    }

    fn crossing() -> Crossing {
        Crossing {
            calls: everywhere(&answered(4)),
            outbound: counts(4),
            inbound: counts(4),
        }
    }

    fn outage() -> Outage {
        let refused = |from| Tally {
            calls: 4,
            errors: BTreeMap::from([(away_error(from), 4)]),
            ..Tally::default()
        };
        let away = pairs().filter(|(from, owner)| *from != AWAY && *owner == AWAY);
        Outage {
            known_after: Duration::from_secs(1),
            refused: Tallies(away.map(|pair| (pair, refused(pair.0))).collect()),
            counted: counts(4),
            ..Outage::default()
        }
    }

    fn back() -> Return {
        Return {
            after: Duration::from_secs(1),
            calls: everywhere(&answered(4)),
            others: everywhere(&answered(9)),
        }
    }

    fn some(problems: &[String], text: &str) {
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(text), "{problems:?}");
    }

    // O-N1, R1: what is as it should be passes.
    #[test]
    fn good_observations_have_no_problems() {
        let start = Start {
            links: counts(1),
            ..Start::default()
        };
        assert_eq!(start.problems(), Vec::<String>::new());
        assert_eq!(crossing().problems(), Vec::<String>::new());
        assert_eq!(outage().problems(), Vec::<String>::new());
        assert_eq!(back().problems(), Vec::<String>::new());
    }

    // O-N1, R1: one false observation each, and the demo must not claim it.
    #[test]
    fn each_false_observation_is_a_problem() {
        let pair = (UNITS[0], UNITS[2]);
        let mut start = Start {
            links: counts(1),
            ..Start::default()
        };
        start.links.insert(pair, 0);
        some(&start.problems(), "no link to unit c");

        let mut seen = crossing();
        seen.calls.0.get_mut(&pair).unwrap().answered = 3;
        some(
            &seen.problems(),
            "1 of 4 calls of unit a to keys of unit c were not answered",
        );
        let mut seen = crossing();
        seen.calls.0.get_mut(&pair).unwrap().by_owner = 2;
        some(
            &seen.problems(),
            "2 calls of unit a to keys of unit c were answered by another unit",
        );
        let mut seen = crossing();
        seen.outbound.insert(pair, 5);
        some(&seen.problems(), "the relay of unit a counted 5 calls to unit c, not 4");
        let mut seen = crossing();
        seen.inbound.insert(pair, 0);
        some(
            &seen.problems(),
            "the relay of unit c counted 0 calls from unit a, not 4",
        );
        let mut seen = crossing();
        seen.calls.0.clear();
        assert!(seen.problems().len() >= 9, "no traffic is no success");
    }

    #[test]
    fn an_outage_that_was_none_is_a_problem() {
        let pair = (UNITS[1], UNITS[2]);
        let mut seen = outage();
        seen.before.0.insert(pair, answered(1));
        some(&seen.problems(), "unit c answered while its relay was dead");
        let mut seen = outage();
        seen.refused.0.get_mut(&pair).unwrap().errors = BTreeMap::from([("internal; unit=b; relay=b-1".to_owned(), 4)]);
        assert!(
            seen.problems()
                .iter()
                .any(|problem| problem.contains("should all have failed"))
        );
        let mut seen = outage();
        seen.counted.insert(pair, 3);
        some(
            &seen.problems(),
            "counted 3 calls refused as unit_away, its callers saw 4",
        );
        let mut seen = outage();
        seen.known_after = Duration::from_secs(60);
        some(&seen.problems(), "noticed only after 60.0 s");
        let mut seen = outage();
        seen.refused_took = Duration::from_secs(6);
        some(&seen.problems(), "it took 6.0 s");
    }

    #[test]
    fn a_return_with_losses_is_a_problem() {
        let mut seen = back();
        seen.others.0.get_mut(&(UNITS[0], UNITS[1])).unwrap().answered = 8;
        some(
            &seen.problems(),
            "1 of 9 calls of unit a to keys of unit b were not answered",
        );
        let mut seen = back();
        seen.calls.0.get_mut(&(UNITS[0], UNITS[2])).unwrap().answered = 0;
        some(&seen.problems(), "4 of 4 calls of unit a to keys of unit c");
        let mut seen = back();
        seen.after = Duration::from_secs(11);
        some(&seen.problems(), "only after 11.0 s");
    }
}
