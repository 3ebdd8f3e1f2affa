//! Flow of one body: cut into chunks, sent within the receiver's window, credited to its giver.
//!
//! Pure. The giver is whoever hands us the body (a story, or through it an ingress); the receiver is
//! at the other end of the connection, or the other way round for [`Paced`].
//!
//! # Invariants
//! - C1. At most one window of un-credited bytes is with the receiver.
//! - C2. The giver is credited exactly the bytes of its chunks that want credit: those the receiver
//!   credits, those that need none at the receiver, and those that were part of an envelope.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::model::wants_credit;

/// Longest body of one frame.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Body bytes on their way into frames.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(Bytes, bool)>,
    /// Un-credited at the receiver.
    used: usize,
    /// Not yet credited to the giver.
    owed: usize,
    sent: u64,
}

/// A piece of a body to send now.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Piece {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// Nothing follows.
    pub(super) end: bool,
    /// What to credit to the giver now.
    pub(super) credit: usize,
}

impl Outbox {
    /// A chunk as the giver sent it; `kept` is what is left of it without its envelope. Gives back what
    /// to credit at once.
    pub(super) fn push(&mut self, chunk_bytes: usize, kept: Bytes, end: bool) -> usize {
        let dropped = chunk_bytes.saturating_sub(kept.len());
        if wants_credit(chunk_bytes, end) {
            self.owed += chunk_bytes;
        }
        if !kept.is_empty() || end {
            self.waiting.push_back((kept, end));
        }
        self.settle(dropped)
    }

    /// Whether a chunk may go out as it is, without waiting here: the path of small calls.
    pub(super) fn passes(&self, chunk_bytes: usize, end: bool) -> bool {
        self.waiting.is_empty() && end && !wants_credit(chunk_bytes, end)
    }

    /// The next piece that fits into the receiver's window.
    pub(super) fn next(&mut self, window: usize) -> Option<Piece> {
        let (chunk, end) = self.waiting.front_mut()?;
        let fits = if wants_credit(chunk.len(), *end) {
            window.saturating_sub(self.used)
        } else {
            chunk.len()
        };
        if fits == 0 && !chunk.is_empty() {
            return None;
        }
        let bytes = chunk.split_to(chunk.len().min(fits).min(CHUNK_BYTES));
        self.sent = self.sent.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        let last = chunk.is_empty();
        let end = last && *end;
        if last {
            self.waiting.pop_front();
        }
        let credit = if wants_credit(bytes.len(), end) {
            self.used += bytes.len();
            0
        } else {
            self.settle(bytes.len())
        };
        let credit = if end { credit + self.settle(usize::MAX) } else { credit };
        Some(Piece { bytes, end, credit })
    }

    /// What was sent, and how much of that the receiver has not credited, while nothing more may be sent: the rest
    /// waits here or at the giver.
    pub(super) fn blocked(&self, window: usize) -> Option<(u64, u64)> {
        let used = u64::try_from(self.used).unwrap_or(u64::MAX);
        (!self.waiting.is_empty() || self.used >= window).then_some((self.sent, used))
    }

    /// The receiver has passed bytes on. Gives back what to credit to the giver.
    pub(super) fn on_credit(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.used);
        self.used -= bytes;
        self.settle(bytes)
    }

    fn settle(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.owed);
        self.owed -= bytes;
        bytes
    }
}

/// Counts what a sender has sent without credit, to hold it to its window.
#[derive(Default)]
pub(super) struct Inbox(usize);

impl Inbox {
    /// A chunk came in. `false` if the sender has overrun the window.
    #[must_use]
    pub(super) fn take(&mut self, chunk_bytes: usize, end: bool, window: usize) -> bool {
        if wants_credit(chunk_bytes, end) {
            self.0 = self.0.saturating_add(chunk_bytes);
        }
        self.0 <= window
    }

    /// Whether the sender may send more.
    pub(super) fn has_room(&self, window: usize) -> bool {
        self.0 < window
    }

    /// Credit is on its way to the sender.
    pub(super) fn credit(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(bytes);
    }
}

/// Chunks that are all here and go to their receiver as it gives credit.
#[derive(Default)]
pub(super) struct Paced {
    waiting: VecDeque<Bytes>,
    used: usize,
    ended: bool,
}

impl Paced {
    /// The whole body.
    pub(super) fn fill(&mut self, chunks: impl IntoIterator<Item = Bytes>) {
        self.waiting
            .extend(chunks.into_iter().filter(|chunk| !chunk.is_empty()));
        self.ended = true;
    }

