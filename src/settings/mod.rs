//! Root of all settings; the only place that reads configuration.
