//! A client for local services that speaks the framed protocol.
