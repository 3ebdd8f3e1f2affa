//! The protocol of moves in small, all of it: every order in which relays, store and coordinators may act, with reports that
//! come late or never, leases that end and two coordinators that know nothing of each other (R-I1, R-I2, R-I3).
//!
//! ```text
//! cargo test --test model                                               small bounds, and each rule left out once
//! STRAIT_MODEL=4,2,1,0,0 cargo test --release --test model -- --ignored --nocapture   revisions, writes, then relays' units
//! ```
//! A rule that is left out must break the protocol. If it does not, either the rule is not needed or the model is not able to
//! see what it is for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test ends where it finds something unexpected, and says how large the model was"
)]

mod protocol;
mod rules;
mod world;

use std::collections::BTreeMap;

use stateright::{Checker, Model};

use crate::protocol::{Protocol, Step};
use crate::rules::{Lease, Rule};

/// Unit A is 0, unit B is 1.
const A: u8 = 0;
const B: u8 = 1;
const INVARIANTS: [&str; 3] = ["I1", "I2", "I3"];
/// Longest way to break something that is looked for.
const STEPS_MAX: usize = 18;

fn protocol(relays: &[u8], writes: u8, revisions: u8) -> Protocol {
    Protocol {
        relays: relays.to_vec(),
        writes,
        revisions,
        coordinators: 2,
        lease: Lease::Ends,
        without: None,
        tidies: true,
    }
}

