//! Process-wide plumbing: logging, metrics registry, error chains.
