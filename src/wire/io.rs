//! Byte streams of local sockets, and the buffers all of them on a thread share.
//!
//! # Invariants
//! - B1. An idle connection holds no buffer: it borrows the thread's for one read or write.

use std::cell::Cell;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected stream socket, pipe or anything like it.
pub trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Any [`Io`].
pub type BoxIo = Box<dyn Io>;

/// Bytes one read takes at most.
pub const READ_BYTES: usize = 64 * 1024;

/// Bytes one write has about, at most.
pub const WRITE_BYTES: usize = 256 * 1024;

thread_local! {
    static READ: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static WRITE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// The thread's read buffer of [`READ_BYTES`]; give it back with [`return_read_buffer`].
pub fn take_read_buffer() -> Box<[u8]> {
    READ.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice())
}

/// Gives the read buffer back.
pub fn return_read_buffer(buffer: Box<[u8]>) {
    READ.set(Some(buffer));
}

/// The thread's write buffer, empty; give it back with [`return_write_buffer`] when all of it is written.
pub fn take_write_buffer() -> BytesMut {
    WRITE.take().unwrap_or_else(|| BytesMut::with_capacity(READ_BYTES))
}

/// Gives the write buffer back.
pub fn return_write_buffer(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.capacity() <= 2 * WRITE_BYTES {
        WRITE.set(Some(buffer));
    }
}
