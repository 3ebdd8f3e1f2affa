//! Operators talk to us, on a runtime of its own.
