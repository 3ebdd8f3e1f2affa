//! Stories of what local services send to other units.

mod alarms;
mod carrier;
mod hooks;
mod kept;
mod message;
mod open;
mod own;
mod parked;
mod parking;
mod retries;
mod rpc;
mod shadows;
mod strikes;
#[cfg(test)]
mod tests;
mod tokens;
mod users;
mod verdict;

use std::rc::Rc;

pub use carrier::{CarrierParts, Carriers, Claims};
pub use hooks::OwnerControl;
pub use kept::KeptParts;
pub use message::{Catalog, Published, Publisher, PublisherParts, PublisherRef, Publishers, Tell};
pub use own::{OwnAsked, OwnCall, OwnCalls, OwnError, OwnStory};
pub use parking::ParkingLimits;
pub use rpc::{Parts, Rpc};
pub use shadows::ShadowStory;
pub use tokens::TokenParts;

use crate::model::{Callee, RelayError, UnitId};
use crate::peer::Peers;

/// Finds ways to other units.
pub trait Ways {
    /// A way to a unit.
    ///
    /// # Errors
    /// The unit is not known, or away.
    fn to(&self, unit: &UnitId) -> Result<Rc<dyn Callee>, RelayError>;
}

impl Ways for Peers {
    fn to(&self, unit: &UnitId) -> Result<Rc<dyn Callee>, RelayError> {
        Self::to(self, unit)
    }
}
