//! Faults, and the verdict.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value as Json, json};
use tokio::time::{sleep, sleep_until};

use crate::figures::{self, Disturbed, crossings, failures, spread};
use crate::harness::wait_for;
use crate::judge::{Absence, Verdict, judge};
use crate::ledger::Said;
use crate::mover::{Moved, Movers};
use crate::plan::{Blow, Fault, Target};
use crate::stage::{IN_FLIGHT_MAX, LEASE, LIMIT, RELAYS, Stage};
use crate::store_away::{Away, without_majority};
use crate::writers::Writers;

/// A campaign to run.
pub struct Campaign {
    /// Everything random follows from it, except what the machine does.
    pub seed: u64,
    /// Keys that are written to and moved.
    pub keys: usize,
    /// Faults in all.
    pub faults: usize,
    /// Writers at each relay.
    pub writers: usize,
    /// How often all of it comes to rest, and the store loses its majority.
    pub phases: usize,
    /// Whether relays are stopped for longer than their leases.
    pub long_pauses: bool,
}

/// What was done.
#[derive(Default)]
struct Deeds {
    /// Faults by kind.
    faults: BTreeMap<String, usize>,
    /// When something was wrong.
    disturbed: Vec<(Instant, Instant)>,
    absences: Vec<Absence>,
    away: Vec<Away>,
    moved: Vec<Moved>,
    /// What was found on the way.
    wrong: Vec<String>,
}

/// After a fault relays need so long until nothing of it is seen any more: an idle link is given up after 3 s, and dialled again.
const AFTERMATH: Duration = Duration::from_secs(8);
/// A relay that is stopped for so long can be counted as gone.
const ABSENCE_MIN: Duration = Duration::from_millis(7_500);
/// Moves and writes at the end without any fault.
const CALM: Duration = Duration::from_secs(3);

