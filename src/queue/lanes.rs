//! Lanes for messages as the queue knows them: by number. What is said on them is in [`crate::model::lanes`].

use std::cell::Cell;

pub use crate::model::lanes::{
    EXPIRED, FROZEN, FULL, GAP_SPAN_MAX, LaneKind, MOVED, Refused, Sent, ToReceiver, ToSender,
};

/// A lane in this process, whoever opened it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LaneId(pub u64);

impl LaneId {
    /// The lane with this number on a shard.
    pub fn new(shard: u16, number: u64) -> Self {
        Self(u64::from(shard) << 48 | number & 0xffff_ffff_ffff)
    }

    /// The shard it is on.
    pub fn shard(self) -> u16 {
        u16::try_from(self.0 >> 48).unwrap_or(u16::MAX)
    }
}

/// Numbers the lanes of a shard.
#[derive(Debug)]
pub struct LaneIds {
    shard: u16,
    next: Cell<u64>,
}

impl LaneIds {
    /// For the lanes of this shard; none has a number yet.
    pub fn new(shard: u16) -> Self {
        Self {
            shard,
            next: Cell::new(0),
        }
    }

    /// The number of one more lane.
    pub fn next(&self) -> LaneId {
        LaneId::new(self.shard, self.next.replace(self.next.get() + 1))
    }
}
