//! HTTP/2 sessions: bytes to header blocks and body chunks, and back.
