//! Callers that drip requests or hardly read replies (T13): looks after calls that are not over at once.
//!
//! # Invariants
//! - Q1. A request counts only while one of its messages has begun and not ended, and while this relay takes
//!   its bytes. What the callee does not take is the callee's time.
//! - Q2. A small call is never looked at, and costs nothing here.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

use tokio::time::Sleep;

use crate::wire::envelope::PREFIX_BYTES;
use crate::wire::pace::{LeastPace, Progress};

/// What moved of a request whose body was not whole at once.
#[derive(Debug)]
pub(super) struct Watch {
    messages: Messages,
    got: u64,
    progress: Progress,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            messages: Messages::default(),
            got: 0,
            progress: Progress::new(now, 0),
        }
    }

    pub(super) fn on_body(&mut self, chunk: &[u8], end: bool, now: Instant) {
        let was_inside = self.messages.is_inside();
        self.got = self.got.saturating_add(u64::try_from(chunk.len()).unwrap_or(0));
        self.messages.read(chunk);
        if end {
            self.messages = Messages::default();
        }
        if !was_inside {
            self.progress = Progress::new(now, self.got);
        }
    }

    /// Whether the caller drips; `takes` tells whether it could send more.
    pub(super) fn is_slow(&mut self, now: Instant, takes: bool, least: &LeastPace) -> bool {
        if !takes || !self.messages.is_inside() {
            self.progress = Progress::new(now, self.got);
            return false;
        }
        self.progress.is_slow(now, self.got, 0, least)
    }
}

/// Where gRPC messages begin and end; their contents are not looked at.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    left: usize,
}

impl Messages {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let piece = self.left.min(bytes.len());
                self.left -= piece;
                bytes = bytes.get(piece..).unwrap_or_default();
                continue;
            }
            let [first, rest @ ..] = bytes else { return };
            if let Some(place) = self.prefix.get_mut(self.prefix_len) {
                *place = *first;
                self.prefix_len += 1;
            }
            bytes = rest;
            if self.prefix_len == PREFIX_BYTES {
                self.prefix_len = 0;
                let [_, a, b, c, d] = self.prefix;
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            }
        }
    }

    fn is_inside(&self) -> bool {
        self.left > 0 || self.prefix_len > 0
    }
}

/// What a caller that drips is told.
pub(super) fn dripped(least: &LeastPace) -> String {
    format!(
        "a message of the request was begun and then came at less than {} bytes per second for {:?}; send it whole",
        least.bytes_per_second, least.time
    )
}

/// When to look next; has no timer while there is nothing to look after.
#[derive(Default)]
pub(super) struct Look(Option<Pin<Box<Sleep>>>);

impl Look {
    /// Whether it is time.
    pub(super) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let is_due = self.0.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if is_due {
            self.0 = None;
        }
        is_due
    }

    /// Looks again in a while, if that is not settled already.
    pub(super) fn later(&mut self, least: &LeastPace, cx: &mut Context<'_>) {
        if self.0.is_none() {
            let mut sleep = Box::pin(tokio::time::sleep(least.look_again()));
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            self.0 = Some(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LEAST: LeastPace = LeastPace {
        bytes_per_second: 1024,
        time: Duration::from_secs(10),
    };

    proptest! {
        // Q1
        #[test]
        fn messages_are_told_apart_however_they_are_cut(
            lens in prop::collection::vec(0_usize..40, 0..8),
            cut in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for len in lens {
                bytes.push(0);
                bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
                bytes.resize(bytes.len() + len, 9);
                ends.push(bytes.len());
            }
            let mut messages = Messages::default();
            let mut read = 0;
            for piece in bytes.chunks(cut) {
                messages.read(piece);
                read += piece.len();
                prop_assert_eq!(messages.is_inside(), !ends.contains(&read));
            }
        }
    }

    // T13, C-G3
    #[test]
    fn silence_between_messages_is_not_slow_and_a_drip_is() {
        let start = tokio::time::Instant::now().into_std();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(start);
        watch.on_body(&[0, 0, 0, 0, 1, 7], false, start);
        assert!(!watch.is_slow(at(24 * 3600), true, &LEAST));
        watch.on_body(&[0, 0, 0], false, at(24 * 3600));
        assert!(!watch.is_slow(at(24 * 3600 + 9), true, &LEAST));
        assert!(!watch.is_slow(at(24 * 3600 + 20), false, &LEAST), "it may not send");
        watch.on_body(&[0], false, at(24 * 3600 + 25));
        assert!(watch.is_slow(at(24 * 3600 + 30), true, &LEAST));
    }
}
