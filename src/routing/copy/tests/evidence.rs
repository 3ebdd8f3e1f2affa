//! Evidence of every age at copies of every age, against what the history says.

use super::*;
use crate::routing::evidence::{Found, Known, Provisional};
use crate::routing::record::Fallback;
use crate::routing::{Source, key_hash};

/// What may happen to the one room of these histories.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    MoveTo(&'static str),
    TakeBack,
    SomethingElse,
}

const EVENTS: [Event; 4] = [
    Event::MoveTo("a"),
    Event::MoveTo("c"),
    Event::TakeBack,
    Event::SomethingElse,
];
pub(super) const LENGTH: u32 = 5;
/// The room was claimed by unit b when the book was published.
pub(super) const BIRTH: Rev = Rev(1);

/// Every history of this length.
pub(super) fn histories() -> impl Iterator<Item = Vec<Event>> {
    (0..4_usize.pow(LENGTH)).map(|number| {
        let digits = (0..LENGTH).map(|place| EVENTS[number / 4_usize.pow(place) % 4]);
        digits.collect()
    })
}

pub(super) fn steps(history: &[Event]) -> Vec<Step> {
    let steps = history.iter().map(|event| match event {
        Event::MoveTo(unit) => Step::Put(key_id("room", 1), Target::Unit(name(unit)), State::Active),
        Event::TakeBack => Step::Put(key_id("room", 1), Target::Unit(name("b")), State::Tombstone),
        Event::SomethingElse => Step::Put(key_id("room", 2), Target::Unit(name("a")), State::Active),
    });
    steps.collect()
}

/// Owner and epoch of the room at a revision, read off the history.
pub(super) fn truth(history: &[Event], at: Rev) -> (&'static str, Rev) {
    let events = (BIRTH.0 + 1..).zip(history);
    let about = events.filter(|(rev, event)| *rev <= at.0 && !matches!(event, Event::SomethingElse));
    match about.last() {
        Some((rev, Event::MoveTo(unit))) => (unit, Rev(rev)),
        Some((rev, _)) => ("b", Rev(rev)),
        None => ("b", BIRTH),
    }
}

/// A token, a claim and a choice without the store, each as of some revision.
#[derive(Default)]
struct Both {
    token: Option<Known>,
    claim: Found,
    provisional: Provisional,
}

impl Evidence for Both {
    fn token(&self, dimension: &Name, key: &[u8]) -> Option<Known> {
        assert_eq!((dimension.as_str(), key), ("room", &b"1"[..]));
        self.token.clone()
    }

    fn claim(&self, dimension: &Name, key: &[u8], hash: KeyHash) -> Found {
        assert_eq!(hash, key_hash(42, dimension.as_str().as_bytes(), key));
        self.claim.clone()
    }

    fn provisional(&self, _: KeyHash) -> Provisional {
        self.provisional.clone()
    }
}

fn token(history: &[Event], as_of: Rev) -> Known {
    let (unit, epoch) = truth(history, as_of);
    Known {
        target: Target::Unit(name(unit)),
        base: Epoch::new(3, epoch),
        as_of: Epoch::new(3, as_of),
    }
}

/// A claim never says anything but who has had the room since birth.
pub(super) fn claim(as_of: Rev) -> Known {
    Known {
        target: Target::Unit(name("b")),
        base: Epoch::new(3, BIRTH),
        as_of: Epoch::new(3, as_of),
    }
}

/// What must come of it.
fn check(history: &[Event], routes: &Routes, as_of: Rev, evidence: &Both) -> Option<Source> {
    let at = routes.rev();
    let (unit, epoch) = truth(history, at);
    let found = routes
        .resolve(&hints(&[key("room", 1)]), &[], evidence, &mut ())
        .unwrap();
    match found {
        Ok(found) => {
            assert_eq!(
                (found.unit.as_str(), found.epoch.rev()),
                (unit, epoch),
                "{history:?} {as_of} {at}"
            );
            return Some(found.source);
        }
        Err(RouteError::Behind { needs }) => assert!(needs == Epoch::new(3, as_of) && as_of > at),
        Err(RouteError::Unclaimed { looked_up: false, .. }) => {
            // Nothing is decided about it now, but something was since, so the store must be asked.
            assert!(unit == "b" && epoch > as_of, "{history:?} {as_of} {at}");
        }
        Err(other) => panic!("{other}"),
    }
    None
}

