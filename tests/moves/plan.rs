//! What happens when: the faults of a campaign, from its seed.

use std::time::Duration;

use fastrand::Rng;

use crate::stage::RELAYS;

/// Who is hit.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Target {
    /// A relay, by its position among [`RELAYS`].
    Relay(usize),
    /// A member of etcd, by its position.
    Member(usize),
    /// Whichever member leads at that moment.
    Leader,
}

/// What is done to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blow {
    /// SIGKILL; started again so long after.
    Kill(Duration),
    /// SIGSTOP, and SIGCONT so long after.
    Stop(Duration),
}

/// One fault: at most one relay and one member of etcd at a time, so that the store always has a majority.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Undisturbed time before it.
    pub life: Duration,
    /// Who is hit, and how; all at once.
    pub blows: Vec<(Target, Blow)>,
}

/// Members of etcd.
pub const MEMBERS: usize = 3;

impl Fault {
    /// The next one. With `long_pauses` some relays are stopped for so long that their leases end.
    pub fn roll(dice: &mut Rng, long_pauses: bool) -> Self {
        let life = millis(dice, 200..1_200);
        let kind = dice.u8(0..100);
        let mut blows = Vec::new();
        if kind < 65 {
            let relay = Target::Relay(dice.usize(..RELAYS.len()));
            blows.push((relay, blow(dice, long_pauses)));
        }
        if kind >= 40 {
            let member = match dice.u8(0..2) {
                0 => Target::Leader,
                _ => Target::Member(dice.usize(..MEMBERS)),
            };
            blows.push((member, blow(dice, false)));
        }
        Self { life, blows }
    }
}

fn blow(dice: &mut Rng, long_pauses: bool) -> Blow {
    match dice.u8(0..100) {
        0..50 => Blow::Kill(millis(dice, 0..1_500)),
        50..88 => Blow::Stop(millis(dice, 50..2_500)),
        _ if long_pauses => Blow::Stop(millis(dice, 8_000..14_000)),
        _ => Blow::Stop(millis(dice, 1_000..4_000)),
    }
}

fn millis(dice: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(dice.u64(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let roll = |seed| {
            let mut dice = Rng::with_seed(seed);
            (0..50).map(|_| Fault::roll(&mut dice, true)).collect::<Vec<_>>()
        };
        assert_eq!(roll(7), roll(7));
        assert_ne!(roll(7), roll(8));
    }

    #[test]
    fn every_kind_of_fault_comes_and_never_takes_the_majority() {
        let mut dice = Rng::with_seed(1);
        let faults: Vec<_> = (0..200).map(|_| Fault::roll(&mut dice, true)).collect();
        let blows = || faults.iter().flat_map(|fault| &fault.blows);
        let has = |fits: fn(&(Target, Blow)) -> bool| assert!(blows().any(fits));
        has(|blow| matches!(blow, (Target::Relay(_), Blow::Kill(_))));
        has(|blow| matches!(blow, (Target::Relay(_), Blow::Stop(time)) if *time > Duration::from_secs(9)));
        has(|blow| matches!(blow, (Target::Leader, Blow::Kill(_))));
        has(|blow| matches!(blow, (Target::Leader, Blow::Stop(_))));
        has(|blow| matches!(blow, (Target::Member(_), Blow::Kill(_))));
        assert!(faults.iter().any(|fault| fault.blows.len() == 2));
        for fault in &faults {
            let of_store = |(target, _): &&(Target, Blow)| !matches!(target, Target::Relay(_));
            assert!(fault.blows.iter().filter(of_store).count() <= 1);
        }
    }
}
