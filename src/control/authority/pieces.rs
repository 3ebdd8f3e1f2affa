//! Answers cut into messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

use crate::control::question::document;
use crate::control::store::Feed;
use crate::wire::authority::Piece;

/// The pieces of one answer, or of a feed until it ends.
pub(super) struct Pieces {
    current: Option<Bytes>,
    feed: Option<Feed>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Pieces {
    /// Ends with `over`, at the latest (A2).
    pub(super) fn new(first: Option<Bytes>, feed: Option<Feed>, over: &CancellationToken) -> Self {
        Self {
            current: first,
            feed,
            over: Box::pin(over.clone().cancelled_owned()),
        }
    }

    fn cut(&mut self, mut whole: Bytes) -> Piece {
        let json = whole.split_to(whole.len().min(PIECE_BYTES));
        let last = whole.is_empty();
        self.current = (!last).then_some(whole);
        Piece { json, last }
    }
}

impl Stream for Pieces {
    type Item = Result<Piece, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let whole = match (self.current.take(), &mut self.feed) {
            (Some(whole), _) => whole,
            (None, None) => return Poll::Ready(None),
            (None, Some(feed)) => match ready!(feed.poll_recv(context)) {
                Some(answer) => document(&answer),
                None => return Poll::Ready(None),
            },
        };
        Poll::Ready(Some(Ok(self.cut(whole))))
    }
}

/// Small enough that other answers get through between the pieces of a long one.
const PIECE_BYTES: usize = 256 << 10;
