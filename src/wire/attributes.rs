//! Attributes of a frame: `tag u8 | length varint | value`, in any order, unknown tags skipped.
//!
//! A tag of 128 or more is *mandatory*: a reader that does not know it must refuse the frame. So a later
//! version can add fields that may be ignored and fields that must not be.

use bytes::{BufMut, BytesMut};

/// Why attributes cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// A value runs past the end.
    #[error("attribute is cut off")]
    Cut,
    /// A mandatory attribute this version does not know.
    #[error("attribute {0} is mandatory and unknown to this version; upgrade this side")]
    Mandatory(u8),
    /// The value has the wrong form.
    #[error("attribute {0} has an invalid value")]
    Value(u8),
}

/// Adds an attribute with opaque bytes.
pub fn put_bytes(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    put_varint(out, length(value.len()));
    out.put_slice(value);
}

/// Adds an attribute with a number.
pub fn put_number(out: &mut BytesMut, tag: u8, value: u64) {
    out.put_u8(tag);
    out.put_u8(varint_bytes(value));
    put_varint(out, value);
}

/// Adds an attribute that is a number followed by bytes.
pub fn put_number_and_bytes(out: &mut BytesMut, tag: u8, number: u64, value: &[u8]) {
    out.put_u8(tag);
    put_varint(out, u64::from(varint_bytes(number)) + length(value.len()));
    put_varint(out, number);
    out.put_slice(value);
}

/// Takes the next attribute; `None` at the end. The value is a part of the block: take a handle on its memory only if it
/// is kept.
///
/// # Errors
/// [`AttributeError::Cut`] if it runs past the end.
pub fn take<'a>(rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, AttributeError> {
    let Some((&tag, tail)) = rest.split_first() else {
        return Ok(None);
    };
    *rest = tail;
    let len = take_varint(rest)
        .and_then(|len| usize::try_from(len).ok())
        .ok_or(AttributeError::Cut)?;
    let (value, tail) = rest.split_at_checked(len).ok_or(AttributeError::Cut)?;
    *rest = tail;
    Ok(Some((tag, value)))
}

/// Reads a value that is one number.
///
/// # Errors
/// [`AttributeError::Value`] if it is not exactly one number.
pub fn number(tag: u8, mut value: &[u8]) -> Result<u64, AttributeError> {
    match take_varint(&mut value) {
        Some(number) if value.is_empty() => Ok(number),
        _ => Err(AttributeError::Value(tag)),
    }
}

/// Skips a tag this version does not know, unless it is mandatory.
///
/// # Errors
/// [`AttributeError::Mandatory`].
pub fn skip_unknown(tag: u8) -> Result<(), AttributeError> {
    if tag >= 128 {
        Err(AttributeError::Mandatory(tag))
    } else {
        Ok(())
    }
}

/// Appends a LEB128 number.
pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

/// Takes a LEB128 number of at most 64 bits.
pub fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return None;
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn varint_bytes(value: u64) -> u8 {
    let bits = u64::BITS - value.max(1).leading_zeros();
    u8::try_from(bits.div_ceil(7)).unwrap_or(10)
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
