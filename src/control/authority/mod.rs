//! The relay that has the route store gives it to others: a gRPC server over one byte stream to each.
//!
//! # Invariants
//! - A1. Who asks comes from the transport. A relay opens, renews, closes and reports for itself only, and claims for its unit.
//!   Commits, and forgetting relays, are open to all: any relay may drive a move, and serve an operator.
//! - A2. A stream that ends, on either side, leaves nothing running.
//!
//! # Not here
//! Accepting the stream (`peer::line`), what the questions mean (`question`).

mod pieces;
mod service;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::{self, StreamExt};
use tonic::transport::Server;

use self::service::{Io, Service};
use super::question::Question;
use super::store::{Feed, Opened, Reports, Store, StoreError};
use crate::model::{Name, UnitId};
use crate::routing::record::{RelayId, Rev, SessionId};
use crate::wire::service::Served;

/// Answers relays. A clone is the same.
#[derive(Clone)]
pub struct Authority {
    store: Arc<dyn Store>,
    /// Whose sessions are whose, as far as asked for: at most one per relay.
    sessions: Arc<Mutex<HashMap<SessionId, RelayId>>>,
}

/// Who is at the other end of a stream, from its certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Its unit.
    pub unit: UnitId,
    /// Its name there; without it the certificate is good for every relay of the unit.
    pub relay: Option<Name>,
}

impl Caller {
    fn is(&self, relay: &RelayId) -> bool {
        self.unit == relay.unit && self.relay.as_ref().is_none_or(|name| *name == relay.relay)
    }
}

impl Authority {
    /// For this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            sessions: Arc::default(),
        }
    }

    /// Serves one stream until it ends, or `shutdown`. Needs a tokio runtime. Not cancel safe: dropped, it leaves the stream to
    /// end by itself.
    ///
    /// # Errors
    /// The stream broke before it was one.
    pub async fn serve(
        &self,
        caller: Caller,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        shutdown: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let over = shutdown.child_token();
        let io = Io::new(io, over.clone().drop_guard());
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(io)).chain(tokio_stream::pending());
        let service = Served(Service {
            authority: self.clone(),
            caller,
            over: over.clone(),
        });
        Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(QUESTIONS_MAX)
            .serve_with_incoming_shutdown(service, incoming, over.cancelled_owned())
            .await
    }

    async fn answer(&self, caller: &Caller, question: Question) -> Result<bytes::Bytes, StoreError> {
        let question = self.allowed(caller, question).await?;
        if let Question::Open(relay) = question {
            let opened = self.store.open(relay.clone()).await;
            if let Ok(Opened { session, .. }) = opened {
                let mut sessions = self.sessions.lock();
                sessions.retain(|_, other| *other != relay);
                sessions.insert(session, relay);
            }
            return Ok(super::question::document(&opened));
        }
        Ok(question.ask(&*self.store).await)
    }

    async fn watch(&self, from: Rev) -> Result<Feed, StoreError> {
        self.store.watch(from).await
    }

    async fn reports(&self) -> Result<Reports, StoreError> {
        self.store.reports().await
    }

    /// The question as far as this caller may ask it (A1).
    async fn allowed(&self, caller: &Caller, question: Question) -> Result<Question, StoreError> {
        match &question {
            Question::Open(relay) if !caller.is(relay) => {
                return Err(StoreError::Denied(format!("{relay} is another relay")));
            }
            Question::Claim(claims) => {
                if let Some(claim) = claims.iter().find(|claim| claim.by != caller.unit) {
                    return Err(StoreError::Denied(format!("unit {} claims for itself", claim.by)));
                }
            }
            Question::Renew(session) | Question::Close(session) if !self.has(caller, *session).await? => {
                return Err(StoreError::SessionOver);
            }
            _ => {}
        }
        if let Question::Report(acks) = question {
            let mut own = Vec::with_capacity(acks.len());
            for ack in acks {
                if self.has(caller, ack.session).await? {
                    own.push(ack);
                }
            }
            return Ok(Question::Report(own));
        }
        Ok(question)
    }

    /// Whether a session is one of the caller's.
    async fn has(&self, caller: &Caller, session: SessionId) -> Result<bool, StoreError> {
        if let Some(relay) = self.sessions.lock().get(&session) {
            return Ok(caller.is(relay));
        }
        let standing = self.store.standing(Some(caller.unit.clone())).await?;
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, relay| relay.unit != caller.unit);
        sessions.extend(standing.into_iter().map(|row| (row.session, row.relay)));
        Ok(sessions.get(&session).is_some_and(|relay| caller.is(relay)))
    }
}

/// A peer that does not answer for twice as long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Bytes under way to or from one relay.
const WINDOW: u32 = 1 << 20;
/// Questions of one relay at once.
const QUESTIONS_MAX: u32 = 64;
