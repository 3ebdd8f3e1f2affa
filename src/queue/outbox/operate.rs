//! What operators change and see.

use super::pace::whole;
use super::{Lane, Outbox, books, state, topics};
use crate::model::{Seq, Topic, UnixMillis};
use crate::queue::effects::Now;
use crate::queue::line::Settled;
use crate::queue::operator::{AuditRow, LimitValues, UnitStatus};
use crate::queue::record::Pause;

impl Outbox {
    /// Stops sending, or goes on (M-H3). It goes on by itself when the time of the pause is over.
    pub fn pause(&mut self, pause: Option<Pause>) {
        self.pause = pause;
    }

    /// Stops sending while its dead letters find no room, or goes on (M-E4).
    pub fn hold(&mut self, held: Option<Pause>) {
        self.no_room = held;
    }

    /// Stops or goes on with one topic.
    pub fn pause_topic(&mut self, topic: &Topic, paused: bool) {
        let id = self.known(topic);
        self.topics.at_mut(id).paused = paused;
        self.place(id);
        if paused {
            let entries = self.live.take_unsent(|entry| entry.topic == id);
            self.join_backlog(entries);
        }
    }

    /// Other replay limits, of all or of a topic, in place of those of the settings; `None`: those again (M-D2).
    pub fn limit(&mut self, topic: Option<&Topic>, limits: Option<LimitValues>) {
        match (topic, limits) {
            (None, limits) => {
                self.limits = limits;
                self.put_limits();
                return;
            }
            (Some(topic), Some(limits)) => _ = self.topic_limits.insert(topic.clone(), limits),
            (Some(topic), None) => _ = self.topic_limits.remove(topic),
        }
        if let Some(id) = topic.and_then(|topic| self.topics.find(topic)) {
            self.place(id);
        }
    }

    pub(super) fn put_limits(&mut self) {
        self.pace.set(self.clock, self.limits.unwrap_or(self.config.limits));
    }

    /// Everything at a glance.
    pub fn status(&self, now: Now) -> UnitStatus {
        // At once: there may be very many.
        let add = |sums: [u64; 3], topic: &topics::State| {
            [sums[0] + topic.backlog, sums[1] + topic.live, sums[2] + topic.bytes]
        };
        let [backlog, live, bytes] = self.topics.iter().fold([0; 3], add);
        let lanes: Vec<Option<&Lane>> = self.lanes().map(Some).collect();
        let facts = state::Facts {
            lanes: &lanes,
            pause: self.paused(),
            denied: self.denied.as_deref(),
            lost: self.lost.as_deref(),
            live,
            backlog,
        };
        let (state, mut detail) = state::of(now.mono, &facts);
        if detail.is_empty() {
            detail = self.full_there();
        }
        let rate = self.share.backlog_messages.peek(now.mono);
        let eta = (backlog > 0 && rate > 0.0).then(|| whole(super::pace::float(backlog) / rate));
        let oldest = self.oldest().map(|oldest| now.wall.0.saturating_sub(oldest.0));
        UnitStatus {
            unit: self.unit.as_str().to_owned(),
            state: state.to_owned(),
            detail,
            live,
            backlog,
            bytes,
            oldest_ms: oldest,
            replay_rate: rate,
            limits: self.pace.limits(),
            eta_seconds: eta,
            keys_behind: self
                .cursors
                .values()
                .map(|cursor| u64::try_from(cursor.keys.len()).unwrap_or(0))
                .sum(),
            keys_coarse: self.cursors.values().any(|cursor| cursor.keys.is_coarse()),
            pause: self.paused().cloned(),
            counts_as_away: None,
        }
    }

    /// One row for each topic. What is pending, and so the difference, is for who reads the log (M-G8).
    pub fn books(&self) -> Vec<AuditRow> {
        let unknown = topics::unknown();
        let rows = self
            .topics
            .iter()
            .map(|topic| (&topic.name, &topic.books, topic.waiting() + self.fresh_of(topic)));
        books::rows(&self.unit, &unknown, rows)
    }

    /// How many messages the books, the numbers that are not done, and what waits here disagree about (M-G8). Looks at memory
    /// only.
    pub fn imbalance(&self) -> u64 {
        let sum = |of: &dyn Fn(&topics::State) -> i64| self.topics.iter().map(of).fold(0, i64::saturating_add);
        let open = self.last_stored - self.ledger.done.done_between(1, self.last_stored);
        let by_books = sum(&|topic| topic.books.balance());
        let waiting = sum(&|topic| books::whole(topic.waiting() + self.fresh_of(topic)));
        let off = |count: i64| count.abs_diff(books::whole(open));
        off(by_books).saturating_add(off(waiting))
    }

    /// When the oldest message that waits was accepted, or an earlier moment.
    pub(super) fn oldest(&self) -> Option<UnixMillis> {
        let waiting = self.cursors.values().filter(|cursor| cursor.pending > 0);
        let live = self.live.front().map(|entry| entry.message.accepted_at);
        waiting.map(|cursor| cursor.oldest).chain(live).min()
    }

    fn fresh_of(&self, state: &topics::State) -> u64 {
        let topic = self.topics.find(&state.name);
        topic.map_or(0, |topic| self.ledger.fresh_of(topic))
    }

    /// The highest number that was given.
    pub fn last_assigned(&self) -> Seq {
        self.assigned
    }

    /// The numbers that are done.
    pub fn done(&self) -> &Settled {
        &self.ledger.done
    }

    /// Where a message is that is not done, in the words of `operator::Peeked`.
    pub fn look(&self, seq: Seq) -> &'static str {
        match self.live.find(seq) {
            Some(_) => "live",
            None => "backlog",
        }
    }
}
