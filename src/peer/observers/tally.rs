//! How many units say of a unit that it is away, and whether that is enough. Pure.

use crate::model::Sighting;

/// What other units say of one unit. One's own unit is an observer too, and is not counted here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Others {
    /// Units that reach it: at least one of their relays does.
    pub reach: usize,
    /// Units that do not.
    pub away: usize,
}

/// Units by their number, each in it or not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Set(Vec<u64>);

/// What a relay has said of units so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Said {
    /// Units that it reaches.
    reached: Set,
    /// Units that it knows and does not reach.
    away: Set,
}

impl Others {
    /// Whether the unit counts as away for a unit that does not reach it: more than half of all observers say so, that one among
    /// them. Alone it decides alone.
    pub fn agree(self) -> bool {
        self.away + 1 > self.reach
    }
}

impl Said {
    /// The last word about a unit counts.
    pub(super) fn say(&mut self, number: usize, sighting: Sighting) {
        self.reached.set(number, sighting == Sighting::Reached);
        self.away.set(number, sighting == Sighting::Away);
    }
}

#[cfg(test)]
impl Said {
    /// Memory for it.
    pub(super) fn bytes(&self) -> usize {
        (self.reached.0.len() + self.away.0.len()) * size_of::<u64>()
    }
}

impl Set {
    fn set(&mut self, number: usize, is_in: bool) {
        let (word, bit) = (number / WORD, 1 << (number % WORD));
        if is_in && self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word = if is_in { *word | bit } else { *word & !bit };
        }
    }

    fn has(&self, number: usize) -> bool {
        let word = self.0.get(number / WORD).copied().unwrap_or_default();
        word & (1 << (number % WORD)) != 0
    }
}

/// What others say of one of so many units. `reports`: by the number of the unit whose relay has said it; what a unit says of itself counts
/// for nothing (B2).
pub(super) fn count<'a>(of: usize, units: usize, reports: impl IntoIterator<Item = (usize, &'a Said)>) -> Others {
    // What each unit says of it.
    let mut says = vec![Sighting::Unknown; units];
    for (speaker, said) in reports.into_iter().filter(|(speaker, _)| *speaker != of) {
        let Some(says) = says.get_mut(speaker) else { continue };
        // One relay that reaches it is enough: calls of its unit go that way.
        if said.reached.has(of) {
            *says = Sighting::Reached;
        } else if said.away.has(of) && *says == Sighting::Unknown {
            *says = Sighting::Away;
        }
    }
    let count = |sighting| says.iter().filter(|says| **says == sighting).count();
    Others {
        reach: count(Sighting::Reached),
        away: count(Sighting::Away),
    }
}

/// Bits of a word.
const WORD: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Units in these tests; more than one word holds.
    const UNITS: usize = 70;

    fn said(sightings: &[(usize, Sighting)]) -> Said {
        let mut said = Said::default();
        for (number, sighting) in sightings {
            said.say(*number, *sighting);
        }
        said
    }

    //
    #[test]
    fn a_unit_counts_as_away_if_more_than_half_of_the_observers_say_so() {
        for (reach, away, expected) in [
            // Nobody else has said anything: as without observers.
            (0, 0, true),
            // Two observers: both have to say so.
            (1, 0, false),
            (0, 1, true),
            // Three: two.
            (2, 0, false),
            (1, 1, true),
            // Four: three; half is not enough.
            (2, 1, false),
            (1, 2, true),
            (3, 2, false),
            (2, 2, true),
        ] {
            let others = Others { reach, away };
            assert_eq!(others.agree(), expected, "{others:?}");
        }
    }

    #[test]
    fn a_unit_reaches_another_one_if_one_of_its_relays_does_and_nobody_speaks_of_himself() {
        let reports = [
            (1, said(&[(0, Sighting::Away), (1, Sighting::Away)])),
            (1, said(&[(0, Sighting::Reached)])),
            (2, said(&[(0, Sighting::Away), (2, Sighting::Away)])),
            (2, said(&[(0, Sighting::Away)])),
            // It says nothing of unit 0: it is no observer of it.
            (3, said(&[(1, Sighting::Reached)])),
            // It has changed its mind, and then it knows the unit no more.
            (
                4,
                said(&[(0, Sighting::Away), (0, Sighting::Reached), (0, Sighting::Unknown)]),
            ),
        ];
        let counted = [0, 1, 2].map(|of| count(of, 5, reports.iter().map(|(speaker, said)| (*speaker, said))));
        let others = |reach, away| Others { reach, away };
        assert_eq!(counted, [others(1, 1), others(1, 0), others(0, 0)]);
    }

    proptest! {
        // Against the same words, one unit and one relay at a time.
        #[test]
        fn all_units_are_counted_as_each_one_by_itself(
            reports in prop::collection::vec(
                (0..UNITS, prop::collection::vec((0..UNITS, 0..3_usize), 0..12)), 0..40
            ),
        ) {
            let sightings = [Sighting::Away, Sighting::Reached, Sighting::Unknown];
            let spoken: Vec<(usize, Vec<(usize, Sighting)>)> = reports
                .into_iter()
                .map(|(speaker, words)| (speaker, words.into_iter().map(|(of, which)| (of, sightings[which])).collect()))
                .collect();
            let kept: Vec<(usize, Said)> = spoken.iter().map(|(speaker, words)| (*speaker, said(words))).collect();
            for of in 0..UNITS {
                let others = count(of, UNITS, kept.iter().map(|(speaker, said)| (*speaker, said)));
                let mut expected = Others::default();
                for speaker in (0..UNITS).filter(|speaker| *speaker != of) {
                    let last = spoken.iter().filter(|(by, _)| *by == speaker).filter_map(|(_, words)| {
                        words.iter().rev().find(|(about, _)| *about == of).map(|(_, sighting)| *sighting)
                    });
                    let last: Vec<Sighting> = last.collect();
                    if last.contains(&Sighting::Reached) {
                        expected.reach += 1;
                    } else if last.contains(&Sighting::Away) {
                        expected.away += 1;
                    }
                }
                prop_assert_eq!(others, expected, "unit {}", of);
                // The majority of all observers, of which the one who asks is one.
                let observers = others.reach + others.away + 1;
                prop_assert_eq!(others.agree(), 2 * (others.away + 1) > observers);
            }
        }
    }
}
