//! The one place that talks to libnghttp2.
//!
//! # Why the `unsafe` here is sound
//! - U1. `raw` comes from `nghttp2_session_*_new2`, is used by this type only and freed once, in `drop`.
//! - U2. `state` comes from `Box::into_raw`, lives as long as `raw` and is freed after it. No reference into
//!   it is held while a library function runs that may call back; callbacks make their own for one call.
//! - U3. Pointers the library passes to callbacks are valid for the call and are copied from, not kept.
//! - U4. Pointers passed to the library are valid for the call; the library copies what it keeps (no
//!   `NO_COPY` flags on fields).
//! - U5. Streams are found by the index that was stored as the stream's user pointer; it is a number, never
//!   dereferenced, and checked by `state`.
//! - U6. A panic is caught in the callback and becomes `NGHTTP2_ERR_CALLBACK_FAILURE`.
#![allow(unsafe_code, reason = "the FFI boundary; every use refers to U1-U6 above")]
#![allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "C enums and index-as-pointer conversions of the FFI boundary"
)]

mod callbacks;
mod options;

use std::ptr::{self, NonNull};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use libnghttp2_sys as ffi;

use self::callbacks::{Callbacks, as_user_data, provider};
use self::options::Options;
use super::state::State;
use super::{Event, Limits, Side, StreamRef, code};
use crate::model::Metadata;
use crate::wire::pace::LeastPace;

/// Why a session is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The library could not be set up.
    #[error("no memory for an HTTP/2 session")]
    Memory,
    /// The peer broke the protocol so that the connection cannot go on.
    #[error("the other side broke HTTP/2 (library error {0}); it does not speak cleartext HTTP/2 or is faulty")]
    Protocol(i32),
    /// The session takes no more streams.
    #[error("the HTTP/2 connection takes no more requests; open another one")]
    Spent,
}

/// The head of a request to send.
pub struct RequestHead<'a> {
    /// `:authority`.
    pub authority: &'a [u8],
    /// `:path`.
    pub path: &'a [u8],
    /// Fields passed on.
    pub fields: &'a Metadata,
    /// Fields that this relay adds; values that change with each call.
    pub added: &'a [(&'a [u8], &'a [u8])],
}

/// One HTTP/2 connection without its socket.
#[derive(Debug)]
pub struct Session {
    raw: NonNull<ffi::nghttp2_session>,
    state: NonNull<State>,
    fields: Vec<ffi::nghttp2_nv>,
}

impl Session {
    /// A session of one side; its settings are ready to be sent.
    ///
    /// # Errors
    /// [`SessionError::Memory`].
    pub fn new(side: Side, limits: Limits) -> Result<Self, SessionError> {
        let streams_max = limits.streams_max;
        let stream_window = limits.stream_window;
        let connection_window = limits.connection_window;
        let fields_bytes_max = limits.fields_bytes_max;
        let options = Options::new(&limits)?;
        let callbacks = Callbacks::new()?;
        let state = Box::into_raw(Box::new(State::new(side, limits)));
        let mut raw = ptr::null_mut();
        // SAFETY: U1, U2; the library copies options and callbacks.
        let result = unsafe {
            match side {
                Side::Client => ffi::nghttp2_session_client_new2(&raw mut raw, callbacks.0, state.cast(), options.0),
                Side::Server => ffi::nghttp2_session_server_new2(&raw mut raw, callbacks.0, state.cast(), options.0),
            }
        };
        let (Some(raw), Some(state), 0) = (NonNull::new(raw), NonNull::new(state), result) else {
            // SAFETY: U2; the library did not take it.
            drop(unsafe { Box::from_raw(state) });
            return Err(SessionError::Memory);
        };
        let mut session = Self {
            raw,
            state,
            fields: Vec::with_capacity(24),
        };
        let list_max = u32::try_from(fields_bytes_max).unwrap_or(u32::MAX);
        let entry = |id: u32, value: u32| ffi::nghttp2_settings_entry {
            settings_id: id.cast_signed(),
            value,
        };
        let mut settings = vec![
            entry(ffi::NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, streams_max),
            entry(ffi::NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, stream_window),
            entry(ffi::NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, list_max),
        ];
        if side == Side::Client {
            settings.push(entry(ffi::NGHTTP2_SETTINGS_ENABLE_PUSH, 0));
        }
        // SAFETY: U1, U4.
        let result = unsafe {
            ffi::nghttp2_submit_settings(session.raw(), 0, settings.as_ptr(), settings.len())
                | ffi::nghttp2_session_set_local_window_size(
                    session.raw(),
                    0,
                    0,
                    i32::try_from(connection_window).unwrap_or(i32::MAX),
                )
        };
        if result == 0 {
            Ok(session)
        } else {
            Err(SessionError::Memory)
        }
    }

