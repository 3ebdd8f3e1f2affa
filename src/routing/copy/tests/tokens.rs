//! Tokens of every age at copies of every age, from the text to the answer, against what the history says (R-3.6, R-I7).

use super::evidence::{BIRTH, Event, LENGTH, claim, histories, steps, truth};
use super::*;
use crate::routing::evidence::{Found, Known};
use crate::routing::token::{
    Brought, Check, CheckOutcome, Grounds, Lifetime, Occasion, Ring, Secrets, Token, With, field,
};
use crate::routing::{Decision, Source};

const NOW: u64 = 1_800_000_000;

fn ring() -> Ring {
    Ring::new(Secrets::parse("5a".repeat(32).into()).unwrap(), 7, NOW)
}

/// What a relay has heard of the room's claim.
struct Heard(Found);

impl Evidence for Heard {
    fn claim(&self, _: &Name, _: &[u8], _: KeyHash) -> Found {
        self.0.clone()
    }
}

/// What a relay says about a call of the room.
struct Seen {
    owner: Option<String>,
    source: Option<Source>,
    needs: Option<Epoch>,
    check: Option<Check>,
    answer: Option<(Occasion, String)>,
}

fn look(routes: &Routes, ring: &Ring, given: Option<&str>, heard: &Heard, lost: Epoch, now: u64) -> Seen {
    let with = given.map(|given| With {
        ring,
        routes,
        field: given.as_bytes(),
        now,
        lost,
    });
    let brought = Brought::new(heard, with);
    let room = name("room");
    let found = routes
        .resolve(&hints(&[key("room", 1)]), &[], &brought, &mut ())
        .unwrap();
    let mut seen = Seen {
        owner: None,
        source: None,
        needs: None,
        check: brought.checked(),
        answer: None,
    };
    match found {
        Ok(found) => {
            let decision = Decision::from(found);
            if decision.source == Source::Override {
                brought.look_at(&room, b"1");
            }
            let claimed = match &heard.0 {
                Found::Known(known) => Some(known.target.clone()),
                _ => None,
            };
            let grounds = Grounds {
                routes,
                decision: &decision,
                key: b"1",
                check: brought.checked(),
                claim: claimed.as_ref(),
                now,
                then: Rev::ZERO,
                lifetime: Lifetime::Usual,
            };
            let text = |token| field(&room, &ring.issue(&room, b"1", &token).unwrap());
            seen.answer = grounds.answer().map(|(occasion, token)| (occasion, text(token)));
            seen.check = brought.checked();
            seen.owner = Some(decision.unit.to_string());
            seen.source = Some(decision.source);
        }
        Err(RouteError::Behind { needs }) => seen.needs = Some(needs),
        Err(RouteError::Unclaimed { .. }) => {}
        Err(other) => panic!("{other}"),
    }
    seen
}

fn known(as_of: Rev) -> Heard {
    Heard(Found::Known(claim(as_of)))
}

/// The token that a relay at this copy gives to who brings none, or an old one.
fn issued(routes: &Routes, ring: &Ring, old: &str) -> Option<String> {
    let seen = look(routes, ring, Some(old), &known(routes.rev()), Epoch::default(), NOW);
    Some(seen.answer?.1)
}

