//! Operators talk to us, on a runtime of its own.

mod settings;

pub use settings::{Settings, SettingsError};