    /// Takes the bytes of one read. Take all events after it.
    ///
    /// # Errors
    /// [`SessionError::Protocol`]: send what is left to send and close.
    pub fn recv(&mut self, bytes: &[u8], now: Instant) -> Result<(), SessionError> {
        self.state().begin_batch(bytes.len(), now);
        // SAFETY: U1, U3, U4.
        let taken = unsafe { ffi::nghttp2_session_mem_recv2(self.raw(), bytes.as_ptr(), bytes.len()) };
        if taken < 0 {
            return Err(SessionError::Protocol(i32::try_from(taken).unwrap_or(i32::MIN)));
        }
        // SAFETY: U1.
        let queued = unsafe { ffi::nghttp2_session_get_outbound_queue_size(self.raw()) };
        if self.state().is_flooded() || queued > QUEUED_FRAMES_MAX {
            // SAFETY: U1.
            unsafe { ffi::nghttp2_session_terminate_session(self.raw(), code::ENHANCE_YOUR_CALM) };
        }
        self.reset_answered();
        Ok(())
    }

    /// The next thing that happened.
    pub fn next_event(&mut self) -> Option<Event> {
        self.state().next_event()
    }

    /// Appends what is ready to be written, until `out` holds about `limit` bytes.
    ///
    /// # Errors
    /// [`SessionError::Protocol`] if the library cannot go on.
    pub fn send_into(&mut self, out: &mut BytesMut, limit: usize) -> Result<(), SessionError> {
        self.give_back_window();
        std::mem::swap(out, &mut self.state().out);
        let result = self.fill(limit);
        std::mem::swap(out, &mut self.state().out);
        result
    }

    fn fill(&mut self, limit: usize) -> Result<(), SessionError> {
        loop {
            for stream in self.state().begin_write() {
                self.resume(stream);
            }
            while self.state().out.len() < limit {
                let mut piece = ptr::null();
                // SAFETY: U1; `piece` is valid until the next call into the library.
                let len = unsafe { ffi::nghttp2_session_mem_send2(self.raw(), &raw mut piece) };
                if len < 0 {
                    return Err(SessionError::Protocol(i32::try_from(len).unwrap_or(i32::MIN)));
                }
                let len = usize::try_from(len).unwrap_or(0);
                if len == 0 || piece.is_null() {
                    break;
                }
                // SAFETY: U3; the library says that `len` bytes are there.
                let bytes = unsafe { std::slice::from_raw_parts(piece, len) };
                self.state().out.put_slice(bytes);
            }
            let resets = self.reset_answered();
            if (self.state().over_share.is_empty() && !resets) || self.state().out.len() >= limit {
                return Ok(());
            }
        }
    }

    /// Opens a stream with a request. Body and end follow with [`Session::body`] and [`Session::finish`].
    ///
    /// # Errors
    /// [`SessionError::Spent`] after a GOAWAY or when the stream numbers are used up.
    pub fn request(&mut self, token: u64, head: &RequestHead<'_>) -> Result<StreamRef, SessionError> {
        // SAFETY: U1.
        if unsafe { ffi::nghttp2_session_check_request_allowed(self.raw()) } == 0 {
            return Err(SessionError::Spent);
        }
        let index = self.state().allot(0, token);
        self.fields.clear();
        self.field(b":method", b"POST", 0);
        self.field(b":scheme", b"http", 0);
        self.field(b":path", head.path, 0);
        self.field(b":authority", head.authority, 0);
        for (name, value) in head.fields.iter() {
            self.field(name, value, 0);
        }
        for (name, value) in head.added {
            self.field(name, value, index_flag(name));
        }
        let provider = provider(index);
        // SAFETY: U1, U4, U5.
        let id = unsafe {
            ffi::nghttp2_submit_request2(
                self.raw(),
                ptr::null(),
                self.fields.as_ptr(),
                self.fields.len(),
                &raw const provider,
                as_user_data(index),
            )
        };
        self.fields.clear();
        let Ok(id) = u32::try_from(id) else {
            self.state().release(index);
            return Err(SessionError::Spent);
        };
        Ok(self.state().name(index, id))
    }

