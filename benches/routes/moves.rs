//! One key that all relays write to goes from unit to unit: what its callers wait, beside the round trip to the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::bare::Member;
use crate::judge::judge;
use crate::ledger::{Attempt, Execution};
use crate::stage::{Kept, RELAYS, Stage, UNITS, ask};
use crate::table::{Effort, Figure, percentile};
use crate::writers::Writers;

/// Writers of the key at each relay.
const WRITERS: usize = 4;
/// Between two writes of a writer: what waits is seen, and the machine is not full.
const PACE: Duration = Duration::from_millis(5);
/// Reads and writes of the store that a round is compared with, taken while the writers write.
const PROBES: u64 = 50;

/// When a move was asked for, and when it was seen to be over.
type Window = (Instant, Instant);

/// The figure.
pub async fn measure(kept: Kept, effort: &Effort) -> Figure {
    let stage = Stage::start_with(kept, 1).await;
    let mut pens = Writers::start(&stage, 0, 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = write_until(&stop, &pens);
    let member = match kept {
        Kept::Etcd => Some(Member::connect(&stage.etcd().addresses()).await),
        Kept::Embedded => None,
    };
    let (mut rounds, mut store) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        if let Some(member) = &member {
            store.push(probe(member, round as u64 * PROBES).await);
        }
        let mut windows = Vec::new();
        for number in 0..effort.moves {
            windows.push(move_key(&stage, round * effort.moves + number).await);
        }
        rounds.push(windows);
    }
    stop.store(true, Ordering::SeqCst);
    while writers.join_next().await.is_some() {}
    pens.end().await;
    let (executions, attempts) = stage.ledger.read();
    let rows: Vec<_> = rounds
        .iter()
        .map(|windows| row(windows, &executions, &attempts))
        .collect();
    let title = format!(
        "Moves of one key, {}: {} of a round, {} writers at four relays",
        kept.name(),
        effort.moves,
        WRITERS * RELAYS.len()
    );
    let mut figure = Figure::new(title, &["p50 ms", "p99 ms", "longest ms"]);
    if member.is_some() {
        let part = |at: usize| {
            store
                .iter()
                .map(|both: &[Vec<f64>; 2]| both[at].clone())
                .collect::<Vec<_>>()
        };
        figure.row("read of the store itself: one round trip", &part(0));
        figure.row("write of the store itself, 150 B", &part(1));
    }
    let part = |at: usize| {
        rows.iter()
            .map(|three: &[Vec<f64>; 3]| three[at].clone())
            .collect::<Vec<_>>()
    };
    figure.row("nobody serves the key", &part(0));
    figure.row("longest wait of a caller, of each move", &part(1));
    figure.row("write without a move", &part(2));
    let verdict = judge(&executions, &attempts, &[]);
    figure.notes.push(format!(
        "{} writes acknowledged, {} refused, {} handovers; lost, twice or at an old owner: {}",
        verdict.acknowledged,
        verdict.failed,
        verdict.handovers,
        verdict.wrong.len()
    ));
    figure.notes.extend(verdict.wrong);
    figure
}

/// Writers at all relays, until they are to stop.
fn write_until(stop: &Arc<AtomicBool>, pens: &Writers) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS * RELAYS.len() {
        let (pen, stop) = (pens.pen(writer % RELAYS.len()).clone(), Arc::clone(stop));
        writers.spawn(async move {
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stop.load(Ordering::SeqCst) {
                pace.tick().await;
                pen.write(0, Duration::ZERO).await;
            }
        });
    }
    writers
}

/// How long the store takes for a read and a write.
async fn probe(member: &Member, first: u64) -> [Vec<f64>; 2] {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for number in first..first + PROBES {
        reads.push(member.read().await);
        writes.push(member.write(number).await);
    }
    [spread(&mut reads), spread(&mut writes)]
}

/// Moves the key to the next unit.
async fn move_key(stage: &Stage, number: usize) -> Window {
    let admin = &stage.admins()[number % RELAYS.len()];
    let (dimension, key) = &stage.keys[0];
    let what = json!([{ "node": { "key": { "dimension": dimension, "key": key } } }]);
    let command =
        json!({ "ask": "move", "what": what, "to": UNITS[(number + 1) % UNITS.len()], "options": { "trail": "1s" } });
    let begun = Instant::now();
    let (_, answer) = ask(admin, &command).await.unwrap();
    let Some(id) = answer["plan"]["id"].as_str() else {
        return (begun, Instant::now());
    };
    loop {
        let (_, answer) = ask(admin, &json!({ "ask": "moves", "id": id })).await.unwrap();
        let row = &answer["moves"][0];
        if row["left"] == 0 && row["state"] != "running" {
            assert_eq!(row["moved"], 1, "the key has not moved: {row}");
            return (begun, Instant::now());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Of each move of a round: how long nobody served the key, and the longest wait of a caller; and what writes take without one.
fn row(windows: &[Window], executions: &[Execution], attempts: &[Attempt]) -> [Vec<f64>; 3] {
    let done = |execution: &&Execution| !execution.cancelled;
    let (mut gaps, mut waits) = (Vec::new(), Vec::new());
    for (from, until) in windows {
        let meanwhile = executions
            .iter()
            .filter(done)
            .filter(|execution| *from <= execution.begun && execution.begun <= *until);
        let Some(epoch) = meanwhile.clone().map(|execution| execution.epoch).max() else {
            continue;
        };
        let last = executions
            .iter()
            .filter(done)
            .filter(|execution| execution.epoch < epoch);
        let last = last.filter_map(|execution| execution.ended).max();
        let first = meanwhile
            .filter(|execution| execution.epoch == epoch)
            .map(|execution| execution.begun)
            .min();
        gaps.extend(
            first
                .zip(last)
                .map(|(first, last)| first.saturating_duration_since(last)),
        );
        let touched = attempts
            .iter()
            .filter(|attempt| attempt.begun <= *until && attempt.ended() >= *from);
        waits.extend(touched.map(|attempt| attempt.took).max());
    }
    let (Some((first, _)), Some((_, last))) = (windows.first(), windows.last()) else {
        return Default::default();
    };
    let is_apart = |attempt: &&Attempt| {
        !windows
            .iter()
            .any(|(from, until)| attempt.begun <= *until && attempt.ended() >= *from)
    };
    let of_round = attempts.iter().filter(|attempt| {
        attempt.begun >= first.checked_sub(Duration::from_secs(1)).unwrap()
            && attempt.begun <= *last + Duration::from_secs(1)
    });
    let mut quiet: Vec<_> = of_round.filter(is_apart).map(|attempt| attempt.took).collect();
    [spread(&mut gaps), spread(&mut waits), spread(&mut quiet)]
}

fn spread(times: &mut [Duration]) -> Vec<f64> {
    [0.5, 0.99, 1.0].map(|share| percentile(times, share)).to_vec()
}
