//! Writers at all relays, each with all keys, in no order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::{Request, Status};

use crate::client::Client;
use crate::harness::wait_for;
use crate::ledger::{Attempt, Ledger, Said};
use crate::stage::{RELAYS, Stage};

/// Who can write.
#[derive(Clone)]
pub struct Pen {
    client: Client,
    from: usize,
    keys: Arc<Vec<String>>,
    ledger: Ledger,
    next: Arc<AtomicU64>,
}

/// Writers until they are told to stop.
pub struct Writers {
    pens: Vec<Pen>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

/// Between two writes of a writer.
const PACE: Duration = Duration::from_millis(25);
/// How long a caller waits.
const DEADLINE: Duration = Duration::from_secs(4);
/// What a caller adds to that before it goes away without an answer.
const GRACE: Duration = Duration::from_secs(1);

impl Writers {
    /// So many at each relay.
    pub async fn start(stage: &Stage, each: usize, seed: u64) -> Self {
        let keys = stage.keys.iter().map(|(dimension, key)| format!("{dimension}={key}"));
        let keys = Arc::new(keys.collect::<Vec<_>>());
        let next = Arc::new(AtomicU64::new(1));
        let stop = Arc::new(AtomicBool::new(false));
        let (mut pens, mut tasks) = (Vec::new(), JoinSet::new());
        for from in 0..RELAYS.len() {
            let pen = Pen {
                client: stage.client(from).await,
                from,
                keys: Arc::clone(&keys),
                ledger: stage.ledger.clone(),
                next: Arc::clone(&next),
            };
            for writer in 0..each {
                let dice = Rng::with_seed(seed ^ ((from * each + writer) as u64) << 32);
                tasks.spawn(write_on(pen.clone(), dice, Arc::clone(&stop)));
            }
            pens.push(pen);
        }
        Self { pens, stop, tasks }
    }

    /// The pen at a relay, for a write of one's own.
    pub fn pen(&self, from: usize) -> &Pen {
        &self.pens[from]
    }

    /// Waits until the last write is answered.
    pub async fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while self.tasks.join_next().await.transpose().unwrap().is_some() {}
    }
}

async fn write_on(pen: Pen, mut dice: Rng, stop: Arc<AtomicBool>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let key = dice.usize(..pen.keys.len());
        // Most are quick; some are under way while their key is frozen.
        let delay = match dice.u8(0..100) {
            0..85 => 0,
            85..97 => dice.u64(1..40),
            _ => dice.u64(40..400),
        };
        pen.write(key, Duration::from_millis(delay)).await;
    }
}

impl Pen {
    /// Writes a key, once; the service takes so long. What it was told is in the ledger too.
    pub async fn write(&self, key: usize, delay: Duration) -> Said {
        self.write_within(DEADLINE, key, delay).await
    }

    /// The same, for a caller that waits for so long.
    pub async fn write_within(&self, deadline: Duration, key: usize, delay: Duration) -> Said {
        let write = self.next.fetch_add(1, Ordering::SeqCst);
        let mut request = self.request(write, key, delay);
        request.set_timeout(deadline);
        let begun = Instant::now();
        let answered = timeout(deadline + GRACE, self.client.unary("Write", request)).await;
        let said = match answered {
            Ok(Ok(answer)) => {
                let unit = answer.metadata().get("strait-unit").expect("who served it");
                Said::Done {
                    unit: unit.to_str().unwrap().to_owned(),
                    epoch: String::from_utf8_lossy(answer.get_ref()).parse().unwrap(),
                }
            }
            Ok(Err(status)) => Said::Failed(reason(&status)),
            Err(_) => Said::Failed("no answer".to_owned()),
        };
        self.ledger.on_attempt(Attempt {
            write,
            key,
            from: self.from,
            begun,
            took: begun.elapsed(),
            said: said.clone(),
        });
        said
    }

    /// Waits until the relay, not this client, answers: a connection that broke is noticed by the calls that were on it.
    pub async fn until_connected(&self, limit: Duration) {
        wait_for("the relay to answer this client", limit, async || {
            // It refuses that at once, whatever it knows of routes.
            let mut request = Request::new(Bytes::new());
            request.metadata_mut().insert("strait-key", "no key".parse().unwrap());
            let answered = timeout(GRACE, self.client.unary("Write", request)).await;
            let is_relay = |status: Status| status.metadata().contains_key("strait-error");
            answered.ok()?.err().is_some_and(is_relay).then_some(())
        })
        .await;
    }

    fn request(&self, write: u64, key: usize, delay: Duration) -> Request<Bytes> {
        let mut request = Request::new(Bytes::new());
        let mut add = |name: &'static str, value: String| {
            request.metadata_mut().insert(name, value.parse().unwrap());
        };
        add("strait-key", self.keys[key].clone());
        add("x-write", write.to_string());
        add("x-key", key.to_string());
        add("x-delay-ms", delay.as_millis().to_string());
        request
    }
}

/// Why, as a relay says; of an error that no relay made, its code.
fn reason(status: &Status) -> String {
    let said = status
        .metadata()
        .get("strait-error")
        .and_then(|said| said.to_str().ok());
    match said.and_then(|said| said.split("; ").next()) {
        Some(reason) => reason.to_owned(),
        None => format!("{:?} of the client", status.code()),
    }
}
