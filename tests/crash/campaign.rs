//! Producers, consumers, blows, and the verdict.

use std::fs;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value as Json, json};
use strait::model::MessageId;
use tokio::task::JoinSet;

use crate::content::Content;
use crate::edge::{Outlet, Publisher, Verdict, can_pass};
use crate::harness::{Cluster, Relay};
use crate::ledger::{Counts, Ledger};
use crate::plan::{Blow, Round, shuffle_settings};

/// A campaign to run.
pub struct Campaign {
    /// Everything random follows from it, except what the machine does.
    pub seed: u64,
    /// Kills in rounds that count.
    pub kills: u64,
    /// Messages that are acknowledged at least.
    pub messages: u64,
    /// Milliseconds between a start and the next blow.
    pub life_ms: Range<u64>,
    /// Acknowledgements per second without which a round does not count.
    pub load_min: f64,
}

/// What was done.
#[derive(Default)]
struct Deeds {
    rounds: u64,
    invalid: u64,
    kills_of_a: u64,
    kills_of_b: u64,
    kills_of_both: u64,
    kills_during_start: u64,
    pauses: u64,
}

/// Messages under way at a time.
const IN_FLIGHT: usize = 64;
/// Messages a consumer has at a time.
const CONSUMER_IN_FLIGHT: u32 = 64;
/// What is left at the end must come within this, as long as something comes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Campaign {
    /// Runs it; fails if anything is wrong.
    pub fn run(self) {
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
        let mut cluster = Cluster::builder()
            .unit("a", 1)
            .unit("b", 1)
            .set("a", "topics.orders.rule", "owner")
            .set("b", "topics.orders.rule", "owner")
            .set("a", "topics.orders.retry.first", "20ms")
            .set("b", "topics.orders.retry.first", "20ms")
            .start()
            .await;
        let ledger = Arc::new(Mutex::new(Ledger::new(self.seed)));
        let enough = Arc::new(AtomicBool::new(false));
        let consumers = self.consumers(&cluster, &ledger).await;
        let mut producers = self.producers(&cluster, &ledger, &enough).await;

        let mut deeds = Deeds::default();
        while deeds.kills() < self.kills || ledger.lock().unwrap().counts().acknowledged < self.messages {
            let round = Round::roll(&mut dice, &self.life_ms);
            self.strike(&mut cluster, round, &mut deeds, &ledger, &mut dice).await;
            assert!(
                deeds.invalid <= self.kills,
                "too little load for a verdict: {}, publishers got {:#?}",
                deeds.json(),
                ledger.lock().unwrap().errors()
            );
        }
        enough.store(true, Ordering::Relaxed);
        while producers.join_next().await.transpose().unwrap().is_some() {}
        until_all_arrived(&ledger).await;
        for relay in ["a-1", "b-1"] {
            until_drained(cluster.relay(relay)).await;
        }
        drop(consumers);
        self.judge(&ledger.lock().unwrap(), &deeds, begun.elapsed());
    }

    async fn consumers(&self, cluster: &Cluster, ledger: &Arc<Mutex<Ledger>>) -> Vec<Outlet> {
        let mut outlets = Vec::new();
        // Two in the unit that gets most, so that it matters that each message goes to one of them.
        for (unit, relay) in [("a", "a-1"), ("b", "b-1"), ("b", "b-1")] {
            let ledger = Arc::clone(ledger);
            let take = move |id: &MessageId, key: &str, attempt: u32, body: &[u8]| {
                let mut ledger = ledger.lock().unwrap();
                let Some(content) = ledger.on_arrived(unit, id, key, body) else {
                    return Verdict::Ack;
                };
                if content.is_failed_once() && attempt == 1 {
                    return Verdict::Nack(Duration::from_millis(10));
                }
                ledger.on_settled(content.number);
                Verdict::Ack
            };
            let address = format!("tcp://{}", cluster.relay(relay).framed());
            outlets.push(Outlet::open(&address, "orders", "ledger", CONSUMER_IN_FLIGHT, take).await);
        }
        outlets
    }

    async fn producers(&self, cluster: &Cluster, ledger: &Arc<Mutex<Ledger>>, enough: &Arc<AtomicBool>) -> JoinSet<()> {
        let next = Arc::new(AtomicU64::new(1));
        let address = format!("tcp://{}", cluster.relay("a-1").framed());
        let publisher = Publisher::connect(&address).await;
        let mut producers = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (seed, publisher) = (self.seed, publisher.clone());
            let (ledger, enough, next) = (Arc::clone(ledger), Arc::clone(enough), Arc::clone(&next));
            producers.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let content = Content::of(seed, number);
                    loop {
                        // The same source and id each time: what was stored is recognised.
                        match publisher.publish("orders", &content, seed).await {
                            Ok((id, duplicate)) => {
                                ledger.lock().unwrap().on_acknowledged(number, &id, duplicate);
                                break;
                            }
                            Err(error) => {
                                assert!(can_pass(&error), "publishing failed for good: {error}");
                                ledger.lock().unwrap().on_failed(&error.to_string());
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                        }
                    }
                }
            });
        }
        producers
    }

    /// Lets the relays work, strikes, and starts them again with other settings.
    async fn strike(
        &self,
        cluster: &mut Cluster,
        round: Round,
        deeds: &mut Deeds,
        ledger: &Mutex<Ledger>,
        dice: &mut Rng,
    ) {
        let acknowledged = || ledger.lock().unwrap().counts().acknowledged;
        let (before, begun) = (acknowledged(), Instant::now());
        tokio::time::sleep(round.life).await;
        let per_second = (acknowledged() - before) as f64 / begun.elapsed().as_secs_f64();
        let is_valid = per_second >= self.load_min;
        deeds.rounds += 1;
        deeds.invalid += u64::from(!is_valid);
        match round.blow {
            Blow::Pause(time) => {
                cluster.relay("b-1").signal("STOP");
                tokio::time::sleep(time).await;
                cluster.relay("b-1").signal("CONT");
                deeds.pauses += 1;
            }
            Blow::Kill { a, b, again_after } => {
                let names = [("a", a), ("b", b)]
                    .into_iter()
                    .filter(|(_, hit)| *hit)
                    .map(|(unit, _)| unit);
                let names: Vec<&'static str> = names.collect();
                kill(cluster, &names, ledger);
                deeds.count(a, b, is_valid);
                if let Some(after) = again_after {
                    start(cluster, &names, dice);
                    tokio::time::sleep(after).await;
                    kill(cluster, &names, ledger);
                    deeds.kills_during_start += 1;
                }
                start(cluster, &names, dice);
                for unit in names {
                    cluster.relay_mut(&format!("{unit}-1")).until_ready().await;
                }
            }
        }
    }

    fn judge(&self, ledger: &Ledger, deeds: &Deeds, took: Duration) {
        let counts = ledger.counts();
        let missing = ledger.missing();
        let result = json!({
            "seed": self.seed, "seconds": took.as_secs_f64(), "deeds": deeds.json(), "counts": counts,
            "lost": missing.len(), "errors": ledger.errors(),
        });
        println!("{result}");
        let lost: Vec<String> = missing
            .iter()
            .take(10)
            .map(|number| {
                format!(
                    "number {number}, id {}, key {}",
                    ledger.id_of(*number),
                    Content::of(self.seed, *number).key
                )
            })
            .collect();
        let Counts {
            corrupt,
            misrouted,
            out_of_order,
            two_ids,
            unexplained,
            ..
        } = counts;
        assert!(
            missing.is_empty()
                && [corrupt, misrouted, out_of_order, two_ids, unexplained] == [0; 5]
                && ledger.wrong().is_empty(),
            "{result:#}\nlost: {lost:#?}\nwrong: {:#?}",
            ledger.wrong()
        );
    }
}

