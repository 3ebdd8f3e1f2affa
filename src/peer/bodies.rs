//! Large bodies between relays: one unidirectional stream per call and direction, bytes as they are.
//!
//! ```text
//! side u8 (0 request, 1 reply) | call id u64 | body bytes ... FIN
//! ```
//! QUIC's flow control and the budget of the receiver hold the sender: a chunk's credit is returned
//! once QUIC has taken it, and QUIC takes it only as fast as the other side reads (C-F4).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::link::{CODE_UNWANTED, Link};
use crate::model::{Ending, wants_credit};

/// Whose body a stream carries.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum BodySide {
    Request,
    Reply,
}

/// What a body sender is told.
#[derive(Debug)]
enum OutflowItem {
    /// With `credit` the one who sent it waits to hear that it was passed on.
    Chunk { chunk: Bytes, credit: bool },
    /// The body is whole; for a reply with its ending.
    End(Option<Ending>),
}

/// Chunks on their way into a stream. Bounded by the credit of the call.
pub(super) struct Outflow {
    items: RefCell<VecDeque<OutflowItem>>,
    notify: Notify,
    aborted: Notify,
}

impl Outflow {
    pub(super) fn new() -> Self {
        Self {
            items: RefCell::new(VecDeque::new()),
            notify: Notify::new(),
            aborted: Notify::new(),
        }
    }

    fn push(&self, item: OutflowItem) {
        self.items.borrow_mut().push_back(item);
        self.notify.notify_one();
    }

    /// Adds a chunk, if it has bytes, and the end, if it is there; a reply ends with its ending.
    pub(super) fn push_body(&self, chunk: Bytes, end: bool, ending: Option<Ending>) {
        if !chunk.is_empty() {
            let credit = wants_credit(chunk.len(), end);
            self.push(OutflowItem::Chunk { chunk, credit });
        }
        if end {
            self.push(OutflowItem::End(ending));
        }
    }

    /// Nobody wants the body any more. Ends the sender wherever it waits.
    pub(super) fn abort(&self) {
        self.aborted.notify_one();
    }

    async fn next(&self) -> OutflowItem {
        loop {
            let item = self.items.borrow_mut().pop_front();
            match item {
                Some(item) => return item,
                None => self.notify.notified().await,
            }
        }
    }
}

/// What a body receiver may still read before credit comes back.
pub(super) struct Inflow {
    budget: Cell<usize>,
    aborted: Cell<bool>,
    done: Cell<bool>,
    notify: Notify,
}

impl Inflow {
    pub(super) fn new() -> Self {
        Self {
            budget: Cell::new(BUDGET_BYTES),
            aborted: Cell::new(false),
            done: Cell::new(false),
            notify: Notify::new(),
        }
    }

    /// The bytes were passed on.
    pub(super) fn give(&self, bytes: usize) {
        self.budget
            .set(self.budget.get().saturating_add(bytes).min(BUDGET_BYTES));
        self.notify.notify_one();
    }

    pub(super) fn abort(&self) {
        self.aborted.set(true);
        self.notify.notify_one();
    }

    /// The stream has ended; the call waits for its trailers.
    pub(super) fn set_done(&self) {
        self.done.set(true);
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.get()
    }
}

/// Sends one body. Ends with it, with the link, or when the call is aborted.
pub(super) async fn send(link: Rc<Link>, side: BodySide, id: u64, flow: Rc<Outflow>) {
    let opened = tokio::select! {
        opened = link.bodies.open_uni() => opened.ok(),
        () = link.closed.cancelled() => None,
        () = flow.aborted.notified() => None,
    };
    let Some(mut stream) = opened else { return };
    // Lanes and their acknowledgements first: see the priorities of lanes.
    let _ = stream.set_priority(-1);
    let sent = tokio::select! {
        sent = send_items(&link, side, id, &flow, &mut stream) => sent,
        () = link.closed.cancelled() => None,
        () = flow.aborted.notified() => None,
    };
    match (sent, side) {
        (Some((Some(ending), total)), BodySide::Reply) => link.on_reply_sent(id, ending, total),
        (Some(_), _) => {}
        (None, _) => drop(stream.reset(CODE_UNWANTED)),
    }
}

