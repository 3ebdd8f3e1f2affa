//! The state of arrivals as a restart needs it: what came, by stream.

use serde::{Deserialize, Serialize};

use super::Arrivals;
use super::stream::Stream;
#[cfg(test)]
use crate::model::Seq;
use crate::model::{RelayName, UnitId};
use crate::queue::line::{Settled, StreamId};

/// State of arrivals.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ArrivalsSnapshot {
    streams: Vec<StreamPart>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct StreamPart {
    unit: UnitId,
    relay: RelayName,
    epoch: u64,
    /// `Settled::to_bytes`.
    seen: Vec<u8>,
    opened: bool,
    order: u64,
}

impl Arrivals {
    /// What is on disk.
    pub fn snapshot(&self) -> ArrivalsSnapshot {
        let part = |(id, stream): (&StreamId, &Stream)| StreamPart {
            unit: id.unit.clone(),
            relay: id.relay.clone(),
            epoch: id.epoch,
            seen: stream.seen.to_bytes(),
            opened: stream.opened,
            order: stream.order,
        };
        ArrivalsSnapshot {
            streams: self.streams.iter().map(part).collect(),
        }
    }

    /// Takes over a state, before any lane. `false` if it is broken.
    pub fn restore(&mut self, snapshot: ArrivalsSnapshot) -> bool {
        for part in snapshot.streams {
            let Some(seen) = Settled::from_bytes(&part.seen) else {
                return false;
            };
            let id = StreamId {
                unit: part.unit,
                relay: part.relay,
                epoch: part.epoch,
            };
            let stream = Stream::restored(seen, part.opened, part.order);
            self.opened = self.opened.max(stream.order);
            self.streams.insert(id, stream);
        }
        true
    }

    /// How far what came of each stream is without a hole, and the highest number of it.
    #[cfg(test)]
    pub(crate) fn frontiers(&self) -> Vec<(StreamId, Seq, Seq)> {
        let streams = self.streams.iter();
        streams
            .map(|(id, stream)| (id.clone(), stream.seen.frontier(), stream.seen.highest()))
            .collect()
    }
}
