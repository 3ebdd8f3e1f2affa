//! A body that is whole here and goes out in chunks under the other side's credit.

use bytes::Bytes;

use crate::model::wants_credit;

/// Longest body of one frame.
const CHUNK_BYTES: usize = 64 * 1024;

/// What of a body is still to be sent.
#[derive(Default)]
pub(super) struct Sending {
    rest: Bytes,
    used: usize,
    done: bool,
}

impl Sending {
    pub(super) fn new(body: Bytes) -> Self {
        Self {
            rest: body,
            used: 0,
            done: false,
        }
    }

    /// The next chunk and whether it is the last; `None` if the window is full or all is gone.
    pub(super) fn next(&mut self, window: usize) -> Option<(Bytes, bool)> {
        if self.done {
            return None;
        }
        let len = self.rest.len();
        let fits = if wants_credit(len, true) {
            window.saturating_sub(self.used).min(CHUNK_BYTES).min(len)
        } else {
            len
        };
        if fits == 0 && len > 0 {
            return None;
        }
        let chunk = self.rest.split_to(fits);
        self.done = self.rest.is_empty();
        if wants_credit(fits, self.done) {
            self.used += fits;
        }
        Some((chunk, self.done))
    }

    pub(super) fn on_credit(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }
}
