//! Who is who: Geos, units, relays, and the name rule they share.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that is safe in labels, logs, headers and certificates: `[A-Za-z0-9._-]{1,255}` (O-S4).
///
/// Cloning costs a reference count. Names are never used as file paths.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(Arc<str>);

/// Name of a unit. Units are named once for the whole system, not per Geo.
pub type UnitId = Name;
/// Name of a Geo.
pub type Geo = Name;
/// Name of one relay of a unit.
pub type RelayName = Name;

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No character at all.
    #[error("a name must not be empty")]
    Empty,
    /// A character outside of `A-Z a-z 0-9 . _ -`.
    #[error("a name may hold A-Z a-z 0-9 . _ - only, not {0:?}")]
    Character(char),
    /// More than 255 characters.
    #[error("a name may have 255 characters, this one has {0}")]
    Long(usize),
}

impl Name {
    /// Checks the name rule.
    ///
    /// # Errors
    /// [`NameError`] says which part of the rule is broken.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(character) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
        {
            return Err(NameError::Character(character));
        }
        if text.len() > 255 {
            return Err(NameError::Long(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Name".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,255}$" })
    }
}

/// Who made a call, as a relay established it: unit and Geo from the peer's certificate, service
/// from the origin relay (C-E2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// Geo of the calling unit.
    pub geo: Geo,
    /// The calling unit.
    pub unit: UnitId,
    /// The calling service, where the origin relay knows it.
    pub service: Option<Name>,
}

/// The service that calls come from which a relay makes itself.
pub const RELAY: &str = "strait.relay";

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads better in the cases")]
    fn check(text: &str, expected: Result<(), NameError>) {
        assert_eq!(Name::new(text).map(|_| ()), expected, "{text:?}");
    }

    #[test]
    fn names_follow_the_rule() {
        check("a", Ok(()));
        check("cn-east.unit_7", Ok(()));
        check("", Err(NameError::Empty));
        check("a/b", Err(NameError::Character('/')));
        check("..%2f", Err(NameError::Character('%')));
        check("a\nb", Err(NameError::Character('\n')));
        check(&"x".repeat(255), Ok(()));
        check(&"x".repeat(256), Err(NameError::Long(256)));
    }
}
