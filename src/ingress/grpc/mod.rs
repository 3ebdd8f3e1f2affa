//! The transparent gRPC edge: any HTTP/2 call of a local service, whatever its messages are (C-G1).
//!
//! # Path
//! [`serve`] reads a batch, opens the calls in it at the callee (the outbound story), takes the replies
//! out of its mailbox and writes them in one write.
//!
//! # Invariants
//! - G1. Messages are never looked into; fields pass byte for byte but for those of this hop.
//! - G2. Every call that was opened is ended once: by its reply, or by a `Cancel` when the caller or its
//!   connection is gone.
//! - G3. What a client says about its own identity is dropped (C-E2).
//! - G4. The window of a stream grows only when the callee has passed the bytes on.
//! - G5. Where a token is asked for, no call without it is opened (O-S3).
//!
//! # Not here
//! Deadlines are enforced by the story; here they are only read.

mod connection;
mod metrics;
mod request;
mod settings;
mod slow;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;
pub use settings::Settings;

use crate::model::{Callee, Place, Source};
use crate::token::TokenFile;
use crate::wire::io::BoxIo;

/// What the connections of a listener share on one shard.
pub struct Context {
    /// Settings.
    pub settings: Settings,
    /// Metrics.
    pub metrics: Metrics,
    /// Where calls go.
    pub callee: Rc<dyn Callee>,
    /// Who this relay is, for errors made here.
    pub place: Place,
    /// Who calls: this unit, and the service where the listener knows it.
    pub source: Option<Source>,
    /// What calls have to name in `strait-local-token`, if anything.
    pub token: Option<Arc<TokenFile>>,
}

/// Serves one connection until it ends. When `drain` is cancelled the client is told in two steps, calls
/// that run are finished, then the connection is closed. Dropping the future cancels its calls.
pub async fn serve(io: BoxIo, context: Rc<Context>, drain: CancellationToken) {
    let mut connection = match connection::Connection::new(io, context) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, "cannot serve a gRPC connection");
            return;
        }
    };
    let mut drained = pin!(drain.cancelled());
    let end = poll_fn(|cx| connection.poll(cx, drained.as_mut())).await;
    connection.on_ended(&end);
}
