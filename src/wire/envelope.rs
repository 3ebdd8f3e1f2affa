//! Translation between gRPC framing and the framed protocol's bare messages (C-G5, unary calls).
//!
//! ```text
//! gRPC data:  compressed u8 (0 or 1) | length u32 (big endian) | message      , any number of these
//! framed:     message                                                         , exactly one
//! ```
//! A gRPC sender names the length before the message, so bytes of it can be passed on as they come
//! ([`UnaryStrip`]). A framed sender does not, so a message in several chunks is collected first
//! ([`UnaryWrap`]), up to a limit.
//!
//! # Not here
//! What is in a message (I7).

use bytes::{Buf, Bytes};

use crate::model::{Code, Ending, Metadata, MetadataBuilder};

/// Bytes before each message in gRPC framing.
pub const PREFIX_BYTES: usize = 5;
/// Longest message that is translated, unless the settings say otherwise: gRPC's own default.
pub const MESSAGE_BYTES_DEFAULT: usize = 4 * 1024 * 1024;

/// Why a body cannot be translated.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The message is compressed; the framed protocol has no compression.
    #[error("the message is compressed, a framed service cannot read it; send it without compression")]
    Compressed,
    /// The body ended inside of a message.
    #[error("the body ends in the middle of a message")]
    Cut,
    /// The body has no message.
    #[error("the body holds no message, a unary call needs one")]
    Empty,
    /// The first byte is neither 0 nor 1.
    #[error("the body is not gRPC: its first byte is {0}, not 0 or 1")]
    Flag(u8),
    /// There is more than one message.
    #[error("the body holds more than one message; streaming calls cannot be translated between gRPC and framed")]
    Several,
    /// The message is longer than the limit.
    #[error("the message has {size} bytes, the limit for translated calls is {limit}")]
    TooLong {
        /// As its prefix says, or bytes so far.
        size: usize,
        /// As the settings say.
        limit: usize,
    },
}

/// The five bytes before an uncompressed message of this length. Lengths that do not fit count as the
/// largest one; limits keep far below that.
pub fn grpc_prefix(len: usize) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// Takes the one message out of a gRPC body while it arrives.
#[derive(Clone, Debug)]
pub struct UnaryStrip {
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    left: usize,
    limit: usize,
}

impl UnaryStrip {
    /// Refuses messages longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            left: 0,
            limit,
        }
    }

    /// Takes the next bytes of the body and gives back those of the message; copies nothing.
    ///
    /// # Errors
    /// [`EnvelopeError`]; bytes that were given back before may already be on their way.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Bytes, EnvelopeError> {
        while self.prefix_len < PREFIX_BYTES {
            if !chunk.has_remaining() {
                return Ok(Bytes::new());
            }
            if let Some(slot) = self.prefix.get_mut(self.prefix_len) {
                *slot = chunk.get_u8();
            }
            self.prefix_len += 1;
            if self.prefix_len == 1 {
                self.check_flag()?;
            }
            if self.prefix_len == PREFIX_BYTES {
                self.start()?;
            }
        }
        if chunk.len() > self.left {
            return Err(EnvelopeError::Several);
        }
        self.left -= chunk.len();
        Ok(chunk)
    }

    /// Length of the message, once its prefix is there.
    pub fn message_bytes(&self) -> Option<usize> {
        let [_, a, b, c, d] = self.prefix;
        (self.prefix_len == PREFIX_BYTES)
            .then(|| usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX))
    }

    /// Whether the whole message is there.
    pub fn is_complete(&self) -> bool {
        self.prefix_len == PREFIX_BYTES && self.left == 0
    }

    /// Checks that the body may end here.
    ///
    /// # Errors
    /// [`EnvelopeError::Empty`] if there was no message, [`EnvelopeError::Cut`] if part of it is missing.
    pub fn end(&self) -> Result<(), EnvelopeError> {
        if self.is_complete() {
            Ok(())
        } else if self.prefix_len == 0 {
            Err(EnvelopeError::Empty)
        } else {
            Err(EnvelopeError::Cut)
        }
    }

    fn check_flag(&self) -> Result<(), EnvelopeError> {
        match self.prefix {
            [0, ..] => Ok(()),
            [1, ..] => Err(EnvelopeError::Compressed),
            [flag, ..] => Err(EnvelopeError::Flag(flag)),
        }
    }

    fn start(&mut self) -> Result<(), EnvelopeError> {
        let size = self.message_bytes().unwrap_or(usize::MAX);
        if size > self.limit {
            return Err(EnvelopeError::TooLong {
                size,
                limit: self.limit,
            });
        }
        self.left = size;
        Ok(())
    }
}

