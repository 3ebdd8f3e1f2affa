//! Events of a batch while it is read: places in the batch's memory, cut out when the batch is whole.

use std::ops::Range;

use bytes::Bytes;

use super::{Event, Head, Part, StreamRef};
use crate::model::Metadata;

#[derive(Debug)]
pub(super) enum RawEvent {
    Dead,
    Other(Event),
    Part(RawPart),
}

#[derive(Debug)]
pub(super) struct RawPart {
    pub(super) stream: StreamRef,
    pub(super) token: u64,
    pub(super) head: Option<RawHead>,
    pub(super) chunk: Range<usize>,
    pub(super) trailers: Option<Range<usize>>,
    pub(super) is_cut: bool,
    pub(super) end: bool,
}

#[derive(Debug)]
pub(super) struct RawHead {
    pub(super) path: Range<usize>,
    pub(super) authority: Range<usize>,
    pub(super) fields: Range<usize>,
    pub(super) apart: Range<usize>,
    pub(super) status: u16,
    pub(super) is_post: bool,
    pub(super) is_too_large: bool,
}

impl RawPart {
    /// The part with its own handles on the batch's memory.
    pub(super) fn cut(self, batch: &Bytes) -> Part {
        let cut = |range: Range<usize>| {
            if range.end <= batch.len() {
                batch.slice(range)
            } else {
                Bytes::new()
            }
        };
        Part {
            stream: self.stream,
            token: self.token,
            head: self.head.map(|head| Head {
                path: cut(head.path),
                authority: cut(head.authority),
                fields: Metadata::from_checked(cut(head.fields)),
                apart: Metadata::from_checked(cut(head.apart)),
                status: head.status,
                is_post: head.is_post,
                is_too_large: head.is_too_large,
            }),
            chunk: cut(self.chunk),
            trailers: self.trailers.map(|range| Metadata::from_checked(cut(range))),
            is_cut: self.is_cut,
            end: self.end,
        }
    }
}
