//! Translation between gRPC framing and the framed protocol's bare messages.
