//! Links to relays of other units.

pub mod credentials;
pub mod dev_ca;
pub mod identity;
pub mod inspect;
mod pem;
pub mod quic;
pub mod refusals;
pub mod settings;
pub mod tls;
pub mod verify;

pub use settings::{RelaySettings, Settings, UnitSettings, Units};
