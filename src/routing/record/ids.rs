//! Numbers and names of records.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{KeyBytes, RelayId};
use crate::model::{Name, UnitId};

/// Revision of the control group: counts its commits. 48 bits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Rev(pub u64);

impl Rev {
    /// Before the first commit; of a record that is not there.
    pub const ZERO: Self = Self(0);
    /// Highest revision that an [`Epoch`] can carry.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One global order of everything that was ever decided: 16 bits of incarnation, 48 bits of revision (R-D2).
///
/// The incarnation counts how often the store was restored from a backup.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Of a revision in an incarnation.
    pub fn new(incarnation: u16, rev: Rev) -> Self {
        Self((u64::from(incarnation) << 48) | (rev.0 & Rev::MAX.0))
    }

    /// How often the store had been restored.
    pub fn incarnation(self) -> u16 {
        u16::try_from(self.0 >> 48).unwrap_or(u16::MAX)
    }

    /// The revision.
    pub fn rev(self) -> Rev {
        Rev(self.0 & Rev::MAX.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.incarnation() == 0 {
            self.rev().fmt(f)
        } else {
            write!(f, "{}.{}", self.incarnation(), self.rev())
        }
    }
}

/// Chosen at random by whoever asks; the same operation has the same number however often it is asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct OpId(pub u128);

impl From<OpId> for String {
    fn from(op: OpId) -> Self {
        format!("{:032x}", op.0)
    }
}

impl TryFrom<String> for OpId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// A piece of work that moves nodes; chosen at random, shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MoveId(pub u64);

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<MoveId> for String {
    fn from(id: MoveId) -> Self {
        id.to_string()
    }
}

impl std::str::FromStr for MoveId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl TryFrom<String> for MoveId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// One life of a relay's connection to the store.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// What ownership is decided for. Everything that can move is one of these.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeId {
    /// One key, or a group that others follow.
    Key {
        /// Kind of key.
        dimension: Name,
        /// The key.
        key: KeyBytes,
    },
    /// One of the 4096 buckets of a dimension.
    Bucket {
        /// Kind of key.
        dimension: Name,
        /// Below 4096.
        bucket: u16,
    },
    /// The keys of a rule with `prefix`, `range`, `keys` or `default`.
    Rule {
        /// Kind of key.
        dimension: Name,
        /// Its id in the [`Book`](super::Book).
        rule: u32,
    },
    /// A whole unit.
    Unit(UnitId),
}

impl NodeId {
    /// The kind of key it is about; `None` for a unit.
    pub fn dimension(&self) -> Option<&Name> {
        match self {
            Self::Key { dimension, .. } | Self::Bucket { dimension, .. } | Self::Rule { dimension, .. } => {
                Some(dimension)
            }
            Self::Unit(_) => None,
        }
    }
}

/// What a record is kept under.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordId {
    /// There is one.
    Book,
    /// A key, bucket, rule or unit.
    Node(NodeId),
    /// Work that moves nodes.
    Move(MoveId),
    /// A relay.
    Relay(RelayId),
}
