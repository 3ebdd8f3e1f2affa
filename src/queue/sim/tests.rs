//! Seeds, and planted bugs that some of them must find.

use super::{Plan, World};
use crate::queue::planted::{Bug, plant};

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        relays: 2 + usize::try_from(seed % 2).unwrap(),
        millis: 8_000 + seed % 5 * 3_000,
        faults: true,
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect(name))
}

#[test]
fn without_faults_every_message_arrives_once() {
    // M-A2, M-B1, M-C1, M-G3
    let plan = Plan {
        seed: 7,
        relays: 3,
        millis: 5_000,
        faults: false,
    };
    World::new(plan).run().unwrap();
}

#[test]
fn the_same_seed_gives_the_same_life() {
    // I25
    let run = |seed| World::new(plan(seed)).run();
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn relays_keep_their_promises_whatever_fails() {
    // M-A4, M-B, M-C, M-E, M-F, M-G
    let (first, seeds) = (setting("SIM_FIRST", 1), setting("SIM_SEEDS", 60));
    for seed in first..first + seeds {
        if let Err(wrong) = World::new(plan(seed)).run() {
            panic!("seed {seed}: {wrong}");
        }
    }
}
