//! Random histories of movers, relays and losses.

use std::time::Duration;

use proptest::prelude::*;

use super::super::units::{self, Asked};
use super::world::{World, key, name, rule};
use crate::routing::Routes;
use crate::routing::record::{MoveState, NodeId, Record, RecordId};

#[derive(Clone, Debug)]
enum Step {
    Feed(usize),
    Renew(usize),
    Write(usize, u64),
    EndWrites(usize),
    Report(usize),
    Deliver(usize, usize),
    Cut(usize, bool),
    Standing(usize),
    Look(usize),
    Act(usize, usize, bool),
    Echo(usize, usize),
    Kill(usize),
    Pass(u64),
    Move(u64, u8),
    Stop,
    Evacuate(u8),
    GiveBack,
}

fn step() -> impl Strategy<Value = Step> {
    let relay = 0_usize..4;
    let pilot = 0_usize..3;
    let which = 0_usize..8;
    let number = prop_oneof![Just(1_u64), Just(2), Just(100)];
    prop_oneof![
        6 => relay.clone().prop_map(Step::Feed),
        3 => relay.clone().prop_map(Step::Renew),
        8 => (relay.clone(), number.clone()).prop_map(|(at, key)| Step::Write(at, key)),
        3 => relay.clone().prop_map(Step::EndWrites),
        5 => relay.clone().prop_map(Step::Report),
        5 => (relay.clone(), which.clone()).prop_map(|(at, which)| Step::Deliver(at, which)),
        1 => (relay, any::<bool>()).prop_map(|(at, cut)| Step::Cut(at, cut)),
        4 => pilot.clone().prop_map(Step::Standing),
        9 => pilot.clone().prop_map(Step::Look),
        9 => (pilot.clone(), which.clone(), prop::bool::weighted(0.8)).prop_map(|(at, which, ok)| Step::Act(at, which, ok)),
        2 => (pilot.clone(), which).prop_map(|(at, which)| Step::Echo(at, which)),
        1 => pilot.prop_map(Step::Kill),
        3 => prop_oneof![Just(20_u64), Just(500), Just(7000), Just(31_000)].prop_map(Step::Pass),
        2 => (prop_oneof![Just(0_u64), number], 0_u8..3).prop_map(|(key, to)| Step::Move(key, to)),
        1 => Just(Step::Stop),
        1 => (0_u8..3).prop_map(Step::Evacuate),
        1 => Just(Step::GiveBack),
    ]
}

fn unit(number: u8) -> &'static str {
    ["a", "b", "c"][usize::from(number)]
}

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Feed(at) => world.feed(at),
        Step::Renew(at) => world.renew(at),
        Step::Write(at, number) => world.write(at, &key(number)),
        Step::EndWrites(at) => world.relays[at].writes.clear(),
        Step::Report(at) => world.report(at),
        Step::Deliver(at, which) => world.deliver(at, which),
        Step::Cut(at, is_cut) => world.relays[at].is_cut = is_cut,
        Step::Standing(pilot) => world.ask_standing(pilot),
        Step::Look(pilot) => drop(world.look(pilot)),
        Step::Act(pilot, which, answered) => world.act(pilot, which, answered),
        Step::Echo(pilot, which) => world.echo(pilot, which),
        Step::Kill(pilot) => world.kill(pilot),
        Step::Pass(millis) => world.pass(Duration::from_millis(millis)),
        Step::Move(number, to) => {
            let id = u64::try_from(world.op().0).unwrap();
            let nodes = if number == 0 {
                vec![rule("cid")]
            } else {
                vec![key(number), key(1)]
            };
            let mut work = world.work(id, unit(to), nodes);
            work.options.trail = Duration::from_secs(1);
            work.options.freeze_budget = Duration::from_secs(40);
            work.driver = world.relays[[0, 1, 3][usize::from(to)]].id.clone();
            world.put(Record::Move(work));
        }
        Step::Stop => {
            let routes = Routes::from_snapshot(&world.ledger.snapshot());
            if let Some(work) = routes.moves().find(|work| work.state == MoveState::Running) {
                let mut work = work.clone();
                work.state = MoveState::Aborting;
                world.put(Record::Move(work));
            }
        }
        Step::Evacuate(number) => {
            let routes = Routes::from_snapshot(&world.ledger.snapshot());
            let others = ["a", "b", "c"].iter().filter(|other| **other != unit(number));
            let others: Vec<_> = others
                .map(|other| (name(other), 1))
                .filter(|(other, _)| routes.is_active(other))
                .collect();
            let asked = asked(world);
            // Nobody signs for two owners.
            if let Ok(mut begun) = units::evacuate(&routes, &name(unit(number)), &others, false, &asked) {
                world.store(begun.commits.remove(0)).unwrap();
            }
        }
        Step::GiveBack => {
            let routes = Routes::from_snapshot(&world.ledger.snapshot());
            let gone: Vec<_> = routes.units().filter(|(_, state)| state.takeover().is_some()).collect();
            let asked = asked(world);
            if let Some((unit, _)) = gone.first()
                && let Ok(mut begun) =
                    units::give_back(&routes, unit, crate::routing::record::MoveOptions::default(), &asked)
            {
                world.store(begun.commits.remove(0)).unwrap();
            }
        }
    }
}

fn asked(world: &mut World) -> Asked {
    Asked {
        op: world.op(),
        driver: world.relays[1].id.clone(),
        at: 0,
        reason: String::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    // R-I1, R-I2, R-I3, R-I10, R-I11, R-I15: whatever is lost, late, repeated and killed, no two units write a key at once, and in
    // the end every move has ended and nothing is under way.
    #[test]
    fn a_key_has_one_owner_and_every_move_ends(steps in prop::collection::vec(step(), 1..400)) {
        let mut world = World::new(&["a-1", "b-1", "c-1", "a-2"], &[0, 1, 3]);
        for step in steps {
            take(&mut world, &step);
        }
        for at in 0..world.relays.len() {
            world.relays[at].is_cut = false;
        }
        // A relay that began another life is waited for before anything is frozen.
        world.rounds(600);
        let routes = Routes::from_snapshot(&world.ledger.snapshot());
        let left: Vec<_> = routes.moves().collect();
        prop_assert!(left.is_empty(), "{left:?}");
        prop_assert_eq!(routes.moving().count(), 0);
        for number in [1, 2, 100] {
            let id = RecordId::Node(NodeId::clone(&key(number)));
            let node = world.ledger.node(&id);
            prop_assert!(node.is_none_or(|node| node.target.unit().is_some() && node.state.work().is_none()));
            let owners = (0..4).filter(|at| {
                let routes = &world.relays[*at].routes;
                super::world::owner(routes, &key(number)).is_some_and(|(unit, _)| unit == world.relays[*at].id.unit)
            });
            let units: std::collections::BTreeSet<_> = owners.map(|at| world.relays[at].id.unit.clone()).collect();
            prop_assert_eq!(units.len(), 1);
        }
    }
}

/// More with `STRAIT_CASES`.
fn cases() -> u32 {
    std::env::var("STRAIT_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(24)
}
