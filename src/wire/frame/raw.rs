//! A frame before its attributes are read.

use bytes::{Buf, Bytes, BytesMut};

use super::{ATTRIBUTES_BYTES_MAX, FrameError, HEADER_BYTES};
use crate::model::{Metadata, Name};
use crate::wire::attributes::{self, AttributeError};

/// A frame whose attributes are not read yet.
pub(super) struct Raw {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) id: u64,
    pub(super) block: Bytes,
    pub(super) body: Bytes,
}

impl Raw {
    /// Takes a whole frame out of what was read; `None` if more has to be read first (F1).
    pub(super) fn split_off(buffer: &mut BytesMut, frame_bytes_max: usize) -> Result<Option<Self>, FrameError> {
        let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [kind, flags, a0, a1, a2, b0, b1, b2, i0, i1, i2, i3, i4, i5, i6, i7] = *header;
        let attributes_len = length([a0, a1, a2]);
        let size = HEADER_BYTES + attributes_len + length([b0, b1, b2]);
        if size > frame_bytes_max {
            return Err(FrameError::TooLong {
                size,
                limit: frame_bytes_max,
            });
        }
        if attributes_len > ATTRIBUTES_BYTES_MAX {
            return Err(FrameError::TooMany(kind));
        }
        if buffer.len() < size {
            return Ok(None);
        }
        let mut bytes = buffer.split_to(size).freeze();
        bytes.advance(HEADER_BYTES);
        let block = bytes.split_to(attributes_len);
        Ok(Some(Self {
            kind,
            flags,
            id: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            block,
            body: bytes,
        }))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn take<'a>(&self, rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, FrameError> {
        attributes::take(rest).map_err(|source| FrameError::Attributes {
            kind: self.kind,
            source,
        })
    }

    pub(super) fn number(&self, tag: u8, value: &[u8]) -> Result<u64, FrameError> {
        attributes::number(tag, value).map_err(|source| FrameError::Attributes {
            kind: self.kind,
            source,
        })
    }

    pub(super) fn name(&self, tag: u8, value: &[u8]) -> Result<Name, FrameError> {
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| Name::new(text).ok())
            .ok_or(self.bad(tag))
    }

    pub(super) fn metadata(&self, value: Bytes) -> Result<Metadata, FrameError> {
        Metadata::parse(value).map_err(|source| FrameError::Metadata {
            kind: self.kind,
            source,
        })
    }

    pub(super) fn skip(&self, tag: u8) -> Result<(), FrameError> {
        attributes::skip_unknown(tag).map_err(|source| FrameError::Attributes {
            kind: self.kind,
            source,
        })
    }

    pub(super) fn bad(&self, tag: u8) -> FrameError {
        FrameError::Attributes {
            kind: self.kind,
            source: AttributeError::Value(tag),
        }
    }
}

/// A big-endian number of three bytes.
fn length([high, middle, low]: [u8; 3]) -> usize {
    usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX)
}
