//! The messages in the body of a request, as they arrive. Pure.
//!
//! A message that lies in one chunk is a slice of it; one that lies in several is put together in a buffer of its size.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::envelope::{EnvelopeError, PREFIX_BYTES};

/// Takes the messages out of a body.
pub(super) struct Reader {
    is_grpc: bool,
    limit: usize,
    chunks: VecDeque<Bytes>,
    /// The beginning of a message whose rest is still to come.
    partial: BytesMut,
    is_ended: bool,
    /// A bare message was given out.
    is_done: bool,
}

impl Reader {
    /// Of gRPC data, or of one bare message. Messages may have `limit` bytes.
    pub(super) fn new(is_grpc: bool, limit: usize) -> Self {
        Self {
            is_grpc,
            limit,
            chunks: VecDeque::new(),
            partial: BytesMut::new(),
            is_ended: false,
            is_done: false,
        }
    }

    /// More of the body.
    pub(super) fn push(&mut self, chunk: Bytes, end: bool) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
        self.is_ended |= end;
    }

    /// Whether no more of the body will come. There may be messages in it yet.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The next message that is whole.
    ///
    /// # Errors
    /// The body is not what it should be.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, EnvelopeError> {
        let message = if self.is_grpc {
            self.next_prefixed()?
        } else {
            self.next_bare()?
        };
        if message.is_none() && self.is_ended && !self.partial.is_empty() {
            return Err(EnvelopeError::Cut);
        }
        Ok(message)
    }

    fn next_prefixed(&mut self) -> Result<Option<Bytes>, EnvelopeError> {
        loop {
            let needed = self.needed(&self.partial)?;
            if self.partial.len() == needed {
                let mut message = std::mem::take(&mut self.partial).freeze();
                message.advance(PREFIX_BYTES);
                return Ok(Some(message));
            }
            let Some(mut chunk) = self.chunks.pop_front() else {
                return Ok(None);
            };
            if self.partial.is_empty() {
                let whole = self.needed(&chunk)?;
                if chunk.len() >= whole && whole > PREFIX_BYTES || chunk.len() >= PREFIX_BYTES && whole == PREFIX_BYTES
                {
                    let mut message = chunk.split_to(whole);
                    self.put_back(chunk);
                    message.advance(PREFIX_BYTES);
                    return Ok(Some(message));
                }
                self.partial.reserve(whole);
            } else {
                self.partial.reserve(needed.saturating_sub(self.partial.len()));
            }
            let wanted = self.needed(&self.partial)?.saturating_sub(self.partial.len());
            let part = chunk.split_to(chunk.len().min(wanted));
            self.partial.extend_from_slice(&part);
            self.put_back(chunk);
        }
    }

    /// Bytes of the message that `start` begins, prefix included; at least those of the prefix.
    fn needed(&self, start: &[u8]) -> Result<usize, EnvelopeError> {
        match start.first() {
            Some(1) => return Err(EnvelopeError::Compressed),
            Some(flag) if *flag != 0 => return Err(EnvelopeError::Flag(*flag)),
            _ => {}
        }
        let Some([_, a, b, c, d]) = start.first_chunk::<PREFIX_BYTES>() else {
            return Ok(PREFIX_BYTES);
        };
        let size = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        self.within(size)?;
        Ok(PREFIX_BYTES + size)
    }

    /// A bare message is whole when its body is.
    fn next_bare(&mut self) -> Result<Option<Bytes>, EnvelopeError> {
        let held = self.partial.len() + self.chunks.iter().map(Bytes::len).sum::<usize>();
        self.within(held)?;
        if !self.is_ended {
            // Many small chunks must not cost more than they hold.
            if self.chunks.len() > 1 {
                for chunk in self.chunks.drain(..) {
                    self.partial.extend_from_slice(&chunk);
                }
            }
            return Ok(None);
        }
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(None);
        }
        if self.partial.is_empty() && self.chunks.len() <= 1 {
            return Ok(Some(self.chunks.pop_front().unwrap_or_default()));
        }
        for chunk in self.chunks.drain(..) {
            self.partial.extend_from_slice(&chunk);
        }
        Ok(Some(std::mem::take(&mut self.partial).freeze()))
    }

    fn within(&self, size: usize) -> Result<(), EnvelopeError> {
        if size > self.limit {
            let limit = self.limit;
            return Err(EnvelopeError::TooLong { size, limit });
        }
        Ok(())
    }

    fn put_back(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_front(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::envelope::grpc_prefix;

    fn read(reader: &mut Reader, body: &[u8], step: usize) -> Result<Vec<Bytes>, EnvelopeError> {
        let mut found = Vec::new();
        let mut chunks = body.chunks(step.max(1)).peekable();
        while let Some(chunk) = chunks.next() {
            reader.push(Bytes::copy_from_slice(chunk), chunks.peek().is_none());
            while let Some(message) = reader.next()? {
                found.push(message);
            }
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn messages_are_found_whatever_the_chunks(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
            step in 1_usize..400,
        ) {
            let mut body = Vec::new();
            for message in &messages {
                body.extend_from_slice(&grpc_prefix(message.len()));
                body.extend_from_slice(message);
            }
            let mut reader = Reader::new(true, 300);
            prop_assert_eq!(read(&mut reader, &body, step).unwrap(), messages);
            let mut bare = Reader::new(false, 1 << 20);
            prop_assert_eq!(read(&mut bare, &body, step).unwrap(), vec![Bytes::from(body)]);
        }

        #[test]
        fn no_bytes_make_it_panic_or_give_more_than_the_limit(body: Vec<u8>, step in 1_usize..20) {
            for is_grpc in [true, false] {
                if let Ok(found) = read(&mut Reader::new(is_grpc, 64), &body, step) {
                    prop_assert!(found.iter().all(|message| message.len() <= 64));
                }
            }
        }
    }

    #[test]
    fn what_is_no_message_is_named() {
        let error = |body: &[u8]| read(&mut Reader::new(true, 16), body, 3).unwrap_err();
        assert_eq!(error(&[0, 0, 0]), EnvelopeError::Cut);
        assert_eq!(error(&[0, 0, 0, 0, 3, 7]), EnvelopeError::Cut);
        assert_eq!(error(&[1, 0, 0, 0, 1, 7]), EnvelopeError::Compressed);
        assert_eq!(error(&[9, 0, 0, 0, 1, 7]), EnvelopeError::Flag(9));
        let long = EnvelopeError::TooLong { size: 17, limit: 16 };
        assert_eq!(error(&[0, 0, 0, 0, 17]), long);
    }

    #[test]
    fn an_empty_bare_body_is_an_empty_message() {
        let mut reader = Reader::new(false, 16);
        reader.push(Bytes::new(), true);
        assert_eq!(reader.next(), Ok(Some(Bytes::new())));
        assert_eq!(reader.next(), Ok(None));
    }
}
