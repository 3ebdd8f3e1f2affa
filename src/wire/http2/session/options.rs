//! Options of the library: how windows are handled, and its own limits against floods.

use std::ptr;

use libnghttp2_sys as ffi;

use super::SessionError;
use crate::wire::http2::Limits;

/// What the library is told to allow.
pub(super) struct Options(pub(super) *mut ffi::nghttp2_option);

impl Options {
    pub(super) fn new(limits: &Limits) -> Result<Self, SessionError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the library allocates; freed in `drop`.
        unsafe {
            if ffi::nghttp2_option_new(&raw mut raw) != 0 {
                return Err(SessionError::Memory);
            }
            ffi::nghttp2_option_set_no_auto_window_update(raw, 1);
            ffi::nghttp2_option_set_no_closed_streams(raw, 1);
            // `resets` counts better: it knows how old a stream is.
            ffi::nghttp2_option_set_stream_reset_rate_limit(raw, u64::MAX, u64::MAX);
            ffi::nghttp2_option_set_glitch_rate_limit(raw, limits.glitches.0, limits.glitches.1);
            ffi::nghttp2_option_set_max_continuations(raw, limits.continuations_max);
            ffi::nghttp2_option_set_max_settings(raw, limits.settings_max);
            ffi::nghttp2_option_set_max_outbound_ack(raw, limits.acks_max);
        }
        Ok(Self(raw))
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by `nghttp2_option_new`, freed once.
        unsafe { ffi::nghttp2_option_del(self.0) };
    }
}
