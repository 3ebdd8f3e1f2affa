//! The order of shadows (R-3.9 S1). Pure.
//!
//! A call gets its place when the owner's gate admits it, and its shadow when its service has answered; so shadows of a key leave in
//! the order in which this relay admitted the calls, one after the other. A call that fails gives its place back.
//!
//! # Invariants
//! - L1. Of a line one shadow is on its way at a time, the one whose place is the oldest.
//! - L2. Places and the bytes of shadows are bounded, per line and in all; what finds no room is told to the caller, who counts it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::model::UnitId;
use crate::routing::KeyHash;
use crate::routing::record::MoveId;
use crate::wire::shadow::Shadow;

/// Shadows that keep an order: those of a key, in a move, to a unit.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LineId {
    /// The move.
    pub by: MoveId,
    /// The unit that gets them.
    pub to: UnitId,
    /// The key of the calls.
    pub key: KeyHash,
}

/// A shadow that is to be sent; its line waits until it has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// Its line.
    pub line: LineId,
    /// What to send.
    pub shadow: Shadow,
    /// When the owner's service answered.
    pub answered: Instant,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Places of a line.
    pub(super) of_line: usize,
    /// Places in all.
    pub(super) places: usize,
    /// Bytes of shadows in all.
    pub(super) bytes: usize,
}

