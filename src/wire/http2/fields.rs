//! Which fields concern one hop only, and how a header block is collected.

use bytes::{BufMut, BytesMut};

use super::{Limits, Side};
use crate::model::PREVIOUS_ATTEMPTS;

/// A header block while it is read. One per session: blocks cannot interleave in HTTP/2.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something that is independent of the others"
)]
pub(super) struct Block {
    /// Slot of its stream.
    pub(super) index: usize,
    /// Between the first callback of the block and its end.
    pub(super) is_open: bool,
    pub(super) fields: Vec<u8>,
    pub(super) apart: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) authority: Vec<u8>,
    host: Vec<u8>,
    pub(super) status: u16,
    pub(super) has_status: bool,
    pub(super) is_post: bool,
    pub(super) is_too_large: bool,
    count: usize,
    bytes: usize,
}

impl Block {
    pub(super) fn begin(&mut self, index: usize) {
        self.index = index;
        self.is_open = true;
        self.fields.clear();
        self.apart.clear();
        self.path.clear();
        self.authority.clear();
        self.host.clear();
        self.status = 0;
        self.has_status = false;
        self.is_post = false;
        self.is_too_large = false;
        self.count = 0;
        self.bytes = 0;
    }

    /// Takes one field. Once the block is too large, nothing more is stored.
    pub(super) fn push(&mut self, name: &[u8], value: &[u8], limits: &Limits) {
        self.count += 1;
        self.bytes += name.len() + value.len() + 32;
        if self.count > limits.fields_max || self.bytes > limits.fields_bytes_max || name.len() > 255 {
            self.is_too_large = true;
        }
        if self.is_too_large {
            return;
        }
        match place(name) {
            Place::Apart => append(&mut self.apart, name, value),
            Place::Authority => self.authority.extend_from_slice(value),
            Place::Fields => append(&mut self.fields, name, value),
            Place::Host => self.host.extend_from_slice(value),
            Place::Method => self.is_post = value == b"POST",
            Place::Nowhere => {}
            Place::Path => self.path.extend_from_slice(value),
            Place::Status => {
                self.has_status = true;
                self.status = value.iter().fold(0_u16, |sum, digit| {
                    sum.wrapping_mul(10).wrapping_add(u16::from(digit.wrapping_sub(b'0')))
                });
            }
        }
    }

    pub(super) fn end(&mut self) {
        self.is_open = false;
        if self.authority.is_empty() {
            std::mem::swap(&mut self.authority, &mut self.host);
        }
    }

    /// Whether this block starts a message; else it holds trailers, or nothing of interest (1xx).
    pub(super) fn kind(&self, side: Side, is_first: bool) -> Kind {
        match side {
            Side::Server if is_first => Kind::Head,
            Side::Client if self.has_status && (100..200).contains(&self.status) => Kind::Interim,
            Side::Client if self.has_status => Kind::Head,
            _ => Kind::Trailers,
        }
    }
}

/// What a header block is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Head,
    Interim,
    Trailers,
}

/// Adds a field in the form of `model::Metadata`.
pub(super) fn append(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let (Ok(name_len), Ok(value_len)) = (u8::try_from(name.len()), u16::try_from(value.len())) else {
        return;
    };
    block.reserve(3 + name.len() + value.len());
    block.put_u8(name_len);
    block.put_u16(value_len);
    block.put_slice(name);
    block.put_slice(value);
}

/// Copies a finished piece behind what the arena holds and says where it is.
pub(super) fn keep(arena: &mut BytesMut, piece: &[u8]) -> std::ops::Range<usize> {
    let start = arena.len();
    arena.extend_from_slice(piece);
    start..arena.len()
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Apart,
    Authority,
    Fields,
    Host,
    Method,
    Nowhere,
    Path,
    Status,
}

fn place(name: &[u8]) -> Place {
    match name {
        [b':', rest @ ..] => match rest {
            b"path" => Place::Path,
            b"authority" => Place::Authority,
            b"method" => Place::Method,
            b"status" => Place::Status,
            _ => Place::Nowhere,
        },
        [b's', b't', b'r', b'a', b'i', b't', b'-', ..] | b"te" | b"grpc-timeout" | PREVIOUS_ATTEMPTS => Place::Apart,
        b"host" => Place::Host,
        _ => Place::Fields,
    }
}
