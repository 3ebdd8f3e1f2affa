//! When a unit counts as away, so that its calls are kept.

use super::*;

// the owner was evacuated, and of those who were to take over nobody is left. What is kept waits for the owner, or for whoever
// takes over by a later record.
#[test]
fn calls_of_a_unit_that_nobody_took_over_from_are_kept_for_it() {
    let nobody = || State::Evacuated {
        takeover: vec![(unit("c"), 0)],
    };
    Keeping::test_with(OnFailure::Park, routes("b", nobody()), async |keeping| {
        keeping.call(1, |_| {});
        let asked = keeping.until_asked().await;
        assert_eq!(
            (&asked.units, asked.routed),
            (&vec![unit("b")], Epoch::new(0, Rev(2)).0)
        );
        let stored = KeptCall::read(asked.body.clone()).unwrap();
        assert_eq!(stored.routed_by, "uid");
        keeping.store(&asked);
        assert!(
            keeping.told().starts_with("parked") && keeping.told().contains("unit b is away"),
            "{}",
            keeping.told()
        );
        keeping.fixture.is_as_new().await;
    });
    Keeping::test_with(OnFailure::Local, routes("b", nobody()), async |keeping| {
        keeping.call(1, |_| {});
        let id = keeping.local.opened.borrow()[0].0;
        keeping.local.reply(id, answer(Code::Ok));
        let asked = keeping.until_asked().await;
        assert_eq!(asked.units, [unit("b")]);
    });
    // This unit itself does nothing in its own place.
    Keeping::test_with(OnFailure::Local, routes("a", nobody()), async |keeping| {
        let error = keeping.refused(|_| {});
        assert_eq!(error.reason, Reason::UnitAway);
        assert!(keeping.local.opened.borrow().is_empty() && keeping.asked().is_empty());
    });
}

// F1, F2: a unit is fenced and answers. Calls wait for others to take over, for as long as they wait for any move; then those
// are kept that can be.
#[test]
fn calls_of_a_unit_that_is_fenced_wait_and_then_are_kept() {
    let fencing = || State::Fencing { by: MoveId(7) };
    let soon = |call: &mut Request| call.deadline = Some(call.received + Duration::from_millis(400));
    Keeping::test_with(OnFailure::Park, routes("b", fencing()), async |keeping| {
        keeping.call(1, soon);
        assert!(keeping.asked().is_empty() && keeping.fixture.caller.endings().is_empty());
        let asked = keeping.until_asked().await;
        assert_eq!(asked.units, [unit("b")]);
        keeping.store(&asked);
        assert!(keeping.told().starts_with("parked"), "{}", keeping.told());
        keeping.call(2, |call| {
            soon(call);
            call.metadata = Metadata::default();
        });
        keeping.fixture.until_endings(2).await;
        let told = keeping.told();
        assert!(
            told.starts_with("moving") && told.contains("no idempotency-key"),
            "{told}"
        );
        // There is no room for more that wait.
        for number in 3..=7 {
            keeping.call(number, |_| {});
        }
        assert_eq!(keeping.asked().len(), 1);
        assert!(keeping.fixture.b.service.opened.borrow().is_empty());
    });
    // Neither this unit itself, nor keys that move otherwise: their owners are there.
    let returning = State::Returning {
        takeover: vec![(unit("c"), 1)],
        by: MoveId(7),
    };
    for table in [routes("a", fencing()), routes("b", returning)] {
        Keeping::test_with(OnFailure::Local, table, async |keeping| {
            keeping.call(1, soon);
            keeping.fixture.until_endings(1).await;
            assert!(keeping.told().starts_with("moving"), "{}", keeping.told());
            assert!(keeping.local.opened.borrow().is_empty() && keeping.asked().is_empty());
        });
    }
}

