//! The state of the engine as bytes: what a restart begins with, before it reads what came after.
//!
//! ```text
//! version u8 | postcard of `Snapshot`
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::mirror::MirrorsSnapshot;
use crate::model::{Seq, Topic, UnitId};
use crate::queue::Sync;
use crate::queue::arrivals::ArrivalsSnapshot;
use crate::queue::dead::DeadSnapshot;
use crate::queue::dead::redrive::Task;
use crate::queue::dedup::DedupSnapshot;
use crate::queue::inbox::InboxSnapshot;
use crate::queue::line::LineId;
use crate::queue::outbox::OutboxSnapshot;
use crate::queue::record::{Kept, Pausable};

#[derive(Deserialize, Serialize)]
struct Snapshot {
    epoch: u64,
    /// Messages accepted in this life.
    stored: u64,
    outboxes: Vec<(UnitId, OutboxSnapshot)>,
    topics: Vec<Topic>,
    inbox: InboxSnapshot,
    arrivals: ArrivalsSnapshot,
    mirrors: MirrorsSnapshot,
    dead: DeadSnapshot,
    dedup: DedupSnapshot,
    tasks: Vec<Task>,
    /// JSON of the `Kept` that put pauses and limits in force.
    kept: Vec<u8>,
    damaged: Vec<String>,
    floors: BTreeMap<LineId, Seq>,
    buffered: bool,
}

impl Engine {
    /// The state that all applied records have led to.
    pub(super) fn snapshot(&mut self) -> Vec<u8> {
        let pauses = self.pauses.iter().map(|(what, pause)| Kept::Pause {
            what: what.clone(),
            pause: Some(pause.clone()),
        });
        let limits = self.limits.iter().map(|((unit, topic), limits)| Kept::Limits {
            unit: unit.clone(),
            topic: topic.clone(),
            limits: Some(*limits),
        });
        let kept: Vec<Kept> = pauses.chain(limits).collect();
        let outboxes = self.places.outboxes.iter_mut();
        let snapshot = Snapshot {
            epoch: self.places.epoch,
            stored: self.publishing.stored,
            outboxes: outboxes
                .map(|(unit, outbox)| (unit.clone(), outbox.snapshot()))
                .collect(),
            topics: self.places.topics(),
            inbox: self.places.inbox.snapshot(),
            arrivals: self.arrivals.snapshot(),
            mirrors: self.places.mirrors.snapshot(),
            dead: self.dead.snapshot(),
            dedup: self.dedup.snapshot(),
            tasks: self.tasks.iter().cloned().collect(),
            kept: serde_json::to_vec(&kept).unwrap_or_default(),
            damaged: self.damaged.clone(),
            floors: self.places.floors.clone(),
            buffered: self.setup.queue.sync == Sync::Buffered,
        };
        // Writing to a vector fails for no value of ours.
        postcard::to_extend(&snapshot, vec![VERSION]).unwrap_or_default()
    }

    /// Takes over a state; `None` if it cannot be read.
    pub(super) fn restore(&mut self, now: crate::queue::effects::Now, state: &[u8]) -> Option<()> {
        let (version, state) = state.split_first()?;
        if *version != VERSION {
            return None;
        }
        let snapshot: Snapshot = postcard::from_bytes(state).ok()?;
        let kept: Vec<Kept> = serde_json::from_slice(&snapshot.kept).ok()?;
        self.places.epoch = snapshot.epoch;
        self.publishing.restore(snapshot.epoch, snapshot.stored);
        self.places.floors = snapshot.floors;
        self.was_buffered = snapshot.buffered;
        for (unit, part) in snapshot.outboxes {
            let outbox = self.places.outbox(&unit, &self.setup);
            outbox.restore(part).then_some(())?;
        }
        for topic in &snapshot.topics {
            self.places.know_topic(topic);
        }
        self.places.inbox.restore(snapshot.inbox).then_some(())?;
        self.arrivals.restore(snapshot.arrivals).then_some(())?;
        self.places.mirrors.restore(snapshot.mirrors);
        self.dead.restore(snapshot.dead)?;
        self.dedup.restore(snapshot.dedup);
        for task in snapshot.tasks {
            self.tasks.put_again(task);
        }
        for kept in &kept {
            if !matches!(
                kept,
                Kept::Pause {
                    what: Pausable::Redrive { .. },
                    ..
                }
            ) {
                self.apply_kept(now, kept);
            }
        }
        self.damaged = snapshot.damaged;
        Some(())
    }
}

/// Another one if an old state cannot be read any more; it is read from the log again then.
const VERSION: u8 = 3;
