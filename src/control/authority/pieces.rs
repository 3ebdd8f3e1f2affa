//! Answers cut into messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

use crate::control::question::document;
use crate::control::store::{Feed, Reports, StoreError};
use crate::wire::authority::Piece;

/// The pieces of one answer, and of what follows it until that ends.
pub(super) struct Pieces {
    current: Option<Bytes>,
    rest: Rest,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// What follows.
pub(super) enum Rest {
    Nothing,
    Feed(Feed),
    Reports(Reports),
}

impl Pieces {
    /// Ends with `over`, at the latest (A2).
    pub(super) fn new(first: Option<Bytes>, rest: Rest, over: &CancellationToken) -> Self {
        Self {
            current: first,
            rest,
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
        let whole = match self.current.take() {
            Some(whole) => Some(whole),
            None => match &mut self.rest {
                Rest::Nothing => None,
                Rest::Feed(feed) => ready!(feed.poll_recv(context)).map(|answer| document(&answer)),
                Rest::Reports(reports) => {
                    ready!(reports.poll_recv(context)).map(|word| document(&Ok::<_, StoreError>(word)))
                }
            },
        };
        Poll::Ready(whole.map(|whole| Ok(self.cut(whole))))
    }
}

/// Small enough that other answers get through between the pieces of a long one.
const PIECE_BYTES: usize = 256 << 10;
