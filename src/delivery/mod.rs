//! Hands calls to local services.

mod address;
mod backoff;
mod balance;
mod connector;
mod dial;
mod directory;
pub mod framed;
pub mod grpc;
mod health;
pub mod http1;
mod metrics;
mod outlier;
mod service;
mod settings;
mod shared;
mod slot;
mod waiting;

pub use address::{AddressError, EndpointAddress, HostPort, Protocol, Site};
pub use dial::Transports;
pub use directory::{Delivery, Parts};
pub use metrics::Metrics;
pub use settings::{HealthSettings, OutlierSettings, ServiceSettings, Services, Settings, SettingsError};
pub use shared::SharedDirectory;