impl Deeds {
    /// Kills in rounds that count.
    fn kills(&self) -> u64 {
        self.kills_of_a + self.kills_of_b + self.kills_of_both
    }

    fn count(&mut self, a: bool, b: bool, is_valid: bool) {
        let kind = match (a, b) {
            (true, true) => &mut self.kills_of_both,
            (true, false) => &mut self.kills_of_a,
            _ => &mut self.kills_of_b,
        };
        *kind += u64::from(is_valid);
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "rounds": self.rounds, "without_load": self.invalid, "kills": self.kills(), "of_a": self.kills_of_a,
            "of_b": self.kills_of_b, "of_both": self.kills_of_both, "during_start": self.kills_during_start,
            "pauses": self.pauses,
        })
    }
}

/// Kills the relays of these units at the same moment, as far as that goes.
fn kill(cluster: &mut Cluster, units: &[&'static str], ledger: &Mutex<Ledger>) {
    for unit in units {
        cluster.relay(&format!("{unit}-1")).signal("KILL");
    }
    for unit in units {
        cluster.relay_mut(&format!("{unit}-1")).kill();
        ledger.lock().unwrap().on_blow(unit);
    }
}

fn start(cluster: &mut Cluster, units: &[&'static str], dice: &mut Rng) {
    for unit in units {
        let relay = cluster.relay_mut(&format!("{unit}-1"));
        let mut config: toml::Table = fs::read_to_string(relay.config()).unwrap().parse().unwrap();
        shuffle_settings(&mut config, dice);
        fs::write(relay.config(), config.to_string()).unwrap();
        relay.spawn();
    }
}

/// Waits until every message that was acknowledged has arrived, or nothing comes any more.
async fn until_all_arrived(ledger: &Mutex<Ledger>) {
    let mut last = (0, Instant::now());
    while last.1.elapsed() < PATIENCE && !ledger.lock().unwrap().missing().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let arrived = ledger.lock().unwrap().counts().arrived;
        if arrived > last.0 {
            last = (arrived, Instant::now());
        }
    }
}

/// What was accepted and what became of it balance at a relay, by its own audit, and nothing is left (M-G8).
async fn until_drained(relay: &Relay) {
    let begun = Instant::now();
    loop {
        let mut rows = audit(relay).await;
        // Nobody has kept calls here.
        rows.retain(|row| row["topic"] != "strait.calls");
        assert!(!rows.is_empty(), "the audit says nothing");
        let count = |row: &Json, name: &str| row[name].as_i64().expect(name);
        for row in &rows {
            assert_eq!(count(row, "difference"), 0, "the books do not balance: {row}");
            assert_eq!(count(row, "corrupted"), 0, "messages are gone: {row}");
        }
        if rows.iter().all(|row| count(row, "pending") == 0) {
            for row in &rows {
                assert!(count(row, "accepted") > 0, "{row}");
                assert_eq!(
                    count(row, "accepted"),
                    count(row, "relayed"),
                    "not all were delivered: {row}"
                );
            }
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "something is left: {rows:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The rows of `strait audit`.
async fn audit(relay: &Relay) -> Vec<Json> {
    let admin = relay.admin();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command.args(["audit", "--output", "json", "--admin", &admin]).output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let answer: Json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    answer["rows"].as_array().expect("rows").clone()
}
