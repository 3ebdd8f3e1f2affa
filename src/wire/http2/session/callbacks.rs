//! What libnghttp2 calls: each function turns C arguments into safe ones and asks `state`.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use libnghttp2_sys as ffi;

use super::SessionError;
use crate::model::Metadata;
use crate::wire::http2::Event;
use crate::wire::http2::outgoing::{Supply, Windows};
use crate::wire::http2::state::State;

/// The table of callbacks.
pub(super) struct Callbacks(pub(super) *mut ffi::nghttp2_session_callbacks);

impl Callbacks {
    pub(super) fn new() -> Result<Self, SessionError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the library allocates; freed in `drop`. The functions have the types it declares.
        unsafe {
            if ffi::nghttp2_session_callbacks_new(&raw mut raw) != 0 {
                return Err(SessionError::Memory);
            }
            ffi::nghttp2_session_callbacks_set_on_begin_headers_callback(raw, Some(on_begin_headers));
            ffi::nghttp2_session_callbacks_set_on_header_callback(raw, Some(on_header));
            ffi::nghttp2_session_callbacks_set_on_invalid_header_callback(raw, Some(on_invalid_header));
            ffi::nghttp2_session_callbacks_set_on_data_chunk_recv_callback(raw, Some(on_data));
            ffi::nghttp2_session_callbacks_set_on_frame_recv_callback(raw, Some(on_frame));
            ffi::nghttp2_session_callbacks_set_on_stream_close_callback(raw, Some(on_stream_close));
            ffi::nghttp2_session_callbacks_set_send_data_callback(raw, Some(send_data));
        }
        Ok(Self(raw))
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        // SAFETY: made by `nghttp2_session_callbacks_new`, freed once.
        unsafe { ffi::nghttp2_session_callbacks_del(self.0) };
    }
}

/// Runs a callback on the state of its session (U2, U6).
fn with_state(user_data: *mut c_void, work: impl FnOnce(&mut State) -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: U2: the pointer was given at creation; nobody else holds a reference during a callback.
        let state = unsafe { &mut *user_data.cast::<State>() };
        work(state)
    }))
    .unwrap_or(ffi::NGHTTP2_ERR_CALLBACK_FAILURE)
}

/// The index stored for a stream (U5).
fn index_of(session: *mut ffi::nghttp2_session, id: i32) -> Option<usize> {
    // SAFETY: U1: the library passes its own session.
    let stored = unsafe { ffi::nghttp2_session_get_stream_user_data(session, id) };
    stored.addr().checked_sub(1)
}

