//! What counts of what peers say, and what they are told.

use super::*;
use crate::model::Name;

fn name(text: &str) -> UnitId {
    Name::new(text).unwrap()
}

/// This relay knows these units.
fn knowing(units: &[&str]) -> Arc<Observers> {
    let observers = Arc::new(Observers::default());
    observers.know(&units.iter().map(|unit| name(unit)).collect::<Vec<_>>());
    observers
}

fn others(reach: usize, away: usize) -> Others {
    Others { reach, away }
}

const AWAY: Sighting = Sighting::Away;
const REACHED: Sighting = Sighting::Reached;

// B1
#[test]
fn what_a_peer_says_counts_while_its_link_is_up_and_it_answers() {
    let observers = knowing(&["b", "c", "d"]);
    let b = name("b");
    assert_eq!(observers.others(&b), others(0, 0), "nobody has said anything");
    let (first, second, of_d) = (
        observers.enter(&name("c")),
        observers.enter(&name("c")),
        observers.enter(&name("d")),
    );
    assert_eq!(observers.others(&b), others(0, 0), "links alone say nothing");
    first.hear(&[(b.clone(), REACHED), (name("d"), AWAY)]);
    second.hear(&[(b.clone(), AWAY)]);
    of_d.hear(&[(b.clone(), AWAY)]);
    assert_eq!(observers.others(&b), others(1, 1));
    assert_eq!(observers.others(&name("d")), others(0, 1));
    first.set_counts(false);
    assert_eq!(observers.others(&b), others(0, 2), "it does not answer");
    first.set_counts(true);
    assert_eq!(observers.others(&b), others(1, 1), "it does again");
    drop(first);
    assert_eq!(observers.others(&b), others(0, 2), "the link has ended");
    drop(second);
    assert_eq!(observers.others(&b), others(0, 1));
    of_d.hear(&[(b.clone(), Sighting::Unknown)]);
    assert_eq!(observers.others(&b), others(0, 0), "it is no observer any more");
}

// B2, B3
#[test]
fn nobody_speaks_of_himself_or_of_units_that_are_not_in_the_settings() {
    let observers = knowing(&["b", "c"]);
    let of_b = observers.enter(&name("b"));
    of_b.hear(&[(name("b"), AWAY), (name("elsewhere"), REACHED), (name("c"), REACHED)]);
    assert_eq!(observers.others(&name("b")), others(0, 0));
    assert_eq!(observers.others(&name("c")), others(1, 0));
    assert_eq!(observers.others(&name("elsewhere")), others(0, 0));
    assert_eq!(observers.state().units.len(), 2);
}

// B4
#[test]
fn a_peer_is_told_all_at_first_and_then_what_has_changed() {
    let observers = knowing(&["b", "c"]);
    let witness = observers.enter(&name("c"));
    let told = |witness: &Witness, expected: &[(&str, Sighting)]| {
        let expected: Vec<_> = expected
            .iter()
            .map(|(unit, sighting)| (name(unit), *sighting))
            .collect();
        assert_eq!(witness.news(), expected);
        assert_eq!(witness.news(), [], "once");
    };
    told(&witness, &[("b", AWAY), ("c", AWAY)]);
    observers.on_reached(0, &name("b"), true);
    told(&witness, &[("b", REACHED)]);
    // Calls of one shard go by the links of another one, too.
    observers.on_reached(3, &name("b"), true);
    observers.on_reached(0, &name("b"), false);
    told(&witness, &[]);
    assert_eq!(observers.own(&name("b")), REACHED);
    observers.on_reached(3, &name("b"), false);
    told(&witness, &[("b", AWAY)]);
    // There and back between two looks.
    observers.on_reached(0, &name("b"), true);
    observers.on_reached(0, &name("b"), false);
    told(&witness, &[("b", AWAY)]);
    told(&observers.enter(&name("b")), &[("b", AWAY), ("c", AWAY)]);
}

// B5
#[test]
fn what_is_said_of_one_unit_is_counted_anew_for_that_one_only() {
    let observers = knowing(&["b", "c", "d"]);
    let (of_c, of_d) = (observers.enter(&name("c")), observers.enter(&name("d")));
    let counted = || {
        let state = observers.state();
        ["b", "c", "d"].map(|unit| state.others[state.numbers[&name(unit)]].is_some())
    };
    of_c.hear(&[(name("b"), REACHED), (name("d"), REACHED)]);
    for unit in ["b", "c", "d"] {
        observers.others(&name(unit));
    }
    assert_eq!(counted(), [true; 3]);
    of_d.hear(&[(name("b"), AWAY), (name("elsewhere"), AWAY)]);
    assert_eq!(counted(), [false, true, true]);
    assert_eq!(observers.others(&name("b")), others(1, 1));
    assert_eq!(observers.others(&name("d")), others(1, 0));
    // What goes with a link was said of any of them.
    drop(of_c);
    assert_eq!(counted(), [false; 3]);
    assert_eq!(observers.others(&name("b")), others(0, 1));
    assert_eq!(observers.others(&name("d")), others(0, 0));
}