/// All states are looked at: nothing that must hold is broken, and exactly these of what may happen does.
fn check_all(protocol: Protocol, reached: &[&str]) {
    let shown = format!("{protocol:?}");
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!(
        "{shown}: {} states, {} generated, depth {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    assert!(checker.is_done());
    let found: BTreeMap<_, _> = checker.discoveries().into_iter().collect();
    let mut names: Vec<_> = found.keys().copied().collect();
    names.sort_unstable();
    let steps = found.values().map(|path| path.clone().into_actions());
    assert_eq!(names, reached, "{:?}", steps.collect::<Vec<Vec<Step>>>());
}

/// The shortest way to break something: what breaks, and how. The checker alone finds some way, so it may go a step further
/// each time.
fn broken(protocol: &Protocol) -> (Vec<&'static str>, Vec<Step>) {
    for steps in 1..STEPS_MAX {
        // It counts worlds, the first one included, and stops before the last.
        let checker = protocol.clone().checker().threads(2).target_max_depth(steps + 2);
        let found = checker.spawn_bfs().join().discoveries();
        let mut found: Vec<_> = found
            .into_iter()
            .filter(|(name, _)| INVARIANTS.contains(name))
            .collect();
        found.sort_unstable_by_key(|(name, _)| *name);
        let names = found.iter().map(|(name, _)| *name).collect();
        if let Some((_, path)) = found.into_iter().next() {
            return (names, path.into_actions());
        }
    }
    panic!("nothing broke in {STEPS_MAX} steps");
}

fn check_without(rule: Rule, writes: u8, revisions: u8, expected: (&[&str], usize)) {
    // Without these two, what is over still counts.
    let tidies = !matches!(rule, Rule::CompareAndSwap | Rule::ReportNamesRevision);
    let (names, steps) = broken(&Protocol {
        without: Some(rule),
        tidies,
        ..protocol(&[A, B], writes, revisions)
    });
    println!("without {rule:?}: {names:?} in {} steps: {steps:?}", steps.len());
    assert_eq!((names.as_slice(), steps.len()), expected, "{steps:?}");
}

// R-I1, R-I2, R-I3
#[test]
fn one_relay_per_unit_and_two_writes() {
    check_all(protocol(&[A, B], 2, 4), &["abort", "accept after a move", "move"]);
}

#[test]
fn a_key_goes_there_and_back() {
    check_all(
        protocol(&[A, B], 1, 5),
        &["abort", "accept after a move", "move", "there and back"],
    );
}

#[test]
fn two_relays_of_the_source() {
    check_all(protocol(&[A, A, B], 1, 3), &["abort", "accept after a move", "move"]);
}

#[test]
fn leases_that_never_end() {
    let endless = Protocol {
        lease: Lease::Endless,
        ..protocol(&[A, B], 2, 5)
    };
    check_all(endless, &["abort", "accept after a move", "move", "there and back"]);
}

// Catches a world that is tidied although something can still come of what was forgotten.
#[test]
fn tidying_hides_nothing() {
    for (writes, revisions, reached) in [(1, 2, &[][..]), (0, 3, &["abort", "move"])] {
        let untidied = Protocol {
            tidies: false,
            ..protocol(&[A, B], writes, revisions)
        };
        check_all(untidied, reached);
    }
}

// R-D7: the one combination that the API refuses.
#[test]
fn taking_over_from_an_endless_lease_makes_two_owners() {
    let (names, steps) = broken(&Protocol {
        lease: Lease::EndlessButTaken,
        ..protocol(&[A, B], 0, 3)
    });
    println!(
        "endless lease, forced takeover: {names:?} in {} steps: {steps:?}",
        steps.len()
    );
    assert_eq!((names.as_slice(), steps.len()), (&["I3"][..], 8));
}

#[test]
fn without_waiting_for_every_live_session() {
    check_without(Rule::WaitForSessions, 0, 3, (&["I3"], 8));
}

// R-D4
#[test]
fn without_the_ban_on_local_unfreezing() {
    check_without(Rule::NoLocalUnfreeze, 0, 3, (&["I3"], 10));
}

#[test]
fn without_comparing_the_revision_that_was_observed() {
    check_without(Rule::CompareAndSwap, 0, 4, (&["I3"], 11));
}

#[test]
fn without_draining_before_the_commit() {
    check_without(Rule::Drain, 2, 3, (&["I2"], 15));
}

#[test]
fn without_catching_up_in_a_new_session() {
    check_without(Rule::CatchUp, 0, 3, (&["I3"], 11));
}

#[test]
fn without_the_revision_in_a_report() {
    check_without(Rule::ReportNamesRevision, 0, 5, (&["I3"], 14));
}

#[test]
fn without_waiting_for_writes_before_a_session_expires() {
    check_without(Rule::ExpiryWaitsForWrites, 2, 3, (&["I2"], 14));
}

// R-3.5
#[test]
fn without_create_if_absent_for_claims() {
    check_without(Rule::CreateIfAbsent, 0, 3, (&["I3"], 5));
}

// R-3.8
#[test]
fn without_registering_before_the_check() {
    check_without(Rule::RegisterFirst, 2, 3, (&["I1", "I2"], 14));
}

#[test]
#[ignore = "minutes and gigabytes; STRAIT_MODEL says how large"]
fn larger_bounds() {
    let setting = std::env::var("STRAIT_MODEL").unwrap_or_else(|_| "5,2,0,1".to_owned());
    let numbers: Vec<u8> = setting
        .split(',')
        .map(|number| number.parse().expect("numbers"))
        .collect();
    let (bounds, relays) = numbers.split_at(2);
    let mut reached = vec!["abort", "move"];
    if bounds[1] > 0 {
        reached.insert(1, "accept after a move");
    }
    if bounds[0] >= 5 {
        reached.push("there and back");
    }
    check_all(protocol(relays, bounds[1], bounds[0]), &reached);
}

#[test]
#[ignore = "two minutes with optimisation"]
fn tidying_hides_nothing_in_larger_bounds() {
    let reached = ["abort", "accept after a move", "move"];
    for (writes, revisions, reached) in [(0, 4, &["abort", "move"][..]), (1, 3, &reached)] {
        let untidied = Protocol {
            tidies: false,
            ..protocol(&[A, B], writes, revisions)
        };
        check_all(untidied, reached);
    }
}
