//! What the relay's own services have in common that tell of changes for as long as somebody listens.
//!
//! # Invariants
//! - A4. Who follows is ended when the relay drains: none holds up the drain (C-L1).
//! - A5. Services of other units are sent to relays of their own.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::MetadataMap;

use crate::model::UnitId;

/// Something that changes.
pub(super) trait Followed: Send + Unpin + 'static {
    /// What is said of a change.
    type Update: Send + 'static;

    /// Waits for what has not been told yet.
    fn next(&mut self) -> impl Future<Output = Self::Update> + Send;
}

/// What one that follows is told; the next update is on its way. It is made when the client has taken the one before.
pub(super) struct Updates<F: Followed>(Option<Next<F>>);

type Next<F> = Pin<Box<dyn Future<Output = Result<Step<F>, Status>> + Send>>;
type Step<F> = (<F as Followed>::Update, F, CancellationToken);

impl<F: Followed> Updates<F> {
    /// Until `drain`.
    pub(super) fn of(followed: F, drain: CancellationToken) -> Self {
        Self(Some(next(followed, drain)))
    }
}

impl<F: Followed> Stream for Updates<F> {
    type Item = Result<F::Update, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(told) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let told = ready!(told.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(Some(told.map(|(update, followed, drain)| {
            self.0 = Some(next(followed, drain));
            update
        })))
    }
}

fn next<F: Followed>(mut followed: F, drain: CancellationToken) -> Next<F> {
    Box::pin(async move {
        let update = tokio::select! {
            update = followed.next() => update,
            () = drain.cancelled() => {
                return Err(Status::unavailable("this relay is shutting down; watch at another relay of the unit"));
            }
        };
        Ok((update, followed, drain))
    })
}

/// A5.
pub(super) fn own_service(unit: &UnitId, metadata: &MetadataMap) -> Result<(), Status> {
    let source = metadata.get("strait-source-unit");
    if source.is_none_or(|source| source.as_bytes() == unit.as_str().as_bytes()) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "unit {unit} answers its own services; ask a relay of your unit"
    )))
}
