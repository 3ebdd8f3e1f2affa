//! Bytes of a key, as text where they are some.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A key as callers send it. In JSON the text itself, or `base64:...` if it is none or begins with that.
#[derive(Clone, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyBytes(pub Bytes);

impl fmt::Debug for KeyBytes {
    /// How long it is: keys name customers (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl From<&str> for KeyBytes {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<KeyBytes> for String {
    fn from(key: KeyBytes) -> Self {
        match std::str::from_utf8(&key.0) {
            Ok(text) if !text.starts_with(PREFIX) => text.to_owned(),
            _ => format!("{PREFIX}{}", STANDARD.encode(&key.0)),
        }
    }
}

impl TryFrom<String> for KeyBytes {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD.decode(encoded).map(|bytes| Self(bytes.into())),
            None => Ok(Self(text.into_bytes().into())),
        }
    }
}

const PREFIX: &str = "base64:";