// R-I6, R-I7: whatever is decided by a token or a claim of any age is the truth at the copy. Two relays at one
// revision that decide at all therefore agree.
#[test]
fn what_evidence_of_any_age_decides_is_the_truth_at_the_copy() {
    let (mut by_token, mut by_claim, mut by_copy, mut open) = (0, 0, 0, 0);
    for history in histories() {
        let mut routes = empty();
        for batch in batches(&steps(&history)) {
            routes = routes.apply(&batch).unwrap();
            for as_of in (BIRTH.0..=BIRTH.0 + u64::from(LENGTH)).map(Rev) {
                let with_token = Both {
                    token: Some(token(&history, as_of)),
                    ..Both::default()
                };
                let with_claim = Both {
                    claim: Found::Known(claim(as_of)),
                    ..Both::default()
                };
                for evidence in [with_token, with_claim] {
                    match check(&history, &routes, as_of, &evidence) {
                        Some(Source::Token) => by_token += 1,
                        Some(Source::Claim) => by_claim += 1,
                        Some(_) => by_copy += 1,
                        None => open += 1,
                    }
                }
            }
        }
    }
    // All four endings were seen, many times.
    let seen = [by_token, by_claim, by_copy, open];
    assert!(seen.iter().all(|count| *count > 1000), "{seen:?}");
}

#[test]
fn one_piece_of_evidence_that_holds_is_enough() {
    let history = [Event::MoveTo("c"), Event::TakeBack, Event::SomethingElse];
    let routes = replayed(&batches(&steps(&history)));
    let at = routes.rev();
    let (stale, fresh, ahead) = (Rev(2), at, at.next());
    let check = |token: Option<Known>, claim, expected: Result<Source, RouteError>| {
        let evidence = Both {
            token,
            claim,
            ..Both::default()
        };
        let found = routes
            .resolve(&hints(&[key("room", 1)]), &[], &evidence, &mut ())
            .unwrap();
        assert_eq!(found.map(|found| found.source), expected);
    };
    let unclaimed = |looked_up| RouteError::Unclaimed {
        dimension: name("room"),
        looked_up,
    };
    let behind = RouteError::Behind {
        needs: Epoch::new(3, ahead),
    };
    let token = |as_of| Some(token(&history, as_of));
    let known = |as_of| Found::Known(claim(as_of));
    check(token(fresh), Found::Unasked, Ok(Source::Token));
    check(token(fresh), known(fresh), Ok(Source::Token));
    check(token(stale), known(fresh), Ok(Source::Claim));
    check(token(ahead), known(fresh), Ok(Source::Claim));
    check(token(stale), Found::Unasked, Err(unclaimed(false)));
    check(token(stale), known(stale), Err(unclaimed(false)));
    check(None, Found::Nothing, Err(unclaimed(true)));
    check(token(ahead), Found::Unasked, Err(behind.clone()));
    check(token(stale), known(ahead), Err(behind));
}

// a store that was restored may have forgotten a claim, so that what was known before is asked again.
#[test]
fn evidence_of_another_incarnation_does_not_count() {
    let routes = replayed(&batches(&[]));
    let mut old = claim(BIRTH);
    old.as_of = Epoch::new(2, Rev(900));
    old.base = Epoch::new(2, Rev(800));
    let evidence = |known: &Known| Both {
        token: Some(known.clone()),
        ..Both::default()
    };
    let found = resolve_with(&routes, &[key("room", 1)], &evidence(&old));
    let unclaimed = RouteError::Unclaimed {
        dimension: name("room"),
        looked_up: false,
    };
    assert_eq!(found, Err(unclaimed));
    // The store still has the claim: it counts, and its old revision does not.
    old.as_of = routes.epoch();
    let found = resolve_with(&routes, &[key("room", 1)], &evidence(&old));
    assert_eq!(found.unwrap(), (name("b"), Epoch::new(3, BIRTH), Standing::Open));
}

