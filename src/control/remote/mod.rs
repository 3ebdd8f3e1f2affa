//! The store of another relay, over one byte stream to it.
//!
//! # Invariants
//! - W1. Every question has a time limit; what is not answered in it is [`StoreError::Away`], and may have been done.
//! - W2. One stream at a time; after failures it is opened again with growing pauses, and meanwhile nobody waits.
//!
//! # Not here
//! Opening the stream (`peer::line`), the other end (`authority`).

mod dial;

use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use self::dial::Connector;
use super::question::Question;
use super::store::{Answer, ClaimKey, ClaimsPage, Feed, Opened, Reading, RelayStanding, Reports, Store, StoreError};
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Batch, Change, Claim, Commit, Committed, FreezeAck, KeyBytes, RecordId, RelayId, Rev, SessionId, Snapshot,
};
use crate::wire::authority::{self as message, ASK, Piece, WATCH};

/// The store of another relay. Clones share the stream.
#[derive(Clone)]
pub struct Remote {
    channel: Channel,
    tasks: TaskTracker,
}

impl Remote {
    /// Over streams that `dial` opens, each when there is none and something is asked. Feeds are read on `tasks`, and end with
    /// their reader. Needs a tokio runtime, which must be the one that the streams are used on.
    pub fn new<D, F, T>(dial: D, tasks: TaskTracker) -> Self
    where
        D: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let endpoint = Endpoint::from_static("http://authority.strait")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        Self {
            channel: endpoint.connect_with_connector_lazy(Connector::new(dial)),
            tasks,
        }
    }

    fn ask<T: DeserializeOwned + Send>(&self, question: Question) -> Answer<'_, T> {
        Box::pin(async move { self.open_pieces(ASK, &question).await?.next().await? })
    }

    async fn open_pieces(&self, path: &'static str, question: &Question) -> Result<Pieces, StoreError> {
        let json = serde_json::to_vec(question).map_err(|error| StoreError::Broken(error.to_string()))?;
        let mut grpc = Grpc::new(self.channel.clone());
        let asked = async {
            grpc.ready().await.map_err(|error| away(&error))?;
            let request = Request::new(message::Question { json: json.into() });
            let codec = ProstCodec::<message::Question, Piece>::default();
            let answer = grpc
                .server_streaming(request, PathAndQuery::from_static(path), codec)
                .await;
            answer.map_err(|status| failed(&status))
        };
        let answer = timeout(LIMIT, asked).await.map_err(|_| slow())??;
        Ok(Pieces(answer.into_inner()))
    }

    async fn open_feed(&self, from: Rev) -> Result<Feed, StoreError> {
        let mut pieces = self.open_pieces(WATCH, &Question::Watch(from)).await?;
        let first: Batch = pieces.next().await??;
        let (sender, feed) = mpsc::channel(BATCHES_MAX);
        // Room for it there is.
        let _ = sender.try_send(Ok(first));
        self.tasks.spawn(async move { pieces.pump(&sender).await });
        Ok(feed)
    }

    /// A relay of an earlier version does not know this question.
    async fn open_reports(&self) -> Result<Reports, StoreError> {
        let mut pieces = self.open_pieces(WATCH, &Question::Reports).await?;
        pieces.next::<()>().await??;
        let (sender, reports) = mpsc::channel(1);
        self.tasks.spawn(pass(pieces, sender));
        Ok(reports)
    }
}

/// Says that something was reported, for as long as somebody listens; nothing may be for long.
async fn pass(mut pieces: Pieces, sender: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            piece = pieces.0.message() => match piece {
                Ok(Some(_)) => drop(sender.try_send(())),
                Ok(None) | Err(_) => return,
            },
        }
    }
}

/// Answers that come in pieces.
struct Pieces(Streaming<Piece>);

