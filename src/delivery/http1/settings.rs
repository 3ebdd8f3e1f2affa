//! `[delivery.http1]`.

use serde::{Deserialize, Serialize};

use crate::model::ByteSize;

/// `[delivery.http1]`: how services behind `http1://` endpoints are called. Unary calls only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Calls under way at one endpoint per data-plane thread; each has a connection of its own. More
    /// wait (`services.<name>.waiting_max`). Default 64.
    pub connections_max: usize,
    /// Longest request or reply body; it is held in memory while it is translated. Default `4MiB`.
    pub body_bytes_max: ByteSize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections_max: 64,
            body_bytes_max: ByteSize::mib(4),
        }
    }
}