    /// Sends the head of a response; with `end` it is all of it. Ignored if the stream is gone.
    pub fn respond(&mut self, stream: StreamRef, status: u16, fields: &Metadata, end: bool) {
        if !self.state().is_live(stream) || !self.fits(stream, fields) {
            return;
        }
        let mut digits = [0_u8; 3];
        let mut rest = status.clamp(100, 999);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        self.fields.clear();
        self.field(b":status", &digits, 0);
        for (name, value) in fields.iter() {
            self.field(name, value, index_flag(name));
        }
        let provider = provider(stream.index as usize);
        let source = if end { ptr::null() } else { &raw const provider };
        // SAFETY: U1, U4.
        let result = unsafe {
            ffi::nghttp2_submit_response2(self.raw(), id(stream), self.fields.as_ptr(), self.fields.len(), source)
        };
        self.fields.clear();
        if result != 0 {
            self.reset(stream, code::INTERNAL_ERROR);
        } else if end {
            self.state().finish(stream, None);
        }
    }

    /// Adds body bytes; with `credit` an [`Event::Sent`] tells when they went out. Ignored if the stream is gone.
    pub fn body(&mut self, stream: StreamRef, bytes: Bytes, credit: bool) {
        if self.state().submit(stream, bytes, credit) {
            self.resume(stream);
        }
    }

    /// Ends this side of a stream, after the body that was added. Ignored if the stream is gone.
    pub fn finish(&mut self, stream: StreamRef, trailers: Option<Metadata>) {
        if !trailers.as_ref().is_none_or(|trailers| self.fits(stream, trailers)) {
            return;
        }
        if self.state().finish(stream, trailers) {
            self.resume(stream);
        }
    }

    /// Breaks a stream off; no more events of it. Ignored if the stream is gone.
    pub fn reset(&mut self, stream: StreamRef, code: u32) {
        if self.state().forget(stream) {
            // SAFETY: U1.
            unsafe { ffi::nghttp2_submit_rst_stream(self.raw(), 0, id(stream), code) };
        }
    }

    /// Received body bytes were passed on: the peer may send as many again.
    pub fn consume(&mut self, stream: StreamRef, bytes: usize) {
        if let Some(bytes) = self.state().on_consumed(stream, bytes) {
            // SAFETY: U1.
            unsafe { ffi::nghttp2_session_consume_stream(self.raw(), id(stream), bytes) };
        }
    }

    /// Asks the peer for a sign of life, [`Event::Pong`].
    pub fn ping(&mut self) {
        // SAFETY: U1; no payload.
        unsafe { ffi::nghttp2_submit_ping(self.raw(), 0, ptr::null()) };
    }

    /// First step of going away: the peer should open no more streams, but those it opens are served.
    pub fn announce_goaway(&mut self) {
        // SAFETY: U1.
        unsafe { ffi::nghttp2_submit_shutdown_notice(self.raw()) };
    }

    /// Second step of going away: streams opened from now on are not served, those that are open go on.
    pub fn goaway(&mut self, code: u32) {
        // SAFETY: U1; no payload.
        unsafe {
            let last = ffi::nghttp2_session_get_last_proc_stream_id(self.raw());
            ffi::nghttp2_submit_goaway(self.raw(), 0, last, code, ptr::null(), 0);
        }
    }

    /// Ends the session at once: a GOAWAY is sent, nothing else.
    pub fn terminate(&mut self, code: u32) {
        // SAFETY: U1.
        unsafe { ffi::nghttp2_session_terminate_session(self.raw(), code) };
    }

    /// Whether the session has nothing more to do: close the socket.
    pub fn is_over(&self) -> bool {
        // SAFETY: U1.
        unsafe {
            ffi::nghttp2_session_want_read(self.raw.as_ptr()) == 0
                && ffi::nghttp2_session_want_write(self.raw.as_ptr()) == 0
        }
    }

    /// Whether a client may open streams here.
    pub fn takes_requests(&self) -> bool {
        // SAFETY: U1.
        unsafe {
            ffi::nghttp2_session_check_request_allowed(self.raw.as_ptr()) != 0
                && ffi::nghttp2_session_get_next_stream_id(self.raw.as_ptr()) < STREAM_IDS_MAX
        }
    }

