//! Calls that wait for an endpoint with room, in the order in which they came (C-F2). Pure.
//!
//! # Invariants
//! - W1. Of calls of one kind none overtakes another. Those with a body to come stand in a line of their own,
//!   because they may wait for a connection that the others do not need; the lines take turns.

use std::collections::VecDeque;

use slotmap::DefaultKey;

/// The lines of one service on one shard. Bounded by its settings.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    whole: VecDeque<DefaultKey>,
    streams: VecDeque<DefaultKey>,
    /// Whose turn it was.
    was_stream: bool,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.streams.len()
    }

    /// Whether a call of this kind would overtake another.
    pub(super) fn has(&self, streams: bool) -> bool {
        !self.line(streams).is_empty()
    }

    pub(super) fn push(&mut self, call: DefaultKey, streams: bool) {
        self.line_mut(streams).push_back(call);
    }

    /// The line to serve next, but not one of those that `stuck` names.
    pub(super) fn next(&mut self, stuck: impl Fn(bool) -> bool) -> Option<(DefaultKey, bool)> {
        let order = [!self.was_stream, self.was_stream];
        let streams = order
            .into_iter()
            .find(|streams| self.has(*streams) && !stuck(*streams))?;
        self.was_stream = streams;
        let call = self.line_mut(streams).pop_front()?;
        Some((call, streams))
    }

    /// Nobody took it: it stays the first of its line.
    pub(super) fn put_back(&mut self, call: DefaultKey, streams: bool) {
        self.line_mut(streams).push_front(call);
    }

    /// The caller has given up.
    pub(super) fn remove(&mut self, call: DefaultKey) {
        self.whole.retain(|other| *other != call);
        self.streams.retain(|other| *other != call);
    }

    fn line(&self, streams: bool) -> &VecDeque<DefaultKey> {
        if streams { &self.streams } else { &self.whole }
    }

    fn line_mut(&mut self, streams: bool) -> &mut VecDeque<DefaultKey> {
        if streams { &mut self.streams } else { &mut self.whole }
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    // W1
    #[test]
    fn lines_keep_their_order_take_turns_and_wait_for_each_other_never() {
        let mut keys = SlotMap::new();
        let calls: Vec<_> = (0..6).map(|call| keys.insert(call)).collect();
        let mut waiting = Waiting::default();
        for (call, streams) in calls.iter().zip([false, false, true, true, false, true]) {
            waiting.push(*call, streams);
        }
        let call = |next: Option<(DefaultKey, bool)>| next.map(|(call, _)| keys[call]);
        assert_eq!(call(waiting.next(|_| false)), Some(2));
        assert_eq!(call(waiting.next(|_| false)), Some(0));
        assert_eq!(call(waiting.next(|_| false)), Some(3));
        waiting.put_back(calls[3], true);
        assert_eq!(call(waiting.next(|streams| streams)), Some(1));
        waiting.remove(calls[4]);
        assert_eq!(call(waiting.next(|streams| streams)), None);
        assert_eq!((waiting.len(), waiting.has(false)), (2, false));
        assert_eq!(call(waiting.next(|_| false)), Some(3));
        assert_eq!(call(waiting.next(|_| false)), Some(5));
        assert_eq!(call(waiting.next(|_| false)), None);
    }
}