/// Writes chunks until the end; `None` if the body was given up.
async fn send_items(
    link: &Link,
    side: BodySide,
    id: u64,
    flow: &Outflow,
    stream: &mut quinn::SendStream,
) -> Option<(Option<Ending>, u64)> {
    let mut preface = BytesMut::with_capacity(PREFACE_BYTES);
    preface.extend_from_slice(&[u8::from(side == BodySide::Reply)]);
    preface.extend_from_slice(&id.to_be_bytes());
    stream.write_chunk(preface.freeze()).await.ok()?;
    let mut total = 0_u64;
    let mut wanted = true;
    loop {
        match flow.next().await {
            OutflowItem::Chunk { chunk, credit } => {
                let bytes = chunk.len();
                if wanted {
                    match stream.write_chunk(chunk).await {
                        Ok(()) => total = total.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)),
                        // The service has answered without reading all of the request, as gRPC allows:
                        // the rest is taken from the caller and forgotten.
                        Err(quinn::WriteError::Stopped(_)) if side == BodySide::Request => wanted = false,
                        Err(_) => return None,
                    }
                }
                if credit {
                    link.on_body_sent(side, id, bytes);
                }
            }
            OutflowItem::End(ending) => {
                let _ = stream.finish();
                return Some((ending, total));
            }
        }
    }
}

/// Receives one body and hands its bytes on within the budget.
pub(super) async fn receive(link: Rc<Link>, side: BodySide, id: u64, mut stream: quinn::RecvStream, flow: Rc<Inflow>) {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        while flow.budget.get() == 0 && !flow.aborted.get() {
            flow.notify.notified().await;
        }
        if flow.aborted.get() {
            let _ = stream.stop(CODE_UNWANTED);
            return;
        }
        let read = tokio::select! {
            read = stream.read_chunks(&mut chunks) => read,
            () = flow.notify.notified() => continue,
            () = link.closed.cancelled() => return,
        };
        match read {
            Ok(Some(count)) => {
                let body = join(&mut chunks, count);
                flow.budget.set(flow.budget.get().saturating_sub(body.len()));
                link.on_body_bytes(side, id, body);
            }
            Ok(None) => return link.on_body_end(side, id),
            Err(_) => return link.on_body_broken(side, id),
        }
    }
}

/// Reads the preface of a body stream that the peer has opened.
pub(super) async fn read_preface(stream: &mut quinn::RecvStream) -> Option<(BodySide, u64)> {
    let mut preface = [0; PREFACE_BYTES];
    stream.read_exact(&mut preface).await.ok()?;
    let [side, id @ ..] = preface;
    let side = match side {
        0 => BodySide::Request,
        1 => BodySide::Reply,
        _ => return None,
    };
    Some((side, u64::from_be_bytes(id)))
}

/// Reads the first byte of a stream that the peer has opened.
pub(super) async fn read_byte(stream: &mut quinn::RecvStream) -> Option<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte).await.ok()?;
    let [byte] = byte;
    Some(byte)
}

/// Packets carry some 1.4 kB each; handing them on one by one would cost more than this copy.
fn join(chunks: &mut [Bytes], count: usize) -> Bytes {
    let chunks = chunks.get_mut(..count).unwrap_or_default();
    if let [one] = chunks {
        return std::mem::take(one);
    }
    let mut body = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        body.extend_from_slice(chunk);
        *chunk = Bytes::new();
    }
    body.freeze()
}

const PREFACE_BYTES: usize = 9;
/// Body bytes a receiver hands on before it waits for credit.
const BUDGET_BYTES: usize = 256 * 1024;
/// Packets joined into one chunk at most: 64 kB.
const CHUNKS: usize = 48;