/// All lines of a relay.
#[derive(Debug)]
pub(super) struct Lines {
    limits: Limits,
    all: BTreeMap<LineId, Line>,
    /// Lines whose first shadow may be sent.
    due: VecDeque<LineId>,
    places: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Line {
    places: VecDeque<Place>,
    next: u64,
    is_sending: bool,
    /// It is in [`Lines::due`].
    is_due: bool,
}

#[derive(Debug)]
struct Place {
    number: u64,
    /// `None` while the owner's service has not answered.
    kept: Option<(Shadow, Instant)>,
}

impl Lines {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: BTreeMap::new(),
            due: VecDeque::new(),
            places: 0,
            bytes: 0,
        }
    }

    /// A call was admitted; the number of its place, or `None` if there is no room (L2).
    pub(super) fn admit(&mut self, id: &LineId) -> Option<u64> {
        if self.places >= self.limits.places {
            return None;
        }
        let line = self.all.entry(id.clone()).or_default();
        if line.places.len() >= self.limits.of_line {
            return None;
        }
        let number = line.next;
        line.next += 1;
        line.places.push_back(Place { number, kept: None });
        self.places += 1;
        Some(number)
    }

    /// Its service has answered: its shadow may leave when its turn comes. `false` if there is no room (L2); then its place is given
    /// back.
    pub(super) fn answered(&mut self, id: &LineId, number: u64, shadow: Shadow, now: Instant) -> bool {
        let bytes = shadow.body.len() + shadow.metadata.len();
        if self.bytes + bytes > self.limits.bytes {
            self.give_back(id, number);
            return false;
        }
        let line = self.all.get_mut(id);
        let place = line.and_then(|line| line.places.iter_mut().find(|place| place.number == number));
        if let Some(place) = place {
            place.kept = Some((shadow, now));
            self.bytes += bytes;
        }
        self.nominate(id);
        true
    }

    /// Its call has failed, or it has no shadow.
    pub(super) fn give_back(&mut self, id: &LineId, number: u64) {
        if let Some(line) = self.all.get_mut(id) {
            let before = line.places.len();
            line.places.retain(|place| place.number != number);
            self.places -= before - line.places.len();
        }
        self.nominate(id);
    }

    /// The next shadow to send, of whatever line.
    pub(super) fn next(&mut self) -> Option<Due> {
        loop {
            let id = self.due.pop_front()?;
            let Some(line) = self.all.get_mut(&id) else { continue };
            line.is_due = false;
            let first = line.places.pop_front();
            let Some((shadow, answered)) = first.and_then(|place| place.kept) else {
                continue;
            };
            line.is_sending = true;
            self.places -= 1;
            self.bytes -= shadow.body.len() + shadow.metadata.len();
            return Some(Due {
                line: id,
                shadow,
                answered,
            });
        }
    }

    /// The shadow that was on its way has ended, one way or the other.
    pub(super) fn ended(&mut self, id: &LineId) {
        if let Some(line) = self.all.get_mut(id) {
            line.is_sending = false;
        }
        self.nominate(id);
    }

    /// Places that are taken.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// Whether something of a move is still to be sent, or on its way: of a key, or of all its keys.
    pub(super) fn waits(&self, by: MoveId, key: Option<KeyHash>) -> bool {
        let is_meant = |id: &LineId| id.by == by && key.is_none_or(|key| id.key == key);
        self.all.keys().any(is_meant)
    }

    /// Has a line sent whose turn it is, and forgets one that is empty.
    fn nominate(&mut self, id: &LineId) {
        let Some(line) = self.all.get_mut(id) else { return };
        if line.is_sending || line.is_due {
            return;
        }
        match line.places.front() {
            None => drop(self.all.remove(id)),
            Some(place) if place.kept.is_some() => {
                line.is_due = true;
                self.due.push_back(id.clone());
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::model::Name;

    const LIMITS: Limits = Limits {
        of_line: 3,
        places: 5,
        bytes: 40,
    };

    fn line(key: u128) -> LineId {
        LineId {
            by: MoveId(1),
            to: Name::new("b").unwrap(),
            key: KeyHash(key),
        }
    }

    fn shadow(text: String) -> Shadow {
        Shadow {
            body: Bytes::from(text),
            ..Shadow::default()
        }
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn next(lines: &mut Lines) -> Option<String> {
        lines
            .next()
            .map(|due| String::from_utf8_lossy(&due.shadow.body).into_owned())
    }

    // S1: in the order in which calls were admitted, not in that of the answers, and one at a time.
    #[test]
    fn a_shadow_waits_for_calls_that_were_admitted_before() {
        let mut lines = Lines::new(LIMITS);
        let id = line(1);
        let numbers: Vec<_> = (0..3).map(|_| lines.admit(&id).unwrap()).collect();
        assert!(lines.answered(&id, numbers[2], shadow("third".into()), now()));
        assert!(lines.answered(&id, numbers[1], shadow("second".into()), now()));
        assert_eq!(next(&mut lines), None, "the first is not answered");
        lines.give_back(&id, numbers[0]);
        assert_eq!(next(&mut lines).as_deref(), Some("second"));
        assert_eq!(next(&mut lines), None, "one at a time");
        lines.ended(&id);
        assert_eq!(next(&mut lines).as_deref(), Some("third"));
        lines.ended(&id);
        assert_eq!((next(&mut lines), lines.places(), lines.all.len()), (None, 0, 0));
    }

    #[test]
    fn what_finds_no_room_is_told() {
        let mut lines = Lines::new(LIMITS);
        let numbers: Vec<_> = (0..3).map(|_| lines.admit(&line(1)).unwrap()).collect();
        assert_eq!(lines.admit(&line(1)), None, "places of a line");
        lines.admit(&line(2)).unwrap();
        lines.admit(&line(2)).unwrap();
        assert_eq!(lines.admit(&line(3)), None, "places in all");
        assert!(lines.answered(&line(1), numbers[0], shadow("x".repeat(40)), now()));
        assert!(
            !lines.answered(&line(1), numbers[1], shadow("x".into()), now()),
            "bytes"
        );
        assert_eq!(lines.places(), 4, "its place is free");
        assert!(lines.next().is_some());
        assert!(lines.answered(&line(1), numbers[2], shadow("x".into()), now()));
    }

    proptest! {
        // L1, L2: whatever happens in whatever order, what leaves a line leaves it in the order of admission, one at a time, and
        // everything that was kept leaves.
        #[test]
        fn lines_keep_their_order_and_lose_nothing(steps in prop::collection::vec((0_u8..5, 0_u128..2, any::<prop::sample::Index>()), 1..200)) {
            let mut lines = Lines::new(Limits { of_line: 8, places: 12, bytes: 1 << 20 });
            let (mut open, mut sending) = (Vec::new(), Vec::new());
            let (mut kept, mut left) = (0, 0);
            let mut last = BTreeMap::new();
            let mut take = |lines: &mut Lines, sending: &mut Vec<LineId>| {
                let Some(due) = lines.next() else { return false };
                assert!(!sending.contains(&due.line), "two at a time");
                let number: u64 = String::from_utf8_lossy(&due.shadow.body).parse().unwrap();
                let before = last.insert(due.line.clone(), number);
                assert!(before.is_none_or(|before| before < number), "out of order");
                sending.push(due.line);
                left += 1;
                true
            };
            let mut count = 0_u64;
            for (kind, key, index) in steps {
                match kind {
                    0 | 1 => {
                        if let Some(number) = lines.admit(&line(key)) {
                            open.push((line(key), number, count));
                            count += 1;
                        }
                    }
                    2 if !open.is_empty() => {
                        let (id, number, count) = open.swap_remove(index.index(open.len()));
                        assert!(lines.answered(&id, number, shadow(count.to_string()), now()));
                        kept += 1;
                    }
                    3 if !open.is_empty() => {
                        let (id, number, _) = open.swap_remove(index.index(open.len()));
                        lines.give_back(&id, number);
                    }
                    _ => {
                        if !take(&mut lines, &mut sending) && !sending.is_empty() {
                            lines.ended(&sending.swap_remove(index.index(sending.len())));
                        }
                    }
                }
                assert!(lines.places() <= 12);
            }
            for (id, number, _) in open {
                lines.give_back(&id, number);
            }
            loop {
                while take(&mut lines, &mut sending) {}
                match sending.pop() {
                    Some(id) => lines.ended(&id),
                    None => break,
                }
            }
            prop_assert_eq!((kept, lines.places(), lines.all.len(), lines.bytes), (left, 0, 0, 0));
        }
    }
}
