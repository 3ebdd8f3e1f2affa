//! R-I1, R-I2, R-I12, C-R1: keys move between units while all units write to them; nothing is lost, doubled or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use crate::harness::{Relay, http_post_body, wait_for, within};
use crate::owners::{UNITS, World};
use crate::services::{Client, request};

const LIMIT: Duration = Duration::from_secs(60);
pub const KEYS: usize = 20;

/// A write that was acknowledged.
#[derive(Clone, Debug)]
pub struct Ack {
    pub key: usize,
    pub unit: String,
    /// Since when that unit owned the key, as its service was told.
    pub epoch: u64,
    took: Duration,
}

/// Writers at all units, each with all keys in turn, until they are told to stop.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(Vec<Ack>, Vec<Status>)>,
}

impl Writers {
    pub fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for unit in UNITS {
            for key in 0..KEYS {
                let (client, stop) = (world.client(unit), stop.clone());
                tasks.spawn(async move {
                    let (mut acks, mut errors) = (Vec::new(), Vec::new());
                    while !stop.load(Ordering::SeqCst) {
                        match write(&client, key).await {
                            Ok(ack) => acks.push(ack),
                            Err(status) => errors.push(status),
                        }
                    }
                    (acks, errors)
                });
            }
        }
        Self { stop, tasks }
    }

    /// What each writer saw, in its order.
    pub async fn end(self) -> (Vec<Vec<Ack>>, Vec<Status>) {
        self.stop.store(true, Ordering::SeqCst);
        let all = within("the writers to end", LIMIT, self.tasks.join_all()).await;
        let (acks, errors): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (acks, errors.concat())
    }
}

async fn write(client: &Client, key: usize) -> Result<Ack, Status> {
    write_within(client, key, Duration::from_secs(10)).await
}

/// One write, with a deadline.
pub async fn write_within(client: &Client, key: usize, limit: Duration) -> Result<Ack, Status> {
    let name = format!("cid=m{key}");
    let mut asked = request(Bytes::new(), &[("strait-key", name.as_str())]);
    asked.set_timeout(limit);
    let begun = Instant::now();
    let answer = client.unary("Metadata", asked).await?;
    let unit = answer.metadata().get("strait-unit").expect("who served it");
    let unit = unit.to_str().unwrap().to_owned();
    let seen = String::from_utf8_lossy(answer.get_ref()).into_owned();
    let epoch = seen
        .lines()
        .find_map(|line| line.strip_prefix("strait-owner-epoch"))
        .expect(&seen);
    let epoch = epoch.trim_start_matches([':', '=', ' ']).trim().parse().unwrap();
    Ok(Ack {
        key,
        unit,
        epoch,
        took: begun.elapsed(),
    })
}

/// Asks the operators' address of a relay.
pub async fn ask(relay: &Relay, command: &Value) -> Value {
    let (status, body) = http_post_body(&relay.admin(), "/routes", &command.to_string())
        .await
        .unwrap();
    assert_eq!(status, 200, "{command}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Moves a key and waits until it is there; answers how long that took.
pub async fn move_key(world: &World, at: &str, key: usize, to: &str) -> Duration {
    let relay = world.cluster.relay(at);
    let node = json!({ "node": { "key": { "dimension": "cid", "key": format!("m{key}") } } });
    let begun = Instant::now();
    let plan = ask(relay, &json!({ "ask": "move", "what": [node], "to": to })).await;
    let Some(id) = plan["plan"]["id"].as_str() else {
        return begun.elapsed();
    };
    wait_for("the key to be moved", LIMIT, async || {
        let answer = ask(relay, &json!({ "ask": "moves", "id": id })).await;
        let row = answer["moves"][0].clone();
        let is_over = row["state"] != "running" && row["state"] != "aborting";
        is_over.then(|| assert_eq!(row["moved"], 1, "{row}"))
    })
    .await;
    begun.elapsed()
}

/// Each epoch of a key belongs to one unit, and nobody who writes one after the other sees an epoch go back (R-I1).
pub fn check(acks: &[Vec<Ack>]) {
    let mut owners: BTreeMap<(usize, u64), &str> = BTreeMap::new();
    for of_writer in acks {
        let mut last = 0;
        for ack in of_writer {
            assert!(ack.epoch >= last, "an epoch went back: {ack:?} after {last}");
            last = ack.epoch;
            let owner = owners.entry((ack.key, ack.epoch)).or_insert(&ack.unit);
            assert_eq!(*owner, ack.unit, "two owners at one epoch: {ack:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_move_under_writes_of_all_units() {
    let world = World::start(&[]).await;
    for key in 0..KEYS {
        world.call(UNITS[key % 3], &format!("cid=m{key}")).await.unwrap();
    }
    let before = world.served();
    let writers = Writers::start(&world);
    let mut moves = Vec::new();
    for key in 0..KEYS {
        let at = ["a-1", "a-2", "b-1", "c-1"][key % 4];
        moves.push(move_key(&world, at, key, UNITS[(key + 1) % 3]).await);
    }
    let (acks, errors) = writers.end().await;
    check(&acks);
    assert!(errors.is_empty(), "{} writes failed: {:?}", errors.len(), errors[0]);
    let all: Vec<_> = acks.iter().flatten().collect();
    assert_eq!(
        world.served() - before,
        all.len() as u64,
        "a write was done twice, or not at all"
    );
    // step 6: one epoch for each owner, at all of its relays, whatever step its moves were at.
    let mut epochs: BTreeMap<(usize, &str), BTreeSet<u64>> = BTreeMap::new();
    for ack in &all {
        epochs.entry((ack.key, &ack.unit)).or_default().insert(ack.epoch);
    }
    let twice: Vec<_> = epochs.iter().filter(|(_, epochs)| epochs.len() != 1).collect();
    assert!(twice.is_empty(), "an owner with two epochs: {twice:?}");
    let crossed = acks
        .iter()
        .filter(|acks| acks.windows(2).any(|two| two[0].unit != two[1].unit));
    assert!(crossed.count() > KEYS, "few writers saw their key move");
    let mut took: Vec<_> = all.iter().map(|ack| ack.took).collect();
    took.sort();
    moves.sort();
    eprintln!(
        "{} writes, half within {:?}, longest {:?}; {} moves, half within {:?}, longest {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1],
        moves.len(),
        moves[moves.len() / 2],
        moves[moves.len() - 1]
    );
}
