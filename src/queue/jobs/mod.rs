//! Long work for operators, in slices, so that the queue goes on meanwhile.

pub(crate) mod filter;