    /// The next chunk within `window` and whether it is the last; `None` if the receiver must credit
    /// first, if all is gone, or if the body is not here yet.
    pub(super) fn next(&mut self, window: usize) -> Option<(Bytes, bool)> {
        if !self.ended {
            return None;
        }
        let Some(chunk) = self.waiting.front_mut() else {
            self.ended = false;
            return Some((Bytes::new(), true));
        };
        let room = window.saturating_sub(self.used);
        if room == 0 {
            return None;
        }
        let bytes = chunk.split_to(chunk.len().min(room));
        if chunk.is_empty() {
            self.waiting.pop_front();
        }
        let last = self.waiting.is_empty();
        self.ended = !last;
        if wants_credit(bytes.len(), last) {
            self.used += bytes.len();
        }
        Some((bytes, last))
    }

    /// The receiver has passed bytes on.
    pub(super) fn on_credit(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    #[test]
    fn a_large_body_waits_for_credit_and_its_giver_for_the_receiver() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(200_000, bytes(200_000), true), 0);
        let first = outbox.next(100_000).unwrap();
        assert_eq!((first.bytes.len(), first.end, first.credit), (CHUNK_BYTES, false, 0));
        let second = outbox.next(100_000).unwrap();
        assert_eq!(second.bytes.len(), 100_000 - CHUNK_BYTES);
        assert_eq!(outbox.next(100_000), None, "the window is used up");
        assert_eq!(outbox.on_credit(60_000), 60_000);
        assert_eq!(outbox.next(100_000).unwrap().bytes.len(), 60_000);
        assert_eq!(outbox.on_credit(1 << 30), 100_000, "no more than was sent");
        let last = outbox.next(100_000).unwrap();
        assert_eq!((last.bytes.len(), last.end, last.credit), (40_000, true, 40_000));
    }

    #[test]
    fn bytes_of_an_envelope_are_credited_at_once() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(105, bytes(100), false), 5);
        assert_eq!(outbox.push(5, Bytes::new(), false), 5);
        assert_eq!(outbox.next(1000).unwrap().credit, 0);
    }

    proptest! {
        // C1, C2: for any chunks, window and order of credits.
        #[test]
        fn all_bytes_arrive_and_the_giver_gets_its_credit_back(
            chunks in prop::collection::vec((0_usize..150_000, 0_usize..6), 1..8),
            window in CHUNK_BYTES..200_000,
        ) {
            let mut outbox = Outbox::default();
            let (mut given, mut credited, mut sent, mut kept_bytes) = (0, 0, 0, 0);
            let mut at_receiver = VecDeque::new();
            let last = chunks.len() - 1;
            let mut ended = false;
            for (at, (len, envelope)) in chunks.into_iter().enumerate() {
                let whole = len + envelope;
                if wants_credit(whole, at == last) {
                    given += whole;
                }
                kept_bytes += len;
                credited += outbox.push(whole, bytes(len), at == last);
                loop {
                    while let Some(piece) = outbox.next(window) {
                        sent += piece.bytes.len();
                        credited += piece.credit;
                        ended |= piece.end;
                        if wants_credit(piece.bytes.len(), piece.end) {
                            at_receiver.push_back(piece.bytes.len());
                        }
                        prop_assert!(at_receiver.iter().sum::<usize>() <= window);
                    }
                    let Some(passed) = at_receiver.pop_front() else { break };
                    credited += outbox.on_credit(passed);
                }
            }
            prop_assert!(ended);
            prop_assert_eq!(sent, kept_bytes);
            prop_assert_eq!(credited, given);
        }

        #[test]
        fn a_paced_body_arrives_whole_within_the_window(
            lens in prop::collection::vec(0_usize..100_000, 0..5),
            window in 1_usize..70_000,
        ) {
            let mut paced = Paced::default();
            let total: usize = lens.iter().sum();
            paced.fill(lens.into_iter().map(bytes));
            let (mut got, mut ends) = (0, 0);
            loop {
                let mut passed = 0;
                while let Some((chunk, last)) = paced.next(window) {
                    got += chunk.len();
                    passed += chunk.len();
                    ends += usize::from(last);
                    prop_assert!(passed <= window + crate::model::SMALL_BODY_BYTES);
                }
                if passed == 0 {
                    break;
                }
                paced.on_credit(passed);
            }
            prop_assert_eq!((got, ends), (total, 1));
        }
    }
}
