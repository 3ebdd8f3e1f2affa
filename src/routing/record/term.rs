//! Since when an owner has what it has: what a service is told as `strait-owner-epoch` (R-3.8 step 6).
//!
//! A record is written at each step of a move, and its owner changes at one of them only. So a record says since when its owner is
//! the owner, and whoever writes it without giving it to another one leaves that as it is.

use serde::{Deserialize, Serialize};

use super::Rev;
use crate::model::UnitId;

/// Since when the owner that a record names is the owner.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Term {
    /// The revision; `None`: that of the record, which gave it to its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Rev>,
    /// Of a unit that others have the keys of: who had them before one of those was evacuated too, and since when; the oldest
    /// first. A key that stayed where it was then has its owner since then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<(Vec<(UnitId, u16)>, Rev)>,
    /// The record only forgets who had it before (R-3.9 S8): nothing was decided by it that was not when the term began.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_swept: bool,
}

impl Term {
    /// Of an owner that was there before the record.
    pub fn since(rev: Rev) -> Self {
        Self {
            since: Some(rev),
            ..Self::default()
        }
    }

    /// The same, in a record that only forgets who had the node before.
    #[must_use]
    pub fn swept(self) -> Self {
        Self { is_swept: true, ..self }
    }

    /// Whether it begins with the record; left out of what is stored.
    pub(super) fn is_new(&self) -> bool {
        *self == Self::default()
    }
}