// R-I7, R-3.6: a token that is found to hold names the owner; one that does not is answered with one that does; and whatever
// a token decides is the truth at the copy.
#[test]
fn a_token_that_holds_names_the_owner_and_every_other_one_is_replaced() {
    let ring = ring();
    let (mut current, mut superseded, mut ahead) = (0, 0, 0);
    for history in histories() {
        let mut copies = vec![];
        let mut routes = empty();
        for batch in batches(&steps(&history)) {
            routes = routes.apply(&batch).unwrap();
            copies.push(routes.clone());
        }
        let birth = issued(&copies[0], &ring, "").expect("the claim of a new key is told");
        for issuer in &copies {
            let Some(token) = issued(issuer, &ring, &birth).or_else(|| issued(issuer, &ring, "")) else {
                // It decided by a record and the first token still stands: nothing newer is known of the key.
                continue;
            };
            for reader in &copies {
                let seen = look(
                    reader,
                    &ring,
                    Some(&token),
                    &Heard(Found::Unasked),
                    Epoch::default(),
                    NOW,
                );
                let (owner, _) = truth(&history, reader.rev());
                let Some(check) = seen.check else {
                    panic!("not looked at")
                };
                if let Some(found) = &seen.owner {
                    assert_eq!(found, owner, "{history:?}");
                }
                match check.outcome {
                    CheckOutcome::Current => {
                        current += 1;
                        let said = check.token.unwrap().known(reader, &name("room")).unwrap();
                        assert_eq!(said.target, Target::Unit(name(owner)), "{history:?}");
                        assert_eq!(seen.answer, None, "it is new");
                    }
                    CheckOutcome::Superseded => {
                        superseded += 1;
                        // By a record; if that was taken back, by the store.
                        if let Some((occasion, fresh)) = &seen.answer {
                            assert_eq!(*occasion, Occasion::Superseded);
                            let again = look(
                                reader,
                                &ring,
                                Some(fresh),
                                &Heard(Found::Unasked),
                                Epoch::default(),
                                NOW,
                            );
                            assert_eq!(again.check.unwrap().outcome, CheckOutcome::Current);
                            assert!(again.check.unwrap().token.unwrap().replaces(&check.token.unwrap()));
                        } else {
                            assert_eq!(seen.owner, None, "{history:?}");
                        }
                    }
                    CheckOutcome::Ahead => {
                        ahead += 1;
                        assert!(issuer.rev() > reader.rev());
                        assert!(
                            seen.owner.is_some() || seen.needs == Some(issuer.epoch()),
                            "{history:?}"
                        );
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let seen = [current, superseded, ahead];
    assert!(seen.iter().all(|count| *count > 1000), "{seen:?} of {LENGTH}");
}

// what the store has lost is not waited for, and what it may still come to is.
#[test]
fn a_token_of_a_lost_future_is_as_none() {
    let ring = ring();
    let all = batches(&steps(&[Event::SomethingElse, Event::SomethingElse]));
    let (here, later) = (replayed(&all[..2]), replayed(&all));
    let token = issued(&later, &ring, "").unwrap();
    let waits = look(
        &here,
        &ring,
        Some(&token),
        &Heard(Found::Unasked),
        Epoch::default(),
        NOW,
    );
    assert_eq!(
        (waits.check.unwrap().outcome, waits.needs),
        (CheckOutcome::Ahead, Some(later.epoch()))
    );
    let lost = look(&here, &ring, Some(&token), &Heard(Found::Unasked), later.epoch(), NOW);
    assert_eq!(
        (lost.check.unwrap().outcome, lost.needs, lost.owner),
        (CheckOutcome::LostFuture, None, None)
    );
    let asked = look(&here, &ring, Some(&token), &known(BIRTH), later.epoch(), NOW);
    assert_eq!(asked.source, Some(Source::Claim));
    assert_eq!(asked.answer.unwrap().0, Occasion::Claim);
    let there = look(&later, &ring, Some(&token), &Heard(Found::Unasked), later.epoch(), NOW);
    assert_eq!(there.check.unwrap().outcome, CheckOutcome::Current);
}

// renewed past the soft time and without the store; refused past the hard time.
#[test]
fn an_old_token_is_renewed_without_the_store() {
    let ring = ring();
    let routes = replayed(&batches(&[]));
    let token = issued(&routes, &ring, "").unwrap();
    let at = |now| {
        look(
            &routes,
            &ring,
            Some(&token),
            &Heard(Found::Unasked),
            Epoch::default(),
            now,
        )
    };
    assert_eq!(at(NOW + 599).answer, None);
    let (occasion, fresh) = at(NOW + 600).answer.unwrap();
    assert_eq!(occasion, Occasion::Renewal);
    let again = look(
        &routes,
        &ring,
        Some(&fresh),
        &Heard(Found::Unasked),
        Epoch::default(),
        NOW + 1199,
    );
    assert_eq!(
        (again.check.unwrap().outcome, again.answer),
        (CheckOutcome::Current, None)
    );
    let over = at(NOW + 86_401);
    assert_eq!(over.check.unwrap().outcome.as_str(), "expired");
    assert_eq!(over.owner, None);
}

// whether a token stands for a claim; one of before a restore is replaced; keys that rules place have none.
#[test]
fn a_token_says_what_it_stands_for_and_only_claimed_keys_have_one() {
    let (ring, room) = (ring(), name("room"));
    let opened = |text: &str| {
        let text = text.split_once(';').unwrap().1;
        ring.open(text.as_bytes(), &room, b"1", NOW).unwrap()
    };
    let claimed = replayed(&batches(&[]));
    let of_claim = issued(&claimed, &ring, "").unwrap();
    assert!(opened(&of_claim).flags.claim);
    let moved = replayed(&batches(&steps(&[Event::MoveTo("c")])));
    let restored = Token {
        epoch: Epoch::new(2, Rev(800)),
        as_of: Rev(900),
        ..opened(&of_claim)
    };
    let restored = field(&room, &ring.issue(&room, b"1", &restored).unwrap());
    for (old, outcome) in [(of_claim, CheckOutcome::Superseded), (restored, CheckOutcome::TooOld)] {
        let heard = Heard(Found::Unasked);
        let seen = look(&moved, &ring, Some(&old), &heard, Epoch::default(), NOW);
        assert_eq!(seen.check.unwrap().outcome, outcome);
        let (occasion, fresh) = seen.answer.unwrap();
        let fresh = opened(&fresh);
        assert_eq!((occasion, fresh.flags.claim), (Occasion::Superseded, false));
        assert_eq!(fresh.known(&moved, &room).unwrap().target, Target::Unit(name("c")));
    }
    let put = Step::Put(key_id("cid", 1), Target::Unit(name("c")), State::Active);
    let routes = replayed(&batches(&[put]));
    let found = routes.resolve(&hints(&[key("cid", 1)]), &[], &(), &mut ());
    let decision = Decision::from(found.unwrap().unwrap());
    assert_eq!(decision.source, Source::Override);
    let grounds = Grounds {
        routes: &routes,
        decision: &decision,
        key: b"1",
        check: None,
        claim: None,
        now: NOW,
        then: Rev::ZERO,
        lifetime: Lifetime::Usual,
    };
    assert_eq!(grounds.token(), None);
}

/// A copy whose rooms may follow keys of these dimensions.
fn follow(dimensions: &[&str]) -> Routes {
    let rules: Vec<_> = dimensions
        .iter()
        .map(|dimension| serde_json::json!({ "follow": dimension }))
        .collect();
    let mut book = book();
    book.dimensions[1] = dimension("room", &serde_json::json!({ "claim": rules }));
    let change = Change {
        rev: Rev(1),
        id: RecordId::Book,
        record: Some(Record::Book(book)),
    };
    Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(3, Rev(1)),
        seed: 42,
        changes: vec![change],
    })
}

// a group, or one of several dimensions that keys may follow, cannot be said by a token.
#[test]
fn a_token_says_the_target_of_the_claim_or_nothing() {
    let ring = ring();
    let room = name("room");
    let following = Known {
        target: Target::Follow(name("org")),
        ..claim(BIRTH)
    };
    let keys = [key("room", 1), key("org", 1)];
    let issue = |routes: &Routes, known: &Known| {
        let heard = Heard(Found::Known(known.clone()));
        let found = routes.resolve(&hints(&keys), &[], &heard, &mut ()).unwrap().unwrap();
        let decision = Decision::from(found);
        let grounds = Grounds {
            routes,
            decision: &decision,
            key: b"1",
            check: None,
            claim: Some(&known.target),
            now: NOW,
            then: Rev::ZERO,
            lifetime: Lifetime::Usual,
        };
        grounds
            .token()
            .map(|token| field(&room, &ring.issue(&room, b"1", &token).unwrap()))
    };
    let one = follow(&["org"]);
    let token = issue(&one, &following).expect("there is only one");
    let open = |routes: &Routes| {
        let with = With {
            ring: &ring,
            routes,
            field: token.as_bytes(),
            now: NOW,
            lost: Epoch::default(),
        };
        let brought = Brought::new(&(), Some(with));
        let found = resolve_with(routes, &keys, &brought);
        (found.ok().map(|(unit, ..)| unit), brought.checked().unwrap().outcome)
    };
    // Company 1 belongs to unit a.
    assert_eq!(open(&one), (Some(name("a")), CheckOutcome::Current));
    // A later book says something else, and the flag does not say which one was meant.
    let mut other = book();
    other.dimensions[1] = dimension("room", &serde_json::json!({ "claim": [{ "follow": "cid" }] }));
    let later = one.apply(&Batch {
        prev: Rev(1),
        rev: Rev(2),
        changes: vec![Change {
            rev: Rev(2),
            id: RecordId::Book,
            record: Some(Record::Book(other)),
        }],
    });
    assert_eq!(open(&later.unwrap()), (None, CheckOutcome::Unclear));
    assert_eq!(issue(&follow(&["org", "cid"]), &following), None);
    assert_eq!(issue(&follow(&["cid"]), &following), None);
    let grouped = Known {
        target: Target::Group {
            dimension: name("org"),
            key: "1".into(),
        },
        ..claim(BIRTH)
    };
    assert_eq!(issue(&one, &grouped), None);
}
