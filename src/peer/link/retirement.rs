//! How a link goes out of use without a call lost: another one takes its place, its calls end, both sides are done.
//!
//! # Invariants
//! - L5. A side that said it is done opens no call any more; one that has not may still open some, so that there is
//!   no moment at which a call has no link to take.

use std::cell::Cell;

use tokio_util::sync::CancellationToken;

use super::Link;
use crate::model::Endpoint;

/// How far a link has gone out of use.
#[derive(Debug, Default)]
pub(super) struct Retirement {
    /// Another link should take its place.
    renewal: CancellationToken,
    /// Another link has taken its place.
    retiring: Cell<bool>,
    /// Wakes who waits for that.
    retired: CancellationToken,
    /// No call of ours is open, and none will be.
    done: Cell<bool>,
    /// The same of the peer.
    peer_done: Cell<bool>,
    /// The peer has spoken of it, so it knows how to.
    peer_spoke: Cell<bool>,
}

impl Link {
    /// Another link should take the place of this one.
    pub(in crate::peer) fn on_renewal_wanted(&self) {
        self.retirement.renewal.cancel();
    }

    /// Resolves when another link should take the place of this one.
    pub(in crate::peer) async fn renewal_wanted(&self) {
        self.retirement.renewal.cancelled().await;
    }

    /// Another link has taken the place of this one: calls come here only if there is no other way.
    pub(in crate::peer) fn retire(&self) {
        self.retirement.retiring.set(true);
        self.retirement.retired.cancel();
    }

    /// Resolves when another link has taken the place of this one.
    pub(in crate::peer) async fn retired(&self) {
        self.retirement.retired.cancelled().await;
    }

    /// Whether another link has taken the place of this one.
    pub(in crate::peer) fn is_retiring(&self) -> bool {
        self.retirement.retiring.get()
    }

    /// The peer retires the link; `done`: no call of the peer is open here, and none will be.
    pub(in crate::peer) fn on_peer_retires(&self, done: bool) {
        self.retirement.peer_spoke.set(true);
        self.retirement.peer_done.set(done || self.retirement.peer_done.get());
        self.retire();
    }

    /// Ends the link for calls of ours if it retires and none is open. True at that moment only.
    pub(in crate::peer) fn finish(&self) -> bool {
        let now = self.is_retiring() && !self.is_done() && self.in_flight() == 0;
        if now {
            self.retirement.done.set(true);
        }
        now
    }

    /// Whether it has ended for calls of ours.
    pub(in crate::peer) fn is_done(&self) -> bool {
        self.retirement.done.get()
    }

    /// Whether it can be closed without a call lost. A peer that was given time and never spoke of it does not
    /// know how to; then that none of its calls is open is all there is to know.
    pub(in crate::peer) fn is_over(&self, patience_over: bool) -> bool {
        let older = patience_over && !self.retirement.peer_spoke.get() && self.calls_in() == 0;
        self.is_done() && (self.retirement.peer_done.get() || older)
    }

    /// Whether a call can be opened here, if nowhere else.
    pub(in crate::peer) fn takes_calls(&self) -> bool {
        !(self.closed.is_cancelled() || self.peer_drains.get() || self.silent.get() || self.is_done())
    }
}
