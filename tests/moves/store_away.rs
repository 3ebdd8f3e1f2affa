//! the store loses its majority. Calls of keys go on: for ever if their lease is infinite, else for four fifths of it;
//! then they are refused, and nobody else has the keys. A relay that starts anew meanwhile has routes, and admits nothing.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::harness::wait_for;
use crate::judge::Verdict;
use crate::ledger::{Attempt, Said};
use crate::stage::{LEASE, LIMIT, RELAYS, Stage};
use crate::writers::Writers;

/// A time without a majority.
#[derive(Clone, Debug)]
pub struct Away {
    /// When two members were stopped.
    from: Instant,
    /// When they went on.
    until: Instant,
    /// When the store answered again.
    back: Instant,
    /// Who owned each key all the time.
    owners: Vec<String>,
    /// Writes that were tried after their leases, and refused.
    refused: usize,
    /// Whether the lease of a key ends, by key.
    finite: Vec<bool>,
}

/// The relay that is started anew while the store is away; the only one of its unit.
const ANEW: usize = 3;
/// How long after its end a lease is tried.
const OVER: Duration = Duration::from_millis(300);
/// How long callers wait who try that.
const SHORT: Duration = Duration::from_secs(1);
/// A renewal that was answered was sent at most so long before; and machines of tests are busy.
const RENEWED: Duration = Duration::from_secs(2);

/// Stops two members for a while. No move may be under way.
pub async fn without_majority(stage: &mut Stage, writers: &Writers) -> (Away, Verdict) {
    let mut verdict = Verdict::default();
    let owners: Vec<_> = stage.owners(0).await.into_iter().map(|(unit, _)| unit).collect();
    let leader = stage.etcd().leader().await;
    let stopped = [leader, (leader + 1) % stage.etcd().len()];
    let from = Instant::now();
    for at in stopped {
        stage.etcd().signal(at, "STOP");
    }
    let relay = stage.cluster.relay_mut(RELAYS[ANEW].1);
    relay.kill();
    relay.start().await;
    look_at_anew(stage, writers, &owners, &mut verdict).await;
    sleep_until((from + LEASE * 4 / 5 + OVER).into()).await;
    let refused = look_at_leases(stage, writers, &owners, &mut verdict).await;
    let until = Instant::now();
    for at in stopped {
        stage.etcd().signal(at, "CONT");
    }
    // Every relay admits all its keys again.
    for (key, owner) in owners.iter().enumerate() {
        let at = RELAYS.iter().position(|(unit, _)| unit == owner).unwrap();
        let what = format!("key {key} to be served again by unit {owner}");
        wait_for(&what, LIMIT, async || {
            let said = writers.pen(at).write(key, Duration::ZERO).await;
            matches!(said, Said::Done { .. }).then_some(())
        })
        .await;
    }
    let away = Away {
        from,
        until,
        back: Instant::now(),
        owners,
        refused,
        finite: (0..stage.keys.len()).map(|key| stage.is_finite(key)).collect(),
    };
    (away, verdict)
}

/// R-I14: nobody admits a write of a key whose lease is over. Answers how many were refused.
async fn look_at_leases(stage: &Stage, writers: &Writers, owners: &[String], verdict: &mut Verdict) -> usize {
    let mut asked = JoinSet::new();
    for (key, owner) in owners.iter().enumerate().filter(|(key, _)| stage.is_finite(*key)) {
        let at = RELAYS.iter().position(|(unit, _)| unit == owner).unwrap();
        let pen = writers.pen(at).clone();
        asked.spawn(async move { (key, pen.write_within(SHORT, key, Duration::ZERO).await) });
    }
    let said = asked.join_all().await;
    for (key, said) in &said {
        if matches!(said, Said::Done { .. }) {
            verdict.complain(format!("R-I14: key {key} was written after its lease: {said:?}"));
        }
    }
    said.len()
}

/// What it knew, it routes; what it owned, it cannot know that it still owns.
async fn look_at_anew(stage: &Stage, writers: &Writers, owners: &[String], verdict: &mut Verdict) {
    let (own, name) = RELAYS[ANEW];
    writers.pen(ANEW).until_connected(LIMIT).await;
    // Its copy is of a moment before, and of keys that were never moved it knows nothing: not all of them get through.
    let (mut there, mut here) = (JoinSet::new(), JoinSet::new());
    for (key, owner) in owners.iter().enumerate().filter(|(key, _)| !stage.is_finite(*key)) {
        let pen = writers.pen(ANEW).clone();
        let asked = if owner == own { &mut here } else { &mut there };
        asked.spawn(async move { (key, pen.write(key, Duration::ZERO).await) });
    }
    let carried = there.join_all().await;
    if !carried.iter().any(|(_, said)| matches!(said, Said::Done { .. })) {
        verdict.complain(format!("R-3.12: {name} has a copy and carried nothing: {carried:?}"));
    }
    for (key, said) in here.join_all().await {
        if matches!(said, Said::Done { .. }) {
            verdict.complain(format!("R-I14: {name} has no session and admitted key {key}: {said:?}"));
        }
    }
}

impl Away {
    /// How long it was.
    pub fn took(&self) -> Duration {
        self.until - self.from
    }

    /// When it began, and when all was as before.
    pub fn window(&self) -> (Instant, Instant) {
        (self.from, self.back)
    }

    /// Looks at what callers were told meanwhile. Answers how many writes went on, and how many were refused, as they should.
    pub fn look_at(&self, attempts: &[Attempt], verdict: &mut Verdict) -> (usize, usize) {
        let mut went_on = 0;
        let anew = RELAYS[ANEW].0;
        let meanwhile = attempts
            .iter()
            .filter(|attempt| attempt.begun >= self.from && attempt.ended() <= self.until);
        // The relay that was started anew owns nothing for a while, and those who asked it lost their connection.
        let others = meanwhile.filter(|attempt| attempt.from != ANEW && self.owners[attempt.key] != anew);
        for attempt in others {
            let is_early = attempt.ended() < self.from + (LEASE * 4 / 5).saturating_sub(RENEWED);
            let is_late = attempt.begun > self.from + LEASE * 4 / 5 + OVER;
            let goes_on = !self.finite[attempt.key] || is_early;
            match &attempt.said {
                Said::Done { unit, .. } if *unit != self.owners[attempt.key] => {
                    verdict.complain(format!("R-3.12: a key has moved without the store: {attempt:?}"));
                }
                Said::Done { .. } if goes_on => went_on += 1,
                Said::Done { .. } if is_late => {
                    verdict.complain(format!("R-I14: a write was admitted after its lease: {attempt:?}"));
                }
                Said::Failed(_) if goes_on => {
                    verdict.complain(format!("R-3.12: a call did not go on without the store: {attempt:?}"));
                }
                _ => {}
            }
        }
        if self.refused == 0 || went_on == 0 {
            let refused = self.refused;
            verdict.complain(format!(
                "R-3.12: {went_on} went on, {refused} refused: nothing was shown"
            ));
        }
        (went_on, self.refused)
    }
}
