//! Calls of etcd, at whichever member answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::{self, StreamExt};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::control::store::StoreError;
use crate::wire::etcd::{
    LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, LEASE_TIME_TO_LIVE, Lease, LeaseGrant, LeaseGranted, LeaseId, Message,
    Nothing, RANGE, Range, Ranged, TXN, Txn, Txned, WATCH, Watch, WatchCreate, Watched,
};

/// Calls of etcd. Each may be made again: transactions say themselves whether they were done.
#[derive(Clone)]
pub(super) struct Api {
    members: Arc<[Channel]>,
    /// Which of them is asked first.
    preferred: Arc<AtomicUsize>,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// No member answers in time. It may have been done.
    Away(String),
    /// etcd says no.
    Refused(Box<Status>),
}

impl Failure {
    /// Whether etcd says that there is no such lease.
    pub(super) fn is_no_lease(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::NotFound)
    }

    /// Whether etcd has forgotten, or does not have yet, what was at that revision.
    pub(super) fn is_revision_gone(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::OutOfRange)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away(text) => Self::Away(text),
            Failure::Refused(status) => match status.code() {
                Code::PermissionDenied | Code::Unauthenticated => Self::Denied(status.message().to_owned()),
                _ => Self::Broken(format!("etcd refuses: {}", status.message())),
            },
        }
    }
}

impl Api {
    /// For these members; at least one.
    pub(super) fn new(members: Vec<Channel>) -> Self {
        Self {
            members: members.into(),
            preferred: Arc::default(),
        }
    }

    pub(super) async fn range(&self, range: Range) -> Result<Ranged, Failure> {
        self.unary(RANGE, range).await
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<Txned, Failure> {
        self.unary(TXN, txn).await
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Result<i64, Failure> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let granted: LeaseGranted = self.unary(LEASE_GRANT, LeaseGrant { ttl }).await?;
        Ok(granted.id)
    }

    /// Ends a lease; that it had ended is well too.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Failure> {
        match self.unary::<_, Nothing>(LEASE_REVOKE, LeaseId { id }).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_no_lease() => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn lease(&self, id: i64) -> Result<Lease, Failure> {
        self.unary(LEASE_TIME_TO_LIVE, LeaseId { id }).await
    }

    /// Renews a lease; `false` if there is none.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<bool, Failure> {
        let renewed = |channel: Channel| async move {
            let mut answers = stream::<_, Lease>(channel, LEASE_KEEP_ALIVE, LeaseId { id }).await?;
            let answer = answers.message().await?;
            answer.ok_or_else(|| Status::unavailable("it ended the stream"))
        };
        Ok(self.somewhere(renewed).await?.ttl > 0)
    }

    /// Tells what changes from a revision on, at a member that has a leader.
    pub(super) async fn watch(&self, create: WatchCreate) -> Result<Streaming<Watched>, Failure> {
        let watch = Watch { create: Some(create) };
        self.somewhere(|channel: Channel| stream(channel, WATCH, watch.clone()))
            .await
    }

    async fn unary<Q, R>(&self, path: &'static str, question: Q) -> Result<R, Failure>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let ask = |channel: Channel| {
            let request = Request::new(question.clone());
            async move {
                let mut grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                grpc.ready().await.map_err(|error| unavailable(&error))?;
                let codec = ProstCodec::<Q, R>::default();
                let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await?;
                Ok(answer.into_inner())
            }
        };
        self.somewhere(ask).await
    }

    /// Asks one member after the other until one answers.
    async fn somewhere<T, F>(&self, ask: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let until = Instant::now() + LIMIT;
        loop {
            let at = self.preferred.load(Ordering::Relaxed);
            let members = self.members.len().max(1);
            let Some(channel) = self.members.get(at % members).cloned() else {
                return Err(Failure::Away("no member is configured".to_owned()));
            };
            let asked = timeout(ATTEMPT_LIMIT, ask(channel)).await;
            let status = match asked {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) if !is_elsewhere_better(&status) => return Err(Failure::Refused(Box::new(status))),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("no answer in time"),
            };
            // Unless somebody else went on to the next one already.
            let next = at.wrapping_add(1);
            let _ = self
                .preferred
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            if Instant::now() + PAUSE >= until {
                return Err(Failure::Away(format!(
                    "no member of etcd answers: {}",
                    status.message()
                )));
            }
            sleep(PAUSE).await;
        }
    }
}

/// Opens a stream that begins with one message, and keeps our side of it open.
async fn stream<Q, R>(channel: Channel, path: &'static str, first: Q) -> Result<Streaming<R>, Status>
where
    Q: Message + 'static,
    R: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    grpc.ready().await.map_err(|error| unavailable(&error))?;
    let mut request = Request::new(tokio_stream::once(first).chain(tokio_stream::pending()));
    // A member that has lost the others ends the stream instead of saying nothing.
    request
        .metadata_mut()
        .insert("hasleader", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static(path);
    let answers = grpc.streaming(request, path, ProstCodec::<Q, R>::default()).await?;
    Ok(answers.into_inner())
}

fn unavailable(error: &tonic::transport::Error) -> Status {
    Status::unavailable(crate::telemetry::Chain(error).to_string())
}

/// Whether another member, or the same one a little later, may do it.
fn is_elsewhere_better(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
    )
}

/// Of a call, with all of its attempts: elections take one to two seconds.
const LIMIT: Duration = Duration::from_secs(5);
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// A page of records.
const ANSWER_BYTES_MAX: usize = 64 << 20;
