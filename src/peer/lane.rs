//! The two tasks of a lane: one writes everything that is ready in one go, one reads and hands on.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::time::Instant;

use super::link::{LaneItem, Link};
use crate::wire::frame::{self, Decoder, Encoder, FrameError};

/// Why a lane, and with it the link, ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum LaneError {
    /// The peer closed the lane.
    #[error("the peer closed a lane")]
    Closed,
    /// The peer sent bytes that are not frames.
    #[error("the peer sent a bad frame")]
    Frame(#[from] FrameError),
    /// The connection broke.
    #[error("the connection broke")]
    Read(#[from] quinn::ReadError),
    /// The connection broke.
    #[error("the connection broke")]
    Write(#[from] quinn::WriteError),
}

/// Encodes what waits for the lane and writes it, as much as is ready at once. Ends with the link.
pub(super) async fn write(link: Rc<Link>, index: usize, mut stream: quinn::SendStream) -> Result<(), LaneError> {
    let mut encoder = Encoder::new();
    let mut out = BytesMut::with_capacity(WRITE_BYTES);
    let Some(lane) = link.lanes.get(index) else {
        return Ok(());
    };
    loop {
        tokio::select! {
            biased;
            () = link.closed.cancelled() => return Ok(()),
            () = lane.some() => {}
        }
        let now = Instant::now().into_std();
        while let Some(item) = lane.pop() {
            encode(&link, &mut encoder, &mut out, item, now);
            if out.len() >= WRITE_BYTES {
                break;
            }
        }
        link.metrics.on_lane_write();
        let bytes = out.split().freeze();
        stream.write_chunk(bytes).await?;
        // Room for the next batch is taken before it is needed, from the same block where possible.
        out.reserve(WRITE_BYTES / 4);
    }
}

fn encode(link: &Link, encoder: &mut Encoder, out: &mut BytesMut, item: LaneItem, now: std::time::Instant) {
    match item {
        LaneItem::Request { id, request, large } => {
            encoder.request(out, id, &request, large, now);
            let bytes = if large { 0 } else { request.body.chunk.len() };
            link.on_written(id, bytes, request.body.end);
        }
        LaneItem::RequestBody { id, body, large } => {
            frame::put_request_body(out, id, &body.chunk, body.end, large);
            link.on_written(id, body.chunk.len(), body.end);
        }
        LaneItem::Cancel { id, reason } => frame::put_cancel(out, id, reason),
        LaneItem::Reply {
            id,
            part,
            large,
            large_bytes,
        } => frame::put_reply(out, id, &part, large, large_bytes),
        LaneItem::Failed { id, error } => frame::put_failed(out, id, &error),
    }
}

/// Reads frames and hands them to the link until the lane ends.
pub(super) async fn read(
    link: Rc<Link>,
    index: usize,
    mut stream: quinn::RecvStream,
    mut decoder: Decoder,
) -> Result<(), LaneError> {
    let mut chunks: [bytes::Bytes; CHUNKS] = std::array::from_fn(|_| bytes::Bytes::new());
    loop {
        let now = Instant::now().into_std();
        while let Some(frame) = decoder.next(now)? {
            link.on_frame(index, frame);
        }
        let count = stream.read_chunks(&mut chunks).await?.ok_or(LaneError::Closed)?;
        for chunk in chunks.iter_mut().take(count) {
            decoder.feed(chunk);
            *chunk = bytes::Bytes::new();
        }
    }
}

/// Bytes encoded before a write starts.
const WRITE_BYTES: usize = 128 * 1024;
/// Packets taken from a lane at once.
const CHUNKS: usize = 64;
