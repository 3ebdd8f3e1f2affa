//! This relay's place in the trace of a call (C-O3). Pure.

use crate::model::{Metadata, MetadataBuilder};
use crate::wire::trace::{TRACEPARENT, TraceContext};

/// This relay's span of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct CallSpan {
    /// What is sent on: the trace, and this relay's span as the one that makes the call.
    pub(super) context: TraceContext,
    /// Id of the span that called this relay.
    pub(super) parent_id: u64,
}

impl CallSpan {
    /// A span below the one that `metadata` names, and the metadata to send on. `None` if the call is not
    /// part of a trace that is recorded; then the metadata passes as it is.
    pub(super) fn below(metadata: &Metadata, random: impl FnOnce() -> u64) -> Option<(Self, Metadata)> {
        let mut named = metadata.iter().filter(|(name, _)| is_traceparent(name));
        let (_, value) = named.next()?;
        let parent = TraceContext::parse(value).filter(TraceContext::is_sampled)?;
        // Two parents are none, says the specification.
        if named.next().is_some() {
            return None;
        }
        let span = Self {
            context: parent.child(random()),
            parent_id: parent.span_id,
        };
        let block = replace(metadata, &span.context.to_string())?;
        Some((span, block))
    }
}

fn replace(metadata: &Metadata, traceparent: &str) -> Option<Metadata> {
    let mut fields = MetadataBuilder::new();
    for (name, value) in metadata.iter() {
        let value = if is_traceparent(name) {
            traceparent.as_bytes()
        } else {
            value
        };
        fields.push(name, value).ok()?;
    }
    Some(fields.build())
}

fn is_traceparent(name: &[u8]) -> bool {
    name == TRACEPARENT.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn block(fields: &[(&str, &[u8])]) -> Metadata {
        let mut builder = MetadataBuilder::new();
        for (name, value) in fields {
            builder.push(name.as_bytes(), value).unwrap();
        }
        builder.build()
    }

    // C-O3
    #[test]
    fn a_recorded_trace_goes_on_below_the_callers_span() {
        let metadata = block(&[("a", b"1"), ("traceparent", TRACE), ("a", b"2")]);
        let (span, sent) = CallSpan::below(&metadata, || 0x1234).unwrap();
        assert_eq!(span.parent_id, 0xb7ad_6b71_6920_3331);
        let child = b"00-0af7651916cd43dd8448eb211c80319c-0000000000001234-01";
        assert_eq!(sent, block(&[("a", b"1"), ("traceparent", child), ("a", b"2")]));
    }

    // C-O3
    #[test]
    fn what_is_not_recorded_or_not_a_trace_passes_as_it_is() {
        let check = |fields: &[(&str, &[u8])]| assert_eq!(CallSpan::below(&block(fields), || 1), None);
        check(&[]);
        check(&[("tracestate", b"x=1")]);
        check(&[("traceparent", b"nonsense")]);
        let not_sampled = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        check(&[("traceparent", not_sampled)]);
        check(&[("traceparent", TRACE), ("traceparent", TRACE)]);
    }
}
