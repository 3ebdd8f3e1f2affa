//! The `traceparent` field of W3C Trace Context, version 00.
//!
//! ```text
//! traceparent = "00-" trace-id (32 hex) "-" parent-id (16 hex) "-" flags (2 hex)
//! ```

use std::fmt;

/// Name of the field.
pub const TRACEPARENT: &str = "traceparent";

/// Where a call stands in a trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// Id of the whole trace; never 0.
    pub trace_id: u128,
    /// Id of the span that made the call; never 0.
    pub span_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceContext {
    /// Reads the value of a `traceparent` field. `None` if it is not valid; the field must then be
    /// passed on as it is, because the trace is not ours to break.
    ///
    /// Higher versions are read as far as version 00 goes, as the specification asks.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (fields, rest) = value.split_at_checked(55)?;
        let [version, trace_id, span_id, flags] = split_fields(fields)?;
        let version = hex(version)?;
        let rest_ok = rest.is_empty() || (version > 0 && rest.first() == Some(&b'-'));
        if version == 0xff || !rest_ok {
            return None;
        }
        let context = Self {
            trace_id: hex(trace_id)?,
            span_id: u64::try_from(hex(span_id)?).ok()?,
            flags: u8::try_from(hex(flags)?).ok()?,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// Whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The context to send on: same trace, a new span with an id made of `random`.
    #[must_use]
    pub fn child(&self, random: u64) -> Self {
        // Flags other than "sampled" are not defined in version 00 and must not be passed on.
        Self {
            trace_id: self.trace_id,
            span_id: random.max(1),
            flags: self.flags & 1,
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

fn split_fields(fields: &[u8]) -> Option<[&[u8]; 4]> {
    let mut parts = fields.split(|byte| *byte == b'-');
    let found = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let [version, trace_id, span_id, flags] = found.map(<[u8]>::len);
    (parts.next().is_none() && (version, trace_id, span_id, flags) == (2, 32, 16, 2)).then_some(found)
}

/// Lower-case hex digits only, as the specification demands.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_continues_with_a_new_span() {
        // C-O3
        let context = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert_eq!(context.to_string(), VALID);
        assert!(context.is_sampled());
        let child = context.child(0x1234);
        assert_eq!(
            child.to_string(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000001234-01"
        );
        assert_ne!(context.child(0).span_id, 0);
    }

    #[test]
    fn what_is_not_a_trace_context_is_left_alone() {
        let check = |value: &str, ok: bool| assert_eq!(TraceContext::parse(value.as_bytes()).is_some(), ok, "{value}");
        check(VALID, true);
        check("", false);
        check(&VALID[1..], false);
        check(&VALID.to_uppercase(), false);
        check(&VALID.replace('-', "_"), false);
        check(&format!("{VALID}-00"), false);
        check(&VALID.replacen("00", "cc", 1), true);
        check(&format!("{}-more", VALID.replacen("00", "cc", 1)), true);
        check(&VALID.replacen("00", "ff", 1), false);
        check("00-00000000000000000000000000000000-b7ad6b7169203331-01", false);
        check("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false);
        check("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-011", false);
    }
}
