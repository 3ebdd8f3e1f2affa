//! A flat list of metadata fields: the same bytes in memory, on a lane and on the framed socket.
//!
//! ```text
//! field = name_len u8 | value_len u16 (big endian) | name | value
//! block = field*
//! ```
//! Names are lower case as HTTP/2 demands; values are opaque bytes. A block is built once at the
//! edge and copied whole from then on.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// The field in which a service sees how many attempts of a call there were before, as gRPC names it.
pub const PREVIOUS_ATTEMPTS: &[u8] = b"grpc-previous-rpc-attempts";

/// An immutable block of metadata fields in the order in which they came.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Metadata(Bytes);

/// Why bytes are not a block of metadata, or a field cannot be added.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// A field runs past the end of the block.
    #[error("metadata block is cut off")]
    Cut,
    /// An empty name or one with characters HTTP/2 does not allow.
    #[error("metadata field has an invalid name")]
    Name,
    /// A value with a line break or NUL, or one too long for the format.
    #[error("metadata field has an invalid value")]
    Value,
}

impl Metadata {
    /// Checks a block that came from outside.
    ///
    /// # Errors
    /// [`MetadataError`] if a field is cut off, or a name or value is not allowed in HTTP/2.
    pub fn parse(block: Bytes) -> Result<Self, MetadataError> {
        let mut rest: &[u8] = &block;
        while !rest.is_empty() {
            let (name, value, tail) = split_field(rest).ok_or(MetadataError::Cut)?;
            check_field(name, value)?;
            rest = tail;
        }
        Ok(Self(block))
    }

    /// Takes a block whose fields are known to be well-formed: an HTTP/2 session has checked each.
    pub fn from_checked(block: Bytes) -> Self {
        debug_assert!(Self::parse(block.clone()).is_ok(), "a field of the block is malformed");
        Self(block)
    }

    /// Fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (name, value, tail) = split_field(rest)?;
            rest = tail;
            Some((name, value))
        })
    }

    /// The first value of a name. Names are lower case.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find(|(candidate, _)| *candidate == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// The first value of a name if it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The block without fields that only relays may set; the same block if there is none. Those are ours (`strait-`)
    /// and the number of attempts before (C-T2).
    #[must_use]
    pub fn distrusted(self) -> Self {
        let is_ours = |name: &[u8]| name.starts_with(b"strait-") || name == PREVIOUS_ATTEMPTS;
        if !self.iter().any(|(name, _)| is_ours(name)) {
            return self;
        }
        let mut kept = MetadataBuilder::new();
        for (name, value) in self.iter().filter(|(name, _)| !is_ours(name)) {
            // Every field of a block is well-formed.
            let _ = kept.push(name, value);
        }
        kept.build()
    }

    /// The block as it stands on the wire.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Number of fields; walks the block.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Metadata {
    /// Names only: values may be secrets (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()))
            .finish()
    }
}

/// Collects fields into a [`Metadata`].
#[derive(Default)]
pub struct MetadataBuilder(BytesMut);

impl MetadataBuilder {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty block with room for so many bytes; a field takes three beside its name and value.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(BytesMut::with_capacity(bytes))
    }

    /// A block that starts with the fields of another.
    pub fn from_block(block: &Metadata) -> Self {
        let mut buffer = BytesMut::with_capacity(block.0.len() + 64);
        buffer.put_slice(&block.0);
        Self(buffer)
    }

    /// Adds a field that the caller knows to be well-formed (HTTP/2 has checked it, or it is a
    /// constant of ours).
    ///
    /// # Errors
    /// [`MetadataError`] if name or value do not fit the format or hold a forbidden character.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), MetadataError> {
        check_field(name, value)?;
        let name_len = u8::try_from(name.len()).map_err(|_| MetadataError::Name)?;
        let value_len = u16::try_from(value.len()).map_err(|_| MetadataError::Value)?;
        self.0.reserve(3 + name.len() + value.len());
        self.0.put_u8(name_len);
        self.0.put_u16(value_len);
        self.0.put_slice(name);
        self.0.put_slice(value);
        Ok(())
    }

    /// Bytes so far; the field limits of the edges count with it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the block.
    pub fn build(self) -> Metadata {
        Metadata(self.0.freeze())
    }
}

fn split_field(block: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&[name_len, high, low], rest) = block.split_first_chunk::<3>()?;
    let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((name, value, rest))
}

fn check_field(name: &[u8], value: &[u8]) -> Result<(), MetadataError> {
    let name_ok = !name.is_empty()
        && name.len() <= 255
        && name.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'^' | b'`' | b'|' | b'~'));
    if !name_ok {
        return Err(MetadataError::Name);
    }
    if value.len() > 65_535 || value.iter().any(|b| matches!(b, b'\0' | b'\r' | b'\n')) {
        return Err(MetadataError::Value);
    }
    Ok(())
}