    /// How many streams the peer allows.
    pub fn peer_streams_max(&self) -> usize {
        // SAFETY: U1.
        let value = unsafe {
            ffi::nghttp2_session_get_remote_settings(self.raw.as_ptr(), ffi::NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
        };
        value as usize
    }

    /// Body bytes that wait to go out, over all streams.
    pub fn backlog(&mut self) -> usize {
        self.state().backlog
    }

    /// Streams whose bytes wait for a peer that gives room too slowly. Ask again and again.
    pub fn slow(&mut self, now: Instant, least: &LeastPace) -> Vec<StreamRef> {
        let raw = self.raw();
        let ahead = |id: u32| {
            let windows = callbacks::windows(raw, i32::try_from(id).unwrap_or(0));
            let ahead = windows.stream_max.saturating_sub(windows.stream);
            u64::try_from(ahead).unwrap_or(u64::MAX)
        };
        self.state().slow(now, least, ahead)
    }

    /// Body bytes that the peer may send on a stream now.
    pub fn own_room(&mut self, stream: StreamRef) -> usize {
        // SAFETY: U1.
        let (of_stream, of_connection) = unsafe {
            (
                ffi::nghttp2_session_get_stream_local_window_size(self.raw(), id(stream)),
                ffi::nghttp2_session_get_local_window_size(self.raw()),
            )
        };
        usize::try_from(of_stream.min(of_connection)).unwrap_or(0)
    }

    /// Body bytes that the peer takes now, over all streams.
    pub fn peer_room(&self) -> usize {
        // SAFETY: U1.
        let room = unsafe { ffi::nghttp2_session_get_remote_window_size(self.raw.as_ptr()) };
        usize::try_from(room).unwrap_or(0)
    }

    /// Open streams.
    pub fn open_streams(&mut self) -> usize {
        self.state().open
    }

    /// Received body bytes that were neither passed on nor given up.
    pub fn held_bytes(&mut self) -> usize {
        self.state().held
    }

    /// Whether a header block has begun and not ended.
    pub fn is_in_header_block(&mut self) -> bool {
        self.state().block.is_open
    }

    /// The library drops a block that is too large for it without a word; the stream would hang.
    fn fits(&mut self, stream: StreamRef, fields: &Metadata) -> bool {
        let fits = fields.as_bytes().len() <= SENT_BLOCK_BYTES_MAX;
        if !fits {
            self.reset(stream, code::INTERNAL_ERROR);
        }
        fits
    }

    fn give_back_window(&mut self) {
        let owed = self.state().take_owed();
        if owed > 0 {
            // SAFETY: U1.
            unsafe { ffi::nghttp2_session_consume_connection(self.raw(), owed) };
        }
    }

    fn resume(&mut self, stream: StreamRef) {
        // SAFETY: U1. An error means that the stream has no data to resume.
        unsafe { ffi::nghttp2_session_resume_data(self.raw(), id(stream)) };
    }

    /// Resets streams that are answered although the request has not ended, once the answer is out.
    fn reset_answered(&mut self) -> bool {
        if self.state().answered_early.is_empty() {
            return false;
        }
        let mut any = false;
        let mut streams = std::mem::take(&mut self.state().answered_early);
        // SAFETY: U1.
        let is_server = unsafe { ffi::nghttp2_session_check_server_session(self.raw()) } != 0;
        streams.retain(|stream| {
            if !self.state().is_live(*stream) {
                return false;
            }
            // SAFETY: U1.
            if is_server && unsafe { ffi::nghttp2_session_get_stream_local_close(self.raw(), id(*stream)) } != 1 {
                return true;
            }
            any = true;
            self.reset(*stream, code::NO_ERROR);
            false
        });
        self.state().answered_early.append(&mut streams);
        any
    }

    fn field(&mut self, name: &[u8], value: &[u8], flags: u8) {
        // The library does not write through these pointers.
        self.fields.push(ffi::nghttp2_nv {
            name: name.as_ptr().cast_mut(),
            value: value.as_ptr().cast_mut(),
            namelen: name.len(),
            valuelen: value.len(),
            flags,
        });
    }

    fn raw(&mut self) -> *mut ffi::nghttp2_session {
        self.raw.as_ptr()
    }

    fn state(&mut self) -> &mut State {
        // SAFETY: U2; callers drop the reference before they call the library.
        unsafe { self.state.as_mut() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: U1, U2; deleting a session may call `on_stream_close`, so the state goes last.
        unsafe {
            ffi::nghttp2_session_del(self.raw.as_ptr());
            drop(Box::from_raw(self.state.as_ptr()));
        }
    }
}

/// Values that are new in each call would only push others out of the compression table.
fn index_flag(name: &[u8]) -> u8 {
    match name {
        b"grpc-timeout" | b"strait-service-time-ms" => ffi::NGHTTP2_NV_FLAG_NO_INDEX as u8,
        _ => 0,
    }
}

fn id(stream: StreamRef) -> i32 {
    i32::try_from(stream.id).unwrap_or(0)
}

/// Largest header block that is sent. The library's own limit, 64 KiB, counts a little more per field.
const SENT_BLOCK_BYTES_MAX: usize = 48 * 1024;

/// Frames that may wait to be written beside data; only a peer that does not read gets there.
const QUEUED_FRAMES_MAX: usize = 20_000;

/// A client stops opening streams some way before the numbers end.
const STREAM_IDS_MAX: u32 = (1 << 31) - (1 << 16);
