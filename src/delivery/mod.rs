//! Hands calls to local services.
