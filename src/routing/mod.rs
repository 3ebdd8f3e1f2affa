//! Which unit owns a key.