// R-I4: a claim is a record on the way like any other, so its key's epoch is not older than the claim.
#[test]
fn the_epoch_of_a_key_is_not_older_than_its_claim() {
    let routes = replayed(&batches(&steps(&[Event::SomethingElse; 3])));
    let mut late = claim(BIRTH);
    (late.base, late.as_of) = (Epoch::new(3, Rev(3)), routes.epoch());
    let evidence = Both {
        claim: Found::Known(late),
        ..Both::default()
    };
    let found = resolve_with(&routes, &[key("room", 1)], &evidence);
    assert_eq!(found.unwrap(), (name("b"), Epoch::new(3, Rev(3)), Standing::Open));
}

/// The copy of a history whose rooms may go where a relay puts them without the store, or may not.
fn falling_back(history: &[Event], fallback: bool) -> Routes {
    let mut book = book();
    if fallback {
        book.dimensions[1].claim_fallback = Fallback::Deterministic;
    }
    let published = Batch {
        prev: Rev(1 + u64::try_from(history.len()).unwrap()),
        rev: Rev(2 + u64::try_from(history.len()).unwrap()),
        changes: vec![Change {
            rev: Rev(2 + u64::try_from(history.len()).unwrap()),
            id: RecordId::Book,
            record: Some(Record::Book(book)),
        }],
    };
    let copy = replayed(&batches(&steps(history)));
    copy.apply(&published).unwrap()
}

// F2 of control::provisional: a choice without the store decides only where it may, and where nothing else says anything; what
// the store has said since, or of the key itself, comes first.
#[test]
fn a_choice_without_the_store_never_beats_what_the_store_has_said() {
    let chosen = |unit, as_of| {
        Provisional::Chosen(Known {
            target: Target::Unit(name(unit)),
            base: Epoch::default(),
            as_of: Epoch::new(3, Rev(as_of)),
        })
    };
    let quiet = [Event::SomethingElse];
    let routes = falling_back(&quiet, true);
    let fresh = routes.rev().0;
    let find = |routes: &Routes, evidence: &Both| {
        let found = routes
            .resolve(&hints(&[key("room", 1)]), &[], evidence, &mut ())
            .unwrap();
        found.map(|found| (found.unit.clone(), found.source, found.epoch.rev()))
    };
    let with = |provisional| Both {
        provisional,
        ..Both::default()
    };
    // Of a copy that is older than the choice too, and with an epoch that everything else is newer than.
    for as_of in [1, fresh, fresh + 5] {
        let found = find(&routes, &with(chosen("c", as_of))).unwrap();
        assert_eq!(found, (name("c"), Source::Provisional, Rev(1)), "{as_of}");
    }
    let claimed = Both {
        claim: Found::Known(claim(Rev(fresh))),
        ..with(chosen("c", fresh))
    };
    assert_eq!(find(&routes, &claimed).unwrap().0, name("b"));
    let known = Both {
        token: Some(token(&quiet, BIRTH)),
        ..with(chosen("c", fresh))
    };
    assert_eq!(find(&routes, &known).unwrap().1, Source::Token);
    let ahead = Both {
        claim: Found::Known(claim(Rev(fresh + 1))),
        ..with(chosen("c", fresh))
    };
    assert!(matches!(find(&routes, &ahead), Err(RouteError::Behind { .. })));
    let unclaimed = |found: Result<_, RouteError>| matches!(found, Err(RouteError::Unclaimed { .. }));
    let of_before = Provisional::Chosen(Known {
        as_of: Epoch::new(2, Rev(900)),
        ..claim(BIRTH)
    });
    assert!(unclaimed(find(&routes, &with(of_before))), "the store was restored");
    assert!(unclaimed(find(&falling_back(&quiet, false), &with(chosen("c", fresh)))));
    let full = find(&routes, &with(Provisional::Full));
    assert!(matches!(full, Err(RouteError::ProvisionalFull { .. })), "{full:?}");

    let moved = falling_back(&[Event::MoveTo("a")], true);
    assert_eq!(find(&moved, &with(chosen("c", 9))).unwrap().0, name("a"));
    let taken_back = falling_back(&[Event::MoveTo("a"), Event::TakeBack], true);
    assert!(unclaimed(find(&taken_back, &with(chosen("c", 2)))));
    assert_eq!(find(&taken_back, &with(chosen("c", 3))).unwrap().0, name("c"));
}
