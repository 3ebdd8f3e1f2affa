//! What happens when: everything random of a campaign, from its seed.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use toml::{Table, Value};

/// One thing that is done to the relays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Blow {
    /// SIGKILL.
    Kill {
        /// Of A.
        a: bool,
        /// Of B.
        b: bool,
        /// And once more, so long after the restart.
        again_after: Option<Duration>,
    },
    /// SIGSTOP of B, SIGCONT after so long.
    Pause(Duration),
}

/// A blow, and how long the relays work before it.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Time of undisturbed work.
    pub life: Duration,
    /// What ends it.
    pub blow: Blow,
}

impl Round {
    /// The next one.
    pub fn roll(dice: &mut Rng, life_ms: &Range<u64>) -> Self {
        let life = Duration::from_millis(dice.u64(life_ms.clone()));
        let again_after = (dice.u8(0..100) < 20).then(|| Duration::from_millis(dice.u64(0..150)));
        let kill = |a, b| Blow::Kill { a, b, again_after };
        let blow = match dice.u8(0..100) {
            0..36 => kill(true, false),
            36..72 => kill(false, true),
            72..92 => kill(true, true),
            _ => Blow::Pause(Duration::from_millis(dice.u64(100..1_500))),
        };
        Self { life, blow }
    }
}

/// Puts other settings into a configuration. Each is small enough at times that its limit is met.
pub fn shuffle_settings(config: &mut Table, dice: &mut Rng) {
    let queue = [
        ("segment_bytes", one_of(dice, &["64KiB", "256KiB", "1MiB", "64MiB"])),
        ("batch_bytes", one_of(dice, &["2KiB", "16KiB", "128KiB", "512KiB"])),
        ("lane_bytes_max", one_of(dice, &["512KiB", "1MiB", "4MiB"])),
        ("live_bytes_max", one_of(dice, &["512KiB", "2MiB", "8MiB"])),
        ("checkpoint_interval", one_of(dice, &["50ms", "300ms", "1s", "10s"])),
        (
            "backlog_keys_max",
            Value::from(i64::from(one_number(dice, &[1, 100, 2_000_000]))),
        ),
        ("parked_max", Value::from(i64::from(one_number(dice, &[200, 100_000])))),
    ];
    for (key, value) in queue {
        section(config, "queue").insert(key.to_owned(), value);
    }
    let after = one_of(dice, &["100ms", "1s", "30s"]);
    section(config, "replay").insert("backlog_after".to_owned(), after);
    let shards = Value::from(i64::from(one_number(dice, &[1, 2])));
    section(config, "relay").insert("shards".to_owned(), shards);
}

fn section<'a>(config: &'a mut Table, name: &str) -> &'a mut Table {
    let entry = config.entry(name).or_insert_with(|| Value::Table(Table::new()));
    entry.as_table_mut().unwrap()
}

fn one_of(dice: &mut Rng, values: &[&str]) -> Value {
    Value::from(values[dice.usize(..values.len())])
}

fn one_number(dice: &mut Rng, values: &[u32]) -> u32 {
    values[dice.usize(..values.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_campaign() {
        let roll = |seed| {
            let mut dice = Rng::with_seed(seed);
            let mut config = Table::new();
            let rounds: Vec<String> = (0..100)
                .map(|_| format!("{:?}", Round::roll(&mut dice, &(50..2_000))))
                .collect();
            shuffle_settings(&mut config, &mut dice);
            (rounds, config.to_string())
        };
        assert_eq!(roll(7), roll(7));
        assert_ne!(roll(7), roll(8));
    }

    #[test]
    fn every_kind_of_blow_comes_within_fifty_rounds() {
        let mut dice = Rng::with_seed(1);
        let blows: Vec<Blow> = (0..50).map(|_| Round::roll(&mut dice, &(50..100)).blow).collect();
        let has = |fits: fn(&Blow) -> bool| blows.iter().any(fits);
        assert!(has(|blow| matches!(blow, Blow::Kill { a: true, b: false, .. })));
        assert!(has(|blow| matches!(blow, Blow::Kill { a: false, b: true, .. })));
        assert!(has(|blow| matches!(blow, Blow::Kill { a: true, b: true, .. })));
        assert!(has(|blow| matches!(
            blow,
            Blow::Kill {
                again_after: Some(_),
                ..
            }
        )));
        assert!(has(|blow| matches!(blow, Blow::Pause(_))));
    }
}