extern "C" fn on_begin_headers(
    session: *mut ffi::nghttp2_session,
    frame: *const ffi::nghttp2_frame,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: U3; `hd` is common to all frames.
    let head = unsafe { (*frame).hd };
    if u32::from(head.type_) != ffi::NGHTTP2_HEADERS {
        // A push, which is switched off.
        return ffi::NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    let id = head.stream_id;
    // SAFETY: U3; this is a HEADERS frame.
    let cat = unsafe { (*frame).headers.cat };
    with_state(user_data, |state| {
        let index = if cat == ffi::NGHTTP2_HCAT_REQUEST {
            let index = state.on_opened(id.unsigned_abs());
            // SAFETY: U1, U5.
            unsafe { ffi::nghttp2_session_set_stream_user_data(session, id, as_user_data(index)) };
            index
        } else {
            match index_of(session, id) {
                Some(index) => index,
                None => return ffi::NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE,
            }
        };
        state.block.begin(index);
        0
    })
}

extern "C" fn on_header(
    _session: *mut ffi::nghttp2_session,
    _frame: *const ffi::nghttp2_frame,
    name: *const u8,
    name_len: usize,
    value: *const u8,
    value_len: usize,
    _flags: u8,
    user_data: *mut c_void,
) -> c_int {
    with_state(user_data, |state| {
        // SAFETY: U3; the library NUL-terminates both, so neither is null even when empty.
        let (name, value) = unsafe {
            (
                std::slice::from_raw_parts(name, name_len),
                std::slice::from_raw_parts(value, value_len),
            )
        };
        let State { block, limits, .. } = state;
        block.push(name, value, limits);
        0
    })
}

/// A field with a character that is not allowed. Without this the library would leave it out and go on; a request
/// with such a field is malformed as a whole (RFC 9113, 8.1.1), so its stream is reset. For other malformed blocks
/// the library ends the connection without asking anyone (`inflate_header_block` and what follows it, 1.68.1).
extern "C" fn on_invalid_header(
    _session: *mut ffi::nghttp2_session,
    _frame: *const ffi::nghttp2_frame,
    _name: *const u8,
    _name_len: usize,
    _value: *const u8,
    _value_len: usize,
    _flags: u8,
    _user_data: *mut c_void,
) -> c_int {
    ffi::NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
}

extern "C" fn on_data(
    session: *mut ffi::nghttp2_session,
    _flags: u8,
    id: i32,
    bytes: *const u8,
    len: usize,
    user_data: *mut c_void,
) -> c_int {
    if len == 0 || bytes.is_null() {
        return 0;
    }
    let index = index_of(session, id);
    with_state(user_data, |state| {
        // SAFETY: U3.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, len) };
        // Without a stream the bytes still count for the connection's window.
        state.on_data(index.unwrap_or(usize::MAX), bytes);
        0
    })
}

extern "C" fn on_frame(
    session: *mut ffi::nghttp2_session,
    frame: *const ffi::nghttp2_frame,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: U3; `hd` is common to all frames.
    let head = unsafe { (*frame).hd };
    let flags = u32::from(head.flags);
    let ends = flags & ffi::NGHTTP2_FLAG_END_STREAM != 0;
    match u32::from(head.type_) {
        ffi::NGHTTP2_HEADERS => {
            let Some(index) = index_of(session, head.stream_id) else {
                return 0;
            };
            with_state(user_data, |state| {
                state.on_block(index);
                if ends {
                    state.on_end(index);
                }
                0
            })
        }
        ffi::NGHTTP2_DATA if ends => {
            let Some(index) = index_of(session, head.stream_id) else {
                return 0;
            };
            with_state(user_data, |state| {
                state.on_end(index);
                0
            })
        }
        ffi::NGHTTP2_DATA if head.length > 0 => 0,
        ffi::NGHTTP2_DATA | ffi::NGHTTP2_PRIORITY | ffi::NGHTTP2_PRIORITY_UPDATE => with_state(user_data, |state| {
            state.on_idle_frame();
            0
        }),
        ffi::NGHTTP2_SETTINGS => with_state(user_data, |state| {
            if flags & ffi::NGHTTP2_FLAG_ACK == 0 {
                state.on_idle_frame();
                // The windows of streams may have grown with it.
                state.room.has_changed = true;
                state.push_event(Event::Settings);
            }
            0
        }),
        ffi::NGHTTP2_PING if flags & ffi::NGHTTP2_FLAG_ACK != 0 => with_state(user_data, |state| {
            state.push_event(Event::Pong);
            0
        }),
        ffi::NGHTTP2_WINDOW_UPDATE => {
            // SAFETY: U1: the library passes its own session.
            let room = unsafe { ffi::nghttp2_session_get_remote_window_size(session) };
            with_state(user_data, |state| {
                state.room.on_grown(usize::try_from(room).unwrap_or(0));
                0
            })
        }
        ffi::NGHTTP2_GOAWAY => {
            // SAFETY: U3; this is a GOAWAY frame.
            let goaway = unsafe { (*frame).goaway };
            with_state(user_data, |state| {
                state.push_event(Event::Goaway {
                    last: goaway.last_stream_id.unsigned_abs(),
                    code: goaway.error_code,
                });
                0
            })
        }
        _ => 0,
    }
}

extern "C" fn on_stream_close(
    session: *mut ffi::nghttp2_session,
    id: i32,
    error_code: u32,
    user_data: *mut c_void,
) -> c_int {
    let Some(index) = index_of(session, id) else { return 0 };
    with_state(user_data, |state| {
        state.on_closed(index, error_code);
        0
    })
}

/// Says how much data of a stream can go; the bytes themselves are written by `send_data`.
extern "C" fn read_data(
    session: *mut ffi::nghttp2_session,
    id: i32,
    _buffer: *mut u8,
    max: usize,
    data_flags: *mut u32,
    source: *mut ffi::nghttp2_data_source,
    user_data: *mut c_void,
) -> ffi::nghttp2_ssize {
    // SAFETY: U3; `provider` has set `fd`.
    let index = unsafe { (*source).fd } as usize;
    let mut supply = Supply::Deferred;
    let mut trailers = None;
    let result = with_state(user_data, |state| {
        supply = state.supply(index, max, || windows(session, id));
        if matches!(supply, Supply::Data { end: true, .. }) {
            trailers = state.take_trailers(index);
        }
        0
    });
    match supply {
        _ if result != 0 => result as ffi::nghttp2_ssize,
        Supply::Deferred => ffi::NGHTTP2_ERR_DEFERRED as ffi::nghttp2_ssize,
        Supply::Data { len, end } => {
            let mut flags = if len > 0 { ffi::NGHTTP2_DATA_FLAG_NO_COPY } else { 0 };
            if end {
                flags |= ffi::NGHTTP2_DATA_FLAG_EOF;
            }
            if let Some(trailers) = trailers {
                flags |= ffi::NGHTTP2_DATA_FLAG_NO_END_STREAM;
                submit_trailers(session, id, &trailers);
            }
            // SAFETY: U3.
            unsafe { *data_flags = flags };
            isize::try_from(len).unwrap_or(0)
        }
    }
}

/// What the peer lets this side send on a stream now.
pub(super) fn windows(session: *mut ffi::nghttp2_session, id: i32) -> Windows {
    // SAFETY: U1: the library passes its own session.
    let (connection, stream, stream_max) = unsafe {
        (
            ffi::nghttp2_session_get_remote_window_size(session),
            ffi::nghttp2_session_get_stream_remote_window_size(session, id),
            ffi::nghttp2_session_get_remote_settings(session, ffi::NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE),
        )
    };
    Windows {
        connection: usize::try_from(connection).unwrap_or(0),
        stream: usize::try_from(stream).unwrap_or(0),
        stream_max: usize::try_from(stream_max).unwrap_or(usize::MAX),
    }
}

fn submit_trailers(session: *mut ffi::nghttp2_session, id: i32, trailers: &Metadata) {
    let mut few = [EMPTY_FIELD; 16];
    let mut many = Vec::new();
    let mut count = 0;
    for (name, value) in trailers.iter() {
        let field = ffi::nghttp2_nv {
            name: name.as_ptr().cast_mut(),
            value: value.as_ptr().cast_mut(),
            namelen: name.len(),
            valuelen: value.len(),
            flags: 0,
        };
        if let Some(place) = few.get_mut(count) {
            *place = field;
        } else {
            if many.is_empty() {
                many.extend_from_slice(&few);
            }
            many.push(field);
        }
        count += 1;
    }
    let list = if many.is_empty() {
        few.get(..count).unwrap_or_default()
    } else {
        &many
    };
    // SAFETY: U1, U4. If the stream is gone this does nothing.
    unsafe { ffi::nghttp2_submit_trailer(session, id, list.as_ptr(), list.len()) };
}

extern "C" fn send_data(
    _session: *mut ffi::nghttp2_session,
    _frame: *mut ffi::nghttp2_frame,
    frame_head: *const u8,
    len: usize,
    source: *mut ffi::nghttp2_data_source,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: U3; `provider` has set `fd`, a frame head has nine bytes.
    let (index, frame_head) = unsafe { ((*source).fd as usize, std::slice::from_raw_parts(frame_head, 9)) };
    with_state(user_data, |state| {
        if state.put_data(index, frame_head, len) {
            0
        } else {
            ffi::NGHTTP2_ERR_CALLBACK_FAILURE
        }
    })
}

pub(super) fn provider(index: usize) -> ffi::nghttp2_data_provider2 {
    ffi::nghttp2_data_provider2 {
        source: ffi::nghttp2_data_source {
            fd: c_int::try_from(index).unwrap_or(c_int::MAX),
        },
        read_callback: Some(read_data),
    }
}

pub(super) fn as_user_data(index: usize) -> *mut c_void {
    ptr::without_provenance_mut(index + 1)
}

const EMPTY_FIELD: ffi::nghttp2_nv = ffi::nghttp2_nv {
    name: ptr::null_mut(),
    value: ptr::null_mut(),
    namelen: 0,
    valuelen: 0,
    flags: 0,
};
