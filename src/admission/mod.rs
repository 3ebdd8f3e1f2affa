//! May a call pass, and how fast.