// an operator says that a unit counts as away, though it answers. What could be kept does not go there.
#[test]
fn a_unit_that_counts_as_away_gets_no_calls_that_could_be_kept() {
    let says = Pause {
        reason: "ann: wrong answers".to_owned(),
        until: None,
    };
    Keeping::test(OnFailure::Park, async |keeping| {
        let opened = || keeping.fixture.b.service.opened.borrow().len();
        keeping.away.set(&unit("b"), Some(&says));
        keeping.call(1, |_| {});
        let asked = keeping.until_asked().await;
        keeping.store(&asked);
        assert!(keeping.told().starts_with("parked"), "{}", keeping.told());
        let error = keeping.refused(|call| call.metadata = Metadata::default());
        assert_eq!(error.reason, Reason::UnitAway);
        assert!(
            error.detail.contains("an operator says") && error.detail.contains("no idempotency-key"),
            "{error}"
        );
        assert_eq!(opened(), 0);
        // What is never kept goes on, and so does all when it is taken back.
        keeping.call(2, |call| call.hints.unit = Some(unit("b")));
        assert_eq!(opened(), 1);
        keeping.call(3, |call| call.facts.mode = Mode::Replay);
        assert_eq!(opened(), 2);
        keeping.away.set(&unit("b"), None);
        keeping.call(4, |_| {});
        assert_eq!(opened(), 3);
        assert!(keeping.asked().is_empty());
    });
    Keeping::test(OnFailure::Fail, async |keeping| {
        keeping.away.set(&unit("b"), Some(&says));
        keeping.call(1, |_| {});
        assert_eq!(keeping.fixture.b.service.opened.borrow().len(), 1);
    });
    let fencing = State::Fencing { by: MoveId(7) };
    Keeping::test_with(OnFailure::Park, routes("b", fencing), async |keeping| {
        keeping.away.set(&unit("b"), Some(&says));
        keeping.call(1, |_| {});
        assert_eq!(keeping.asked().len(), 1, "there is nothing to wait for");
    });
}

// this relay has no link to the unit, and others reach it. Nothing is kept, and it ends as if nothing were to be.
#[test]
fn calls_of_a_unit_that_others_reach_are_not_kept() {
    let (b, c, d) = (unit("b"), unit("c"), unit("d"));
    let says = |keeping: &Keeping, of_c, of_d| keeping.observers.set_said(&b, &[(&c, of_c), (&d, of_d)]);
    let (away, reached, unknown) = (Sighting::Away, Sighting::Reached, Sighting::Unknown);
    for on_failure in [OnFailure::Local, OnFailure::Park] {
        Keeping::test(on_failure, async |keeping| {
            keeping.fixture.b.away.set(true);
            for (of_c, of_d, text) in [(reached, unknown, "1 of 2 units"), (reached, reached, "1 of 3 units")] {
                says(keeping, of_c, of_d);
                let error = keeping.refused(|_| {});
                assert_eq!((error.reason, error.retry), (Reason::UnitAway, Retry::Never));
                assert!(
                    error.detail.contains("was not kept") && error.detail.contains(text),
                    "{error}"
                );
                // One whose request has not ended is not waited for.
                let error = keeping.refused(|call| call.body.end = false);
                assert!(error.detail.contains(text), "{error}");
            }
            assert_eq!(keeping.series.kept(KeptOutcome::Reached), 4);
            // What cannot be kept anyway says why.
            let error = keeping.refused(|call| call.metadata = Metadata::default());
            assert!(error.detail.contains("no idempotency-key"), "{error}");
            assert!(keeping.local.opened.borrow().is_empty() && keeping.asked().is_empty());
            for (number, of_c, of_d) in [(1, away, reached), (2, away, unknown), (3, unknown, unknown)] {
                says(keeping, of_c, of_d);
                keeping.call(number, |_| {});
            }
            let kept = keeping.local.opened.borrow().len() + keeping.asked().len();
            assert_eq!(kept, 3);
        });
    }
}

// where own links are enough, and where somebody else has said so, nobody is asked.
#[test]
fn what_settings_an_operator_and_the_route_store_say_needs_no_quorum() {
    let (b, c) = (unit("b"), unit("c"));
    let kept = async |keeping: &Keeping| {
        keeping.fixture.b.away.set(true);
        keeping.observers.set_said(&b, &[(&c, Sighting::Reached)]);
        keeping.call(1, |_| {});
        assert_eq!(keeping.until_asked().await.units, [unit("b")]);
    };
    let own_links = WhileAway {
        on_failure: OnFailure::Park,
        away_by: AwayBy::OwnLinks,
        ..WhileAway::default()
    };
    Keeping::test_of(&Keeping::new(own_links, rules()), kept);
    Keeping::test(OnFailure::Park, async |keeping| {
        let says = Pause {
            reason: "ann: wrong answers".to_owned(),
            until: None,
        };
        keeping.away.set(&unit("b"), Some(&says));
        kept(keeping).await;
    });
    let nobody = State::Evacuated {
        takeover: vec![(unit("c"), 0)],
    };
    for state in [State::Fencing { by: MoveId(7) }, nobody] {
        Keeping::test_with(OnFailure::Park, routes("b", state), kept);
    }
    // By a route store that has it take its keys, it does.
    Keeping::test_with(OnFailure::Park, routes("b", State::Active), async |keeping| {
        keeping.fixture.b.away.set(true);
        keeping.observers.set_said(&b, &[(&c, Sighting::Reached)]);
        assert_eq!(keeping.refused(|_| {}).reason, Reason::UnitAway);
    });
}
