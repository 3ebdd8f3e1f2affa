//! What one side may have open at the other: calls and bytes on lanes (C-F3, C-F4).
//!
//! The receiver says its limits once, in its hello. A call holds its share from its first byte until it
//! ends, on both sides alike; so there is no credit message that could be lost or counted twice.

/// Shares of one link in one direction. Pure.
///
/// Invariant: `calls <= calls_max`; `bytes <= bytes_max`, except that a link with no open call takes one
/// of any size.
#[derive(Debug)]
pub(super) struct Credit {
    calls: usize,
    calls_max: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Credit {
    /// Nothing open yet.
    pub(super) fn new(calls_max: usize, bytes_max: usize) -> Self {
        Self {
            calls: 0,
            calls_max,
            bytes: 0,
            bytes_max,
        }
    }

    /// Takes the share of one call, if there is room for it.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let fits =
            self.calls < self.calls_max && (self.calls == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max);
        if fits {
            self.calls += 1;
            self.bytes = self.bytes.saturating_add(bytes);
        }
        fits
    }

    /// Returns the share of a call that has ended.
    pub(super) fn give(&mut self, bytes: usize) {
        self.calls = self.calls.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Calls open now.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// Bytes open calls hold now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // C-F3: whatever is taken and given, the limits hold and nothing leaks.
        #[test]
        fn shares_stay_within_the_limits_and_come_back_whole(
            calls_max in 1_usize..20, bytes_max in 1_usize..1000, steps in prop::collection::vec((any::<bool>(), 0_usize..300), 0..200),
        ) {
            let mut credit = Credit::new(calls_max, bytes_max);
            let mut open = Vec::new();
            for (take, bytes) in steps {
                if take {
                    if credit.take(bytes) { open.push(bytes); }
                } else if let Some(bytes) = open.pop() {
                    credit.give(bytes);
                }
                prop_assert_eq!(credit.calls(), open.len());
                prop_assert_eq!(credit.bytes(), open.iter().sum::<usize>());
                prop_assert!(credit.calls() <= calls_max);
                prop_assert!(credit.bytes() <= bytes_max || open.len() == 1 || open.iter().skip(1).sum::<usize>() <= bytes_max);
            }
            for bytes in open.drain(..) { credit.give(bytes); }
            prop_assert_eq!((credit.calls(), credit.bytes()), (0, 0));
        }
    }

    #[test]
    fn a_full_link_refuses_and_an_ended_call_makes_room() {
        let mut credit = Credit::new(2, 100);
        assert!(credit.take(60));
        assert!(!credit.take(60), "bytes are full");
        assert!(credit.take(40));
        assert!(!credit.take(0), "calls are full");
        credit.give(60);
        assert!(credit.take(10));
    }
}
