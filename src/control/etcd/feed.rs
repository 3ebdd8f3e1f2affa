//! What changes, as a chain; and that something was reported.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Streaming;

use super::Etcd;
use super::keys::{self, revision};
use super::reads::prev_of;
use crate::control::store::{Feed, PROGRESS, Reports, StoreError};
use crate::routing::record::{Batch, Change, Rev};
use crate::wire::etcd::{Event, WatchCreate, Watched};

type Sender = mpsc::Sender<Result<Batch, StoreError>>;

/// A feed and how far it has come.
struct Reader {
    store: Etcd,
    events: Streaming<Watched>,
    applied: Rev,
    sender: Sender,
}

impl Etcd {
    pub(super) async fn open_feed(&self, from: Rev) -> Result<Feed, StoreError> {
        let head = self.read_head().await?;
        if from > head {
            return Err(StoreError::Compacted);
        }
        let routes = self.keys.routes();
        let create = WatchCreate {
            range_end: keys::end_of(&routes),
            key: routes,
            start_revision: revision(from.next()),
        };
        let events = self.api.watch(create).await?;
        let (sender, feed) = mpsc::channel(BATCHES_MAX);
        let reader = Reader {
            store: self.clone(),
            events,
            applied: from,
            sender,
        };
        self.tasks.spawn(reader.run());
        Ok(feed)
    }

    pub(super) async fn open_reports(&self) -> Result<Reports, StoreError> {
        let acks = self.keys.acks();
        let create = WatchCreate {
            range_end: keys::end_of(&acks),
            key: acks,
            start_revision: 0,
        };
        let mut events = self.api.watch(create).await?;
        // It says that it has begun.
        let begun = events.message().await;
        begun.map_err(|status| StoreError::Away(status.message().to_owned()))?;
        let (sender, reports) = mpsc::channel(1);
        self.tasks.spawn(pass(events, sender));
        Ok(reports)
    }
}

/// Says that something was reported, for as long as somebody listens.
async fn pass(mut events: Streaming<Watched>, sender: mpsc::Sender<()>) {
    loop {
        let watched = tokio::select! {
            () = sender.closed() => return,
            watched = events.message() => watched,
        };
        match watched {
            Ok(Some(watched)) if watched.events.iter().any(|event| event.kind != REMOVED) => {
                let _ = sender.try_send(());
            }
            Ok(Some(watched)) if !watched.canceled => {}
            Ok(_) | Err(_) => return,
        }
    }
}

impl Reader {
    async fn run(mut self) {
        let sender = self.sender.clone();
        let ended = tokio::select! {
            () = sender.closed() => return,
            ended = self.tell() => ended,
        };
        if let Err(error) = ended {
            let _ = sender.send(Err(error)).await;
        }
    }

    async fn tell(&mut self) -> Result<(), StoreError> {
        let mut ticks = interval(PROGRESS * 3 / 4);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut caught_up = Instant::now();
        loop {
            // A read of the head goes on while events come, and the other way round.
            let store = self.store.clone();
            let head = pin!(async {
                ticks.tick().await;
                store.read_head().await
            });
            let head = self.until(head).await?;
            if head <= self.applied {
                caught_up = Instant::now();
                let progress = Batch {
                    prev: self.applied,
                    rev: self.applied,
                    changes: Vec::new(),
                };
                self.send(progress).await?;
            } else if caught_up.elapsed() > BEHIND_MAX {
                return Err(StoreError::Away(
                    "its feed says nothing of what was committed".to_owned(),
                ));
            }
        }
    }

    /// Takes events until the head was read.
    async fn until(
        &mut self,
        mut head: std::pin::Pin<&mut impl Future<Output = Result<Rev, StoreError>>>,
    ) -> Result<Rev, StoreError> {
        loop {
            tokio::select! {
                head = &mut head => return head,
                events = self.events.message() => {
                    let events = events.map_err(|status| StoreError::Away(status.message().to_owned()))?;
                    let events = events.ok_or_else(|| StoreError::Away("etcd ended the feed".to_owned()))?;
                    self.take(events).await?;
                }
            }
        }
    }

    async fn take(&mut self, watched: Watched) -> Result<(), StoreError> {
        if watched.compact_revision > 0 {
            return Err(StoreError::Compacted);
        }
        if watched.canceled {
            return Err(StoreError::Away(watched.cancel_reason));
        }
        let events = watched.events;
        let same = |a: &Event, b: &Event| rev_of(a) == rev_of(b);
        for events in events.chunk_by(same) {
            let batch = self.batch(events)?;
            self.send(batch).await?;
        }
        Ok(())
    }

    /// What one commit has changed, if it is the next one (T2).
    fn batch(&self, events: &[Event]) -> Result<Batch, StoreError> {
        let head = self.store.keys.head();
        let mut prev = None;
        let mut changes = Vec::with_capacity(events.len());
        for kv in events
            .iter()
            .filter_map(|event| event.kv.as_ref().map(|kv| (event.kind, kv)))
        {
            match kv {
                (_, kv) if kv.key == head => prev = Some(prev_of(kv)?),
                (REMOVED, kv) => changes.extend(self.store.keys.id_of(&kv.key).map(|id| Change {
                    rev: keys::rev(kv),
                    id,
                    record: None,
                })),
                (_, kv) => changes.push(keys::change(kv)?),
            }
        }
        if prev != Some(self.applied) {
            return Err(StoreError::Compacted);
        }
        Ok(Batch {
            prev: self.applied,
            rev: events.first().map_or(self.applied, rev_of),
            changes,
        })
    }

    async fn send(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.applied = batch.rev;
        // A reader that is gone ends all this.
        let _ = self.sender.send(Ok(batch)).await;
        Ok(())
    }
}

fn rev_of(event: &Event) -> Rev {
    event.kv.as_ref().map_or(Rev::ZERO, keys::rev)
}

const REMOVED: i32 = 1;
/// Batches that wait for one reader.
const BATCHES_MAX: usize = 64;
/// How long the feed may lag behind the head.
const BEHIND_MAX: Duration = Duration::from_secs(5);
