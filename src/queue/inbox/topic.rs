//! A topic as its groups see it: numbers, rules, how full it may get, how old what waits is.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Seq, Topic, UnixMillis};
use crate::queue::line::LineId;
use crate::queue::record::Pause;
use crate::queue::{Exhausted, OnExpiry, Overflow, RetrySettings, TopicSettings};

/// A topic with messages for this unit. Never forgotten: its numbers must go on.
pub(super) struct TopicState {
    pub name: Topic,
    pub line: LineId,
    pub rules: Rules,
    /// The next number to be given.
    pub next: Seq,
    /// The highest number on disk.
    pub stored: Seq,
    /// Its groups, by their places in `Inbox::groups`, in the order of their names.
    pub groups: Vec<usize>,
    /// The group that was once the one that stands for none.
    pub heir: Option<usize>,
    pub pause: Option<Pause>,
    pub ages: Ages,
    /// Some message of it had a deadline: it is worth looking for expired ones that nobody reads.
    pub deadlines: bool,
}

/// What the settings say about deliveries.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub ordered: bool,
    pub on_expiry: OnExpiry,
    pub retry: RetrySettings,
    pub exhausted: Exhausted,
    pub visibility_timeout: Duration,
    pub bounds: Bounds,
}

/// How much of a topic may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub bytes_max: u64,
    pub messages_max: u64,
    pub overflow: Overflow,
}

/// When some of the numbers were accepted: enough to tell about how old any of them is.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Ages(VecDeque<(Seq, u64)>);

/// A topic takes no message now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the topic is full in this unit (bytes_max or messages_max of the topic): its consumers must catch up")]
pub struct Full;

impl TopicState {
    pub(super) fn new(name: &Topic, rules: Rules) -> Self {
        Self {
            name: name.clone(),
            line: LineId::inbox(name),
            rules,
            next: 1,
            stored: 0,
            groups: Vec::new(),
            heir: None,
            pause: None,
            ages: Ages::default(),
            deadlines: false,
        }
    }
}

impl Rules {
    pub(super) fn of(settings: &TopicSettings) -> Self {
        Self {
            ordered: settings.ordered,
            on_expiry: settings.on_expiry,
            retry: settings.retry.clone(),
            exhausted: settings.exhausted,
            visibility_timeout: settings.visibility_timeout,
            bounds: Bounds::of(settings),
        }
    }

    /// Attempts in all; one at least.
    pub(super) fn attempts(&self) -> u32 {
        self.retry.attempts.max(1)
    }
}

impl Bounds {
    pub(super) fn of(settings: &TopicSettings) -> Self {
        Self {
            bytes_max: settings.bytes_max.as_u64(),
            messages_max: settings.messages_max,
            overflow: settings.overflow,
        }
    }

    /// Whether so much is more than may wait.
    pub(super) fn exceeded(self, messages: u64, bytes: u64) -> bool {
        let over = |value: u64, max: u64| max > 0 && value > max;
        over(messages, self.messages_max) || over(bytes, self.bytes_max)
    }
}

impl Ages {
    /// A number was stored.
    pub(super) fn note(&mut self, seq: Seq, accepted_at: UnixMillis) {
        let newer = |(_, at): &(Seq, u64)| accepted_at.0 >= at.saturating_add(STEP_MILLIS);
        if self.0.back().is_none_or(newer) {
            self.0.push_back((seq, accepted_at.0));
        }
        if self.0.len() > SAMPLES_MAX {
            let mut even = false;
            self.0.retain(|_| {
                even = !even;
                even
            });
        }
    }

    /// All numbers below are done.
    pub(super) fn forget_below(&mut self, seq: Seq) {
        while self.0.get(1).is_some_and(|(next, _)| *next <= seq) {
            self.0.pop_front();
        }
    }

    /// About how long ago a number was accepted.
    pub(super) fn age(&self, seq: Seq, now: UnixMillis) -> Option<u64> {
        let after = self.0.partition_point(|(sample, _)| *sample <= seq);
        let (_, at) = self.0.get(after.saturating_sub(1))?;
        Some(now.0.saturating_sub(*at))
    }
}

/// Time between two samples.
const STEP_MILLIS: u64 = 1000;
/// Samples of a topic; with more of them every second one is forgotten.
const SAMPLES_MAX: usize = 512;
