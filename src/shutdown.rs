//! Orderly end of the process: drain, then force, with one grace period.
