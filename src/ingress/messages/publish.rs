//! `Publish`, `PublishBatch` and `PublishStream`.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use slotmap::{DefaultKey, Key};

use super::call::{Call, Kind, Method};
use super::{Messages, bad, draining, reply};
use crate::model::{RelayError, ReplyEvent};
use crate::outbound::{Published, PublisherRef};
use crate::wire::messages::{self, PublishBatchReply, PublishBatchRequest, PublishReply, PublishRequest};

/// A `PublishBatch`.
#[derive(Default)]
pub(super) struct Batch {
    /// By position: the number of the publication while it is under way.
    under_way: Vec<Option<u64>>,
    replies: Vec<PublishReply>,
    open: usize,
}

/// A `PublishStream`.
#[derive(Default)]
pub(super) struct Stream {
    next: u64,
    under_way: BTreeMap<u64, Streamed>,
    bytes: usize,
    /// Bytes of replies that the client has not read, as far as is known.
    unread: usize,
}

struct Streamed {
    /// Of the publication.
    number: u64,
    /// The publisher's own.
    own: u64,
    bytes: usize,
}

impl Batch {
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.under_way.iter().flatten().copied()
    }
}

impl Stream {
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.under_way.values().map(|one| one.number)
    }

    /// Nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.under_way.len() >= STREAM_MESSAGES_MAX || self.bytes >= STREAM_BYTES_MAX || self.unread >= UNREAD_BYTES_MAX
    }

    /// The client has read.
    pub(super) fn on_read(&mut self, bytes: usize) {
        self.unread = self.unread.saturating_sub(bytes);
    }
}

impl Messages {
    /// A call has come, of which nothing was looked at.
    pub(super) fn begin(&self, key: DefaultKey) {
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(key) else { return };
        if let Kind::Stream(_) = call.kind {
            // Says that it is a stream, so that the time for one answer does not count.
            call.has_head = true;
            self.out
                .push((call.caller.clone(), ReplyEvent::Part(self.replies.head(call.is_grpc))));
        }
    }

    /// The message of a unary call is here.
    pub(super) fn on_unary(&self, key: DefaultKey, message: Bytes) -> Result<(), RelayError> {
        let (method, limit) = {
            let calls = self.calls.borrow();
            let Some(call) = calls.get(key) else { return Ok(()) };
            let Kind::Unary(method) = call.kind else { return Ok(()) };
            (method, call.limit)
        };
        let kind = match method {
            Method::Publish => {
                let request = messages::decode(message).map_err(|error| bad(error.to_string()))?;
                Kind::Single(self.publish(key, 0, request, limit).map_err(|error| *error)?)
            }
            Method::Batch => {
                let request: PublishBatchRequest = messages::decode(message).map_err(|error| bad(error.to_string()))?;
                Kind::Batch(self.publish_all(key, request, limit)?)
            }
        };
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(key) else { return Ok(()) };
        call.kind = kind;
        let is_over = matches!(&call.kind, Kind::Batch(batch) if batch.open == 0);
        drop(calls);
        if is_over {
            self.answer_batch(key);
        }
        Ok(())
    }

    fn publish_all(
        &self,
        key: DefaultKey,
        request: PublishBatchRequest,
        limit: Option<Instant>,
    ) -> Result<Batch, RelayError> {
        let count = request.messages.len();
        if count == 0 || count > BATCH_MESSAGES_MAX {
            return Err(bad(format!(
                "a batch has 1 to {BATCH_MESSAGES_MAX} messages, this one has {count}"
            )));
        }
        let mut batch = Batch::default();
        for (index, request) in (0..).zip(request.messages) {
            match self.publish(key, index, request, limit) {
                Ok(number) => {
                    batch.under_way.push(Some(number));
                    batch.replies.push(PublishReply::default());
                    batch.open += 1;
                }
                Err(error) => {
                    batch.under_way.push(None);
                    batch.replies.push(reply::refused(&error, 0));
                }
            }
        }
        Ok(batch)
    }

    /// A message of a stream is here.
    pub(super) fn on_streamed(&self, key: DefaultKey, message: Bytes) -> Result<(), RelayError> {
        let bytes = message.len();
        let request: PublishRequest = messages::decode(message).map_err(|error| bad(error.to_string()))?;
        let own = request.number;
        let Some((index, limit)) = self.next_of_stream(key) else {
            return Ok(());
        };
        let result = self.publish(key, index, request, limit);
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(key) else { return Ok(()) };
        match result {
            Ok(number) => {
                if let Kind::Stream(stream) = &mut call.kind {
                    stream.bytes += bytes;
                    stream.under_way.insert(index, Streamed { number, own, bytes });
                }
            }
            Err(error) => self.say(call, &reply::refused(&error, own)),
        }
        drop(calls);
        Ok(())
    }

