//! Errors made by relays, as gRPC and HTTP say them.