impl Pieces {
    /// The next answer; the outer error is of the stream.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Result<T, StoreError>, StoreError> {
        let mut json = Vec::new();
        loop {
            let piece = timeout(LIMIT, self.0.message()).await.map_err(|_| slow())?;
            let piece = piece.map_err(|status| failed(&status))?;
            let piece = piece.ok_or_else(|| StoreError::Away("the relay that has it ended the answer".to_owned()))?;
            json.extend_from_slice(&piece.json);
            if piece.last {
                let answer = serde_json::from_slice(&json);
                return answer.map_err(|error| StoreError::Broken(format!("its answer cannot be read: {error}")));
            }
        }
    }

    /// Ends with the reader: what comes next, be it only progress, finds that it is gone.
    async fn pump(&mut self, sender: &mpsc::Sender<Result<Batch, StoreError>>) {
        loop {
            let answer = self.next().await.and_then(|answer| answer);
            let ends = answer.is_err();
            if sender.send(answer).await.is_err() || ends {
                return;
            }
        }
    }
}

impl Store for Remote {
    fn snapshot(&self) -> Answer<'_, Snapshot> {
        self.ask(Question::Snapshot)
    }

    fn watch(&self, from: Rev) -> Answer<'_, Feed> {
        Box::pin(self.open_feed(from))
    }

    fn commit(&self, commit: Commit) -> Answer<'_, Committed> {
        self.ask(Question::Commit(Box::new(commit)))
    }

    fn read(&self, ids: Vec<RecordId>) -> Answer<'_, Reading> {
        self.ask(Question::Read(ids))
    }

    fn history(&self, id: RecordId, limit: usize) -> Answer<'_, Vec<Change>> {
        self.ask(Question::History { id, limit })
    }

    fn claim(&self, claims: Vec<Claim>) -> Answer<'_, Vec<Claim>> {
        self.ask(Question::Claim(claims))
    }

    fn claims(&self, keys: Vec<(Name, KeyBytes)>) -> Answer<'_, (Rev, Vec<Option<Claim>>)> {
        self.ask(Question::Claims(keys))
    }

    fn claims_of(&self, unit: UnitId, after: Option<ClaimKey>) -> Answer<'_, ClaimsPage> {
        self.ask(Question::ClaimsOf { unit, after })
    }

    fn open(&self, relay: RelayId) -> Answer<'_, Opened> {
        self.ask(Question::Open(relay))
    }

    fn renew(&self, session: SessionId) -> Answer<'_, ()> {
        self.ask(Question::Renew(session))
    }

    fn close(&self, session: SessionId) -> Answer<'_, ()> {
        self.ask(Question::Close(session))
    }

    fn forget(&self, relay: RelayId) -> Answer<'_, ()> {
        self.ask(Question::Forget(relay))
    }

    fn report(&self, acks: Vec<FreezeAck>) -> Answer<'_, ()> {
        self.ask(Question::Report(acks))
    }

    fn reports(&self) -> Answer<'_, Reports> {
        Box::pin(self.open_reports())
    }

    fn standing(&self, unit: Option<UnitId>) -> Answer<'_, Vec<RelayStanding>> {
        self.ask(Question::Standing(unit))
    }
}

fn failed(status: &Status) -> StoreError {
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange => {
            StoreError::Broken(status.message().to_owned())
        }
        // Its own words, unless something below it ended the question.
        _ if status.source().is_none() => StoreError::Away(status.message().to_owned()),
        _ => away(status),
    }
}

/// What lies at the bottom: that it could not be dialled says more than that there is no transport, and each layer above repeats it.
fn away(error: &dyn Error) -> StoreError {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    StoreError::Away(last.to_string())
}

fn slow() -> StoreError {
    StoreError::Away(format!("no answer within {} s", LIMIT.as_secs()))
}

/// How long a question, and each further piece of an answer, may take. A feed says something much more often.
const LIMIT: Duration = Duration::from_secs(3);
/// A peer that does not answer for twice as long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Bytes under way.
const WINDOW: u32 = 1 << 20;
/// Batches that wait for one reader.
const BATCHES_MAX: usize = 64;
