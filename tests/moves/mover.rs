//! Whoever asks for moves: at random relays, of random keys, to random units.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::stage::{Stage, UNITS, ask};

/// Moves asked for until they are told to stop.
pub struct Movers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<Moved>>,
}

/// What became of a move that was asked for.
#[derive(Clone, Debug)]
pub struct Moved {
    /// When it was asked for.
    pub begun: Instant,
    /// Until it was seen to be over.
    pub took: Duration,
    /// What it came to.
    pub ended: Ended,
}

/// What a move came to, as far as its asker saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// So many keys have moved, and so many stayed.
    Over {
        /// Moved.
        moved: u64,
        /// Stayed where they were.
        stayed: u64,
    },
    /// A relay said no: a key is under way already, or all are there.
    Refused,
    /// Nobody answered; it may have begun.
    Unanswered,
}

/// Askers at once.
const AT_ONCE: usize = 3;
/// Keys of a move.
const KEYS_MAX: usize = 5;
/// After that its asker looks at another one; in the end all must be over.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at a move: each reads the whole store.
const LOOK_EVERY: Duration = Duration::from_millis(100);

struct Asker {
    admins: Vec<String>,
    keys: Vec<(&'static str, String)>,
    dice: Rng,
}

impl Movers {
    /// Begins to ask.
    pub fn start(stage: &Stage, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..AT_ONCE as u64 {
            let mut asker = Asker {
                admins: stage.admins(),
                keys: stage.keys.clone(),
                dice: Rng::with_seed(seed.wrapping_mul(31).wrapping_add(number)),
            };
            let stop = Arc::clone(&stop);
            tasks.spawn(async move {
                let mut moved = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    moved.push(asker.move_some().await);
                }
                moved
            });
        }
        Self { stop, tasks }
    }

    /// Asks for no more; what became of those that were asked for.
    pub async fn end(self) -> Vec<Moved> {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await.concat()
    }
}

impl Asker {
    async fn move_some(&mut self) -> Moved {
        let begun = Instant::now();
        let ended = match self.begin().await {
            Ok(Some(id)) => self.follow(&id, begun).await,
            Ok(None) => Ended::Refused,
            Err(_) => Ended::Unanswered,
        };
        if !matches!(ended, Ended::Over { .. }) {
            sleep(LOOK_EVERY).await;
        }
        Moved {
            begun,
            took: begun.elapsed(),
            ended,
        }
    }

    /// Asks for a move; its number if it has begun.
    async fn begin(&mut self) -> Result<Option<String>, String> {
        let count = self.dice.usize(1..=KEYS_MAX);
        let what: Vec<_> = (0..count)
            .map(|_| {
                let (dimension, key) = &self.keys[self.dice.usize(..self.keys.len())];
                json!({ "node": { "key": { "dimension": dimension, "key": key } } })
            })
            .collect();
        let to = UNITS[self.dice.usize(..UNITS.len())];
        let budget = ["500ms", "2s"][self.dice.usize(..2)];
        let options = json!({ "freeze_budget": budget, "trail": "2s" });
        let command = json!({ "ask": "move", "what": what, "to": to, "options": options });
        let (status, answer) = ask(self.any(), &command).await?;
        match status {
            503 => Err(answer.to_string()),
            _ => Ok(answer["plan"]["id"].as_str().map(ToOwned::to_owned)),
        }
    }

    /// Looks at it, each time at another relay, until it is over. Some are stopped.
    async fn follow(&mut self, id: &str, begun: Instant) -> Ended {
        let mut stops = self.dice.u8(0..100) < 5;
        while begun.elapsed() < PATIENCE {
            if std::mem::take(&mut stops) {
                let _ = ask(self.any(), &json!({ "ask": "abort", "id": id })).await;
            }
            if let Ok((200, answer)) = ask(self.any(), &json!({ "ask": "moves", "id": id })).await
                && let Some(ended) = over(&answer["moves"][0])
            {
                return ended;
            }
            sleep(LOOK_EVERY).await;
        }
        Ended::Unanswered
    }

    fn any(&mut self) -> &str {
        let at = self.dice.usize(..self.admins.len());
        &self.admins[at]
    }
}

fn over(row: &Json) -> Option<Ended> {
    let is_over = row["left"] == 0 && row["state"] != "running" && row["state"] != "aborting";
    let count = |name: &str| row[name].as_u64().unwrap_or_default();
    is_over.then(|| Ended::Over {
        moved: count("moved"),
        stayed: count("aborted"),
    })
}