// What 1,000 units cost a relay: all is said of all once, when a link is up; then each change once to each peer, however often it changes
// between two looks; and what a peer has said takes two bits for a unit.
#[test]
fn a_thousand_units_are_told_of_changes_only_and_remembered_in_bits() {
    const UNITS: usize = 1_000;
    let names: Vec<String> = (0..UNITS).map(|number| format!("unit-{number:03}")).collect();
    let observers = knowing(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let peers: Vec<Witness> = names.iter().map(|unit| observers.enter(&name(unit))).collect();
    let bytes = |witness: &Witness| {
        let mut out = bytes::BytesMut::new();
        crate::wire::frame::put_sightings(&mut out, &witness.news());
        out.len()
    };
    let all: Vec<usize> = peers.iter().map(bytes).collect();
    assert!(all.iter().all(|all| *all == all_of(UNITS)), "{:?}", all.iter().max());
    assert_eq!(peers.iter().map(bytes).sum::<usize>(), 0, "nothing has changed");
    for is_reached in [true, false, true] {
        observers.on_reached(0, &name(&names[7]), is_reached);
    }
    assert_eq!(peers.iter().map(bytes).sum::<usize>(), UNITS * all_of(1));
    assert_eq!(peers.iter().map(bytes).sum::<usize>(), 0, "once");
    // Each of them says of all units what it sees.
    let said: Vec<_> = names.iter().map(|unit| (name(unit), AWAY)).collect();
    for peer in &peers {
        peer.hear(&said);
        peer.hear(&said);
    }
    let state = observers.state();
    for report in state.reports.values() {
        assert!(
            report.said.bytes() <= 2 * UNITS.div_ceil(64) * 8,
            "{}",
            report.said.bytes()
        );
    }
    drop(state);
    assert_eq!(observers.others(&name(&names[7])), others(0, UNITS - 1));
}

/// Bytes of the frames that name so many units: 64 in a frame, which has a header of 16 bytes.
fn all_of(units: usize) -> usize {
    units.div_ceil(64) * 16 + units * ENTRY
}

/// Bytes of a unit in a frame whose name has 8: its sighting, its length, and the name.
const ENTRY: usize = 10;

// C-L2
#[test]
fn a_unit_that_leaves_the_settings_is_not_known_any_more() {
    let observers = knowing(&["b", "c"]);
    let witness = observers.enter(&name("c"));
    observers.on_reached(0, &name("b"), true);
    witness.news();
    observers.know([&name("c"), &name("d")]);
    assert_eq!(witness.news(), [(name("b"), Sighting::Unknown), (name("d"), AWAY)]);
    // Its links end, each in its time.
    observers.on_reached(1, &name("b"), true);
    assert_eq!(observers.own(&name("b")), Sighting::Unknown);
    // It comes back, and its links are there still.
    observers.know([&name("b"), &name("c"), &name("d")]);
    assert_eq!(witness.news(), [(name("b"), REACHED)]);
}

#[test]
fn the_series_show_what_all_observers_say() {
    let observers = knowing(&["b", "c", "d"]);
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry, &name("a")).unwrap();
    let shown = |sighting: &str| {
        observers.show(&metrics);
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "strait_peer_observers");
        let rows = family.unwrap().get_metric().iter();
        let has = |row: &prometheus::proto::Metric, name: &str, value: &str| {
            row.get_label()
                .iter()
                .any(|label| label.name() == name && label.value() == value)
        };
        let row = rows.filter(|row| has(row, "dst_unit", "b") && has(row, "sighting", sighting));
        row.map(|row| row.get_gauge().get_value()).collect::<Vec<_>>()
    };
    assert_eq!((shown("reached"), shown("away")), (vec![0.0], vec![1.0]));
    observers.on_reached(0, &name("b"), true);
    let (of_c, of_d) = (observers.enter(&name("c")), observers.enter(&name("d")));
    of_c.hear(&[(name("b"), AWAY)]);
    of_d.hear(&[(name("b"), REACHED)]);
    assert_eq!((shown("reached"), shown("away")), (vec![2.0], vec![1.0]));
    drop(of_d);
    assert_eq!((shown("reached"), shown("away")), (vec![1.0], vec![1.0]));
}
