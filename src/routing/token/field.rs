//! `strait-token: <dimension>;<token>`, repeated or with commas between several.

use super::{Refused, Text};
use crate::model::Name;

/// A token that a call presented, not opened yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Presented<'a> {
    /// The kind of key it is for.
    pub dimension: &'a str,
    /// The token, whatever it is.
    pub text: &'a [u8],
}

/// What stands in the fields of a call, in order. Of more than [`PRESENTED_MAX`] the rest is not looked at.
pub fn presented<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
) -> impl Iterator<Item = Result<Presented<'a>, Refused>> {
    let parts = values.into_iter().flat_map(|value| value.split(|byte| *byte == b','));
    let parts = parts.map(<[u8]>::trim_ascii).filter(|part| !part.is_empty());
    parts.enumerate().take(PRESENTED_MAX + 1).map(|(at, part)| {
        if at < PRESENTED_MAX {
            split(part)
        } else {
            Err(Refused::Many)
        }
    })
}

/// The value of a field.
pub fn field(dimension: &Name, token: &Text) -> String {
    format!("{dimension};{}", token.as_str())
}

fn split(part: &[u8]) -> Result<Presented<'_>, Refused> {
    let at = part.iter().position(|byte| *byte == b';').ok_or(Refused::Field)?;
    let (dimension, text) = part.split_at_checked(at).ok_or(Refused::Field)?;
    let text = text.strip_prefix(b";").unwrap_or(text).trim_ascii_start();
    let dimension = std::str::from_utf8(dimension.trim_ascii_end()).map_err(|_| Refused::Field)?;
    if dimension.is_empty() || dimension.len() > DIMENSION_BYTES_MAX {
        return Err(Refused::Field);
    }
    Ok(Presented { dimension, text })
}

/// Tokens of a call that are looked at.
pub const PRESENTED_MAX: usize = 8;
/// As in [`Name`].
const DIMENSION_BYTES_MAX: usize = 255;