    fn next_of_stream(&self, key: DefaultKey) -> Option<(u64, Option<Instant>)> {
        let mut calls = self.calls.borrow_mut();
        let call = calls.get_mut(key)?;
        let now = tokio::time::Instant::now().into_std();
        let own = now.checked_add(self.parts.timeout);
        let limit = match (call.deadline, own) {
            (Some(deadline), Some(own)) => Some(deadline.min(own)),
            (deadline, own) => deadline.or(own),
        };
        let Kind::Stream(stream) = &mut call.kind else {
            return None;
        };
        let index = stream.next;
        stream.next += 1;
        Some((index, limit))
    }

    fn publish(
        &self,
        key: DefaultKey,
        index: u64,
        request: PublishRequest,
        limit: Option<Instant>,
    ) -> Result<u64, Box<RelayError>> {
        let Some(me) = self.me.upgrade() else {
            return Err(Box::new(draining()));
        };
        let back = PublisherRef {
            port: me,
            id: key.data().as_ffi(),
            index,
        };
        self.parts.publishers.publish(request, limit, back)
    }

    /// A publication has ended.
    pub(super) fn on_publication(&self, key: DefaultKey, index: u64, end: Published) {
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(key) else { return };
        match &mut call.kind {
            Kind::Single(_) => {
                let Some(call) = calls.remove(key) else { return };
                let event = match end {
                    Published { error: Some(error), .. } => ReplyEvent::Failed(error),
                    end => {
                        let reply = reply::published(&end, 0);
                        ReplyEvent::Part(self.replies.whole(call.is_grpc, &reply))
                    }
                };
                self.out.push((call.caller, event));
            }
            Kind::Batch(batch) => {
                let at = usize::try_from(index).unwrap_or(usize::MAX);
                if let Some((under_way, place)) = batch.under_way.get_mut(at).zip(batch.replies.get_mut(at))
                    && under_way.take().is_some()
                {
                    *place = reply::published(&end, 0);
                    batch.open -= 1;
                }
                let is_over = batch.open == 0;
                drop(calls);
                if is_over {
                    self.answer_batch(key);
                }
            }
            Kind::Stream(stream) => {
                let Some(done) = stream.under_way.remove(&index) else {
                    return;
                };
                stream.bytes -= done.bytes;
                self.say(call, &reply::published(&end, done.own));
                drop(calls);
                self.on_room(key);
            }
            Kind::Unary(_) | Kind::Subscribing | Kind::Consumer(_) => {}
        }
    }

    /// A stream has less under way.
    pub(super) fn on_room(&self, key: DefaultKey) {
        if let Err(error) = self.advance(key) {
            return self.fail(key, error);
        }
        let is_quiet = self.calls.borrow().get(key).is_some_and(|call| match &call.kind {
            Kind::Stream(stream) => stream.is_quiet(),
            _ => false,
        });
        if is_quiet && self.draining.get() {
            self.fail(key, draining());
        }
    }

    fn answer_batch(&self, key: DefaultKey) {
        let Some(call) = self.calls.borrow_mut().remove(key) else {
            return;
        };
        if let Kind::Batch(batch) = call.kind {
            let reply = PublishBatchReply { replies: batch.replies };
            let part = self.replies.whole(call.is_grpc, &reply);
            self.out.push((call.caller, ReplyEvent::Part(part)));
        }
    }

    /// One more message of a stream's reply.
    fn say(&self, call: &mut Call, reply: &PublishReply) {
        let bytes = reply::encode(call.is_grpc, reply);
        if let Kind::Stream(stream) = &mut call.kind {
            stream.unread += bytes.len();
        }
        let part = reply::more(bytes);
        self.out.push((call.caller.clone(), ReplyEvent::Part(part)));
    }
}

/// Messages of a batch.
const BATCH_MESSAGES_MAX: usize = 1024;
/// Messages of a stream that are under way.
const STREAM_MESSAGES_MAX: usize = 1024;
/// Bytes of them.
const STREAM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a stream's replies that its client has not read.
const UNREAD_BYTES_MAX: usize = 256 * 1024;