/// Puts a bare message that comes in chunks into gRPC framing: holds it until it is whole, because the
/// length goes first.
#[derive(Clone, Debug)]
pub struct UnaryWrap {
    chunks: Vec<Bytes>,
    len: usize,
    limit: usize,
}

impl UnaryWrap {
    /// Refuses messages longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
            limit,
        }
    }

    /// Takes the next bytes of the message. They are held here: whoever sent them may send more.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLong`].
    pub fn push(&mut self, chunk: Bytes) -> Result<(), EnvelopeError> {
        let size = self.len.saturating_add(chunk.len());
        if size > self.limit {
            return Err(EnvelopeError::TooLong {
                size,
                limit: self.limit,
            });
        }
        self.len = size;
        if !chunk.is_empty() {
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// Whether no byte of the message is here.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The message is whole: prefix and chunks, in order.
    pub fn finish(&mut self) -> ([u8; PREFIX_BYTES], Vec<Bytes>) {
        let prefix = grpc_prefix(std::mem::take(&mut self.len));
        (prefix, std::mem::take(&mut self.chunks))
    }
}

/// Trailers of a gRPC reply for the ending of a framed one: status, text, then the service's own fields.
pub fn grpc_trailers(end: &Ending) -> Metadata {
    let mut trailers = MetadataBuilder::new();
    let status = end.status.number().to_string();
    // Neither can fail: digits and percent-encoded text are legal values, and the text is clipped.
    let _ = trailers.push(b"grpc-status", status.as_bytes());
    if !end.message.is_empty() {
        let _ = trailers.push(b"grpc-message", &percent_encode(&end.message));
    }
    for (name, value) in end.trailers.iter() {
        if !is_status_field(name) {
            let _ = trailers.push(name, value);
        }
    }
    trailers.build()
}

/// Status and text from the trailers (or, trailers-only, the head) of a gRPC reply. `None` if they hold
/// no `grpc-status`.
pub fn status_of(fields: &Metadata) -> Option<(Code, Bytes)> {
    let status = Code::from_text(fields.value("grpc-status")?);
    let message = fields.value("grpc-message").map(percent_decode).unwrap_or_default();
    Some((status, message.into()))
}

/// The fields that carry over to the other envelope: all but those that belong to gRPC over HTTP/2
/// itself (`content-type`, `te`, `grpc-encoding`, `grpc-accept-encoding`, `grpc-status`,
/// `grpc-message`, `content-length`).
pub fn carried(fields: &Metadata) -> Metadata {
    if fields.iter().all(|(name, _)| !is_grpc_field(name)) {
        return fields.clone();
    }
    let mut kept = MetadataBuilder::new();
    for (name, value) in fields.iter().filter(|(name, _)| !is_grpc_field(name)) {
        let _ = kept.push(name, value); // was legal where it came from
    }
    kept.build()
}

/// `grpc-message` text: printable ASCII but `%` as it is, every other byte as `%XX`.
pub fn percent_encode(text: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if matches!(byte, 0x20..=0x7e) && byte != b'%' {
            out.push(byte);
        } else {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

/// The text behind a `grpc-message`. What is not well encoded is kept as it is, as gRPC asks.
pub fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let decoded = match (byte, tail) {
            (b'%', [high, low, ..]) => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = decoded {
            out.push(high << 4 | low);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn is_status_field(name: &[u8]) -> bool {
    name == b"grpc-status" || name == b"grpc-message"
}

fn is_grpc_field(name: &[u8]) -> bool {
    is_status_field(name)
        || matches!(
            name,
            b"content-type" | b"te" | b"grpc-encoding" | b"grpc-accept-encoding" | b"content-length"
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strip(body: &[u8], step: usize, limit: usize) -> Result<Vec<u8>, EnvelopeError> {
        let mut strip = UnaryStrip::new(limit);
        let mut message = Vec::new();
        for chunk in body.chunks(step.max(1)) {
            message.extend_from_slice(&strip.push(Bytes::copy_from_slice(chunk))?);
        }
        strip.end()?;
        assert_eq!(strip.message_bytes(), Some(message.len()));
        Ok(message)
    }

    fn check(body: &[u8], expected: Result<&[u8], EnvelopeError>) {
        for step in [1, 2, 5, 6, 100] {
            assert_eq!(
                strip(body, step, 16),
                expected.map(<[u8]>::to_vec),
                "{body:?} by {step}"
            );
        }
    }

    // C-G5
    #[test]
    fn exactly_one_plain_message_is_stripped() {
        check(&[0, 0, 0, 0, 3, 7, 8, 9], Ok(&[7, 8, 9]));
        check(&[0, 0, 0, 0, 0], Ok(&[]));
        check(&[], Err(EnvelopeError::Empty));
        check(&[0, 0, 0], Err(EnvelopeError::Cut));
        check(&[0, 0, 0, 0, 3, 7], Err(EnvelopeError::Cut));
        check(&[0, 0, 0, 0, 1, 7, 0], Err(EnvelopeError::Several));
        check(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Err(EnvelopeError::Several));
        check(&[1, 0, 0, 0, 1, 7], Err(EnvelopeError::Compressed));
        check(&[9, 0, 0, 0, 1, 7], Err(EnvelopeError::Flag(9)));
        check(
            &[0, 255, 255, 255, 255],
            Err(EnvelopeError::TooLong {
                size: 0xffff_ffff,
                limit: 16,
            }),
        );
    }

    #[test]
    fn a_message_in_chunks_gets_one_prefix_and_a_limit() {
        let mut wrap = UnaryWrap::new(5);
        wrap.push(Bytes::from_static(b"ab")).unwrap();
        wrap.push(Bytes::new()).unwrap();
        wrap.push(Bytes::from_static(b"cde")).unwrap();
        assert_eq!(
            wrap.push(Bytes::from_static(b"f")),
            Err(EnvelopeError::TooLong { size: 6, limit: 5 })
        );
        let (prefix, chunks) = wrap.finish();
        assert_eq!(prefix, [0, 0, 0, 0, 5]);
        assert_eq!(chunks.concat(), b"abcde");
    }

    #[test]
    fn status_and_text_pass_through_trailers() {
        let mut own = MetadataBuilder::new();
        own.push(b"x-own-bin", b"AAA").unwrap();
        own.push(b"grpc-status", b"0").unwrap();
        let end = Ending {
            status: Code::NotFound,
            message: Bytes::from_static("100% n\u{f6}\n".as_bytes()),
            trailers: own.build(),
            ..Ending::default()
        };
        let trailers = grpc_trailers(&end);
        assert_eq!(trailers.value("grpc-message"), Some(&b"100%25 n%C3%B6%0A"[..]));
        assert_eq!(
            trailers.len(),
            3,
            "the service cannot add a second status: {trailers:?}"
        );
        assert_eq!(status_of(&trailers), Some((Code::NotFound, end.message)));
        assert_eq!(carried(&trailers).len(), 1);
        assert_eq!(status_of(&Metadata::default()), None);
    }

    #[test]
    fn broken_percent_text_is_kept() {
        assert_eq!(percent_decode(b"100%"), b"100%");
        assert_eq!(percent_decode(b"%zz%4"), b"%zz%4");
        assert_eq!(percent_decode(b"%41"), b"A");
    }

    proptest! {
        #[test]
        fn text_survives_percent_encoding(text: Vec<u8>) {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), text);
        }

        #[test]
        fn a_prefixed_message_is_stripped_whatever_the_chunks(message: Vec<u8>, step in 1_usize..50) {
            let mut body = grpc_prefix(message.len()).to_vec();
            body.extend_from_slice(&message);
            prop_assert_eq!(strip(&body, step, 1 << 20).unwrap(), message);
        }

        #[test]
        fn arbitrary_bytes_never_give_more_than_the_limit(body: Vec<u8>, step in 1_usize..9) {
            if let Ok(message) = strip(&body, step, 64) {
                prop_assert!(message.len() <= 64);
            }
        }
    }
}
