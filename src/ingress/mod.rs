//! Local services talk to us.
