//! Hands calls to local services.

mod address;
mod backoff;
mod balance;
pub mod framed;
pub mod grpc;
mod outlier;
mod settings;

pub use address::{AddressError, EndpointAddress, HostPort, Protocol, Site};
pub use settings::{HealthSettings, OutlierSettings, ServiceSettings, Services, Settings, SettingsError};