impl Campaign {
    /// Runs it; fails if anything is wrong.
    pub fn run(self) {
        println!("seed {}", self.seed);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.run_inside());
    }

    async fn run_inside(self) {
        let begun = Instant::now();
        let mut dice = Rng::with_seed(self.seed);
        let mut stage = Stage::start(self.keys).await;
        let mut writers = Writers::start(&stage, self.writers, self.seed).await;
        let mut deeds = Deeds::default();
        for key in 0..self.keys {
            let pen = writers.pen(dice.usize(..RELAYS.len()));
            wait_for("a key to be claimed", LIMIT, async || {
                let said = pen.write(key, Duration::ZERO).await;
                matches!(said, Said::Done { .. }).then_some(())
            })
            .await;
        }
        for phase in 0..self.phases {
            let movers = Movers::start(&stage, dice.u64(..));
            let faults = self.faults / self.phases + usize::from(phase < self.faults % self.phases);
            for _ in 0..faults {
                let fault = Fault::roll(&mut dice, self.long_pauses);
                strike(&mut stage, &fault, &mut deeds).await;
            }
            deeds.moved.extend(movers.end().await);
            self.come_to_rest(&mut stage).await;
            let (away, verdict) = without_majority(&mut stage, &writers).await;
            deeds.disturbed.push(away.window());
            deeds.wrong.extend(verdict.wrong);
            deeds.away.push(away);
            eprintln!("phase {} of {} after {:.0?}", phase + 1, self.phases, begun.elapsed());
        }
        self.come_to_rest(&mut stage).await;
        let calm = Instant::now();
        let movers = Movers::start(&stage, dice.u64(..));
        sleep(CALM).await;
        deeds.moved.extend(movers.end().await);
        stage.until_moves_end(0).await;
        writers.end().await;
        self.all_agree(&stage, &writers, &mut deeds).await;
        self.verdict(&stage, &deeds, calm, begun);
    }

    /// All relays are up and linked, and no move is under way (R-I11).
    async fn come_to_rest(&self, stage: &mut Stage) {
        stage.etcd().until_whole().await;
        stage.until_ready().await;
        stage.cluster.until_all_linked().await;
        stage.until_moves_end(0).await;
    }

    /// All relays name the same owner of each key, and send writes there, under the same epoch whoever of the owner's relays has it
    /// . What relays know may only have risen: what is left of moves is cleared now and then (R-I4, R-I6).
    async fn all_agree(&self, stage: &Stage, writers: &Writers, deeds: &mut Deeds) {
        let mut known = stage.owners(0).await;
        let mut told: Vec<Option<u64>> = vec![None; known.len()];
        for (from, (_, name)) in RELAYS.iter().enumerate() {
            for (key, found) in stage.owners(from).await.into_iter().enumerate() {
                let before = std::mem::replace(&mut known[key], found.clone());
                if before.0 != found.0 || before.1 > found.1 {
                    deeds
                        .wrong
                        .push(format!("key {key}: {before:?}, then {found:?} at {name}"));
                }
                let said = writers.pen(from).write(key, Duration::ZERO).await;
                let is_there = matches!(&said, Said::Done { unit, epoch }
                    if *unit == found.0 && *epoch <= found.1 && *told[key].get_or_insert(*epoch) == *epoch);
                if !is_there {
                    deeds
                        .wrong
                        .push(format!("key {key} from {name}: {said:?}, not {found:?}"));
                }
            }
        }
    }

    fn verdict(&self, stage: &Stage, deeds: &Deeds, calm: Instant, begun: Instant) {
        let (executions, attempts) = stage.ledger.read();
        let mut verdict = judge(&executions, &attempts, &deeds.absences);
        let mut away = Vec::new();
        for time in &deeds.away {
            let (went_on, refused) = time.look_at(&attempts, &mut verdict);
            away.push(json!({ "seconds": time.took().as_secs_f64(), "went_on": went_on, "refused": refused }));
        }
        for failed in attempts
            .iter()
            .filter(|attempt| attempt.begun >= calm && !attempt.is_done())
        {
            verdict.complain(format!("a write failed although nothing was wrong: {failed:?}"));
        }
        verdict.wrong.extend(deeds.wrong.iter().take(20).cloned());
        let disturbed = Disturbed(deeds.disturbed.clone());
        let crossed = crossings(&executions, &attempts);
        let is_calm = |(begun, took): &&(Instant, Duration)| disturbed.is_calm(*begun, *begun + *took);
        let calm_failures = attempts
            .iter()
            .filter(|attempt| disturbed.is_calm(attempt.begun, attempt.ended()));
        let result = json!({
            "seed": self.seed, "keys": self.keys, "seconds": begun.elapsed().as_secs_f64(), "writes": attempts.len(),
            "verdict": verdict, "faults": deeds.faults, "without_majority": away,
            "moves": figures::moves(&deeds.moved, &disturbed),
            "failures": failures(attempts.iter()), "failures_in_calm": failures(calm_failures),
            "write_ms": spread(attempts.iter().filter(|attempt| attempt.is_done()).map(|attempt| attempt.took)),
            "first_write_of_an_owner_ms": spread(crossed.iter().map(|(_, took)| *took)),
            "first_write_of_an_owner_ms_calm": spread(crossed.iter().filter(is_calm).map(|(_, took)| *took)),
        });
        println!("{result}");
        assert!(verdict.wrong.is_empty(), "{result:#}");
        assert!(verdict.handovers > self.keys / 2, "few keys have moved: {result:#}");
    }
}

/// Hits, and mends.
async fn strike(stage: &mut Stage, fault: &Fault, deeds: &mut Deeds) {
    sleep(fault.life).await;
    let begun = Instant::now();
    let mut hit = Vec::new();
    for (target, blow) in &fault.blows {
        let (Blow::Kill(time) | Blow::Stop(time)) = *blow;
        let at = Instant::now();
        let found = stage.hit(*target, *blow).await;
        hit.push((at + time, found, *blow));
        *deeds.faults.entry(kind(*target, *blow)).or_default() += 1;
        if let (Target::Relay(relay), Blow::Stop(_)) = (found, blow)
            && time >= ABSENCE_MIN
        {
            let until = at + time + IN_FLIGHT_MAX;
            deeds.absences.push(Absence { relay, from: at, until });
        }
    }
    hit.sort_by_key(|(until, ..)| *until);
    for (until, target, blow) in hit {
        sleep_until(until.into()).await;
        stage.mend(target, blow);
    }
    // The next one must not find the store without a majority.
    stage.etcd().until_whole().await;
    deeds.disturbed.push((begun, Instant::now() + AFTERMATH));
}

fn kind(target: Target, blow: Blow) -> String {
    let who = match target {
        Target::Relay(_) => "relay",
        Target::Member(_) => "member",
        Target::Leader => "leader",
    };
    let what = match blow {
        Blow::Kill(_) => "killed",
        Blow::Stop(time) if time >= ABSENCE_MIN => "stopped for longer than a lease",
        Blow::Stop(_) => "stopped",
    };
    format!("{who} {what}")
}
