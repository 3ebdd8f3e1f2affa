//! What operators see of lanes for messages.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use prometheus::{IntCounterVec, IntGaugeVec};

use super::{LinkMetrics, Share};
use crate::model::UnitId;
use crate::model::lanes::LaneKind;

/// Series of lanes for messages of one link.
#[derive(Clone)]
pub(super) struct LaneSeries {
    open: IntGaugeVec,
    refused: IntCounterVec,
    pair: (UnitId, UnitId),
    /// Lanes that the peer has open.
    lanes_in: Rc<Cell<usize>>,
}

/// Counts one lane for messages while it is there.
pub struct LaneMetrics {
    series: LaneSeries,
    open: RefCell<Option<Share>>,
    is_in: bool,
}

/// Why a lane for messages that a peer opened was refused or cut off. Closed set, used as label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LaneRefusal {
    /// Bytes that are not frames, or frames in the wrong order.
    BadFrame,
    /// The queue does not want it; why is in the log.
    Closed,
    /// It takes no answers, and too many wait.
    NotReading,
    /// The stream began as something else.
    Preface,
    /// The peer has enough lanes on this link.
    TooMany,
    /// Its unit is not in the settings.
    UnknownUnit,
}

impl LaneRefusal {
    pub(super) const ALL: [Self; 6] = [
        Self::BadFrame,
        Self::Closed,
        Self::NotReading,
        Self::Preface,
        Self::TooMany,
        Self::UnknownUnit,
    ];

    /// Label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadFrame => "bad_frame",
            Self::Closed => "closed",
            Self::NotReading => "not_reading",
            Self::Preface => "preface",
            Self::TooMany => "too_many",
            Self::UnknownUnit => "unknown_unit",
        }
    }
}

impl LinkMetrics {
    /// A lane for messages that we open.
    pub(in crate::peer) fn lane_out(&self, kind: LaneKind) -> LaneMetrics {
        let metrics = LaneMetrics {
            series: self.lanes.clone(),
            open: RefCell::default(),
            is_in: false,
        };
        metrics.set_kind(kind);
        metrics
    }

    /// A lane for messages that the peer has opened.
    pub(in crate::peer) fn lane_in(&self) -> LaneMetrics {
        let lanes = &self.lanes.lanes_in;
        lanes.set(lanes.get() + 1);
        LaneMetrics {
            series: self.lanes.clone(),
            open: RefCell::default(),
            is_in: true,
        }
    }

    /// Lanes for messages that the peer has open.
    pub(in crate::peer) fn lanes_in(&self) -> usize {
        self.lanes.lanes_in.get()
    }

    /// A lane for messages was refused.
    pub(in crate::peer) fn on_lane_refused(&self, why: LaneRefusal) {
        self.lanes.on_refused(why);
    }
}

impl LaneSeries {
    pub(super) fn new((open, refused): (IntGaugeVec, IntCounterVec), pair: (UnitId, UnitId)) -> Self {
        Self {
            open,
            refused,
            pair,
            lanes_in: Rc::default(),
        }
    }

    fn on_refused(&self, why: LaneRefusal) {
        let (own, peer) = (self.pair.0.as_str(), self.pair.1.as_str());
        self.refused.with_label_values(&[own, peer, why.as_str()]).inc();
    }
}

impl LaneMetrics {
    /// It has said which lane it is.
    pub fn set_kind(&self, kind: LaneKind) {
        let (own, peer) = (self.series.pair.0.as_str(), self.series.pair.1.as_str());
        let direction = if self.is_in { "in" } else { "out" };
        let gauge = self
            .series
            .open
            .with_label_values(&[own, peer, direction, kind.as_str()]);
        let open = Share {
            gauge,
            part: Cell::new(0),
        };
        open.set(1);
        self.open.replace(Some(open));
    }

    /// It is refused or cut off.
    pub fn on_refused(&self, why: LaneRefusal) {
        self.series.on_refused(why);
    }
}

impl Drop for LaneMetrics {
    fn drop(&mut self) {
        if self.is_in {
            let lanes = &self.series.lanes_in;
            lanes.set(lanes.get().saturating_sub(1));
        }
    }
}
