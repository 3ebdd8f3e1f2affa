//! The thread, runtime and listener of the admin address.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use tokio_util::sync::CancellationToken;

use super::guard::{Access, Rules, guard};
use super::{Desk, Health, RouteDesk, messages, pages, routes};
use crate::control::access;
use crate::control::claims::Claims;
use crate::control::tokens::TokenKeys;
use crate::model::{Place, RoutePolicy};
use crate::peer::Observers;
use crate::queue::AwayUnits;
use crate::routing;
use crate::telemetry::{LogHandle, Registry};

/// What there is to see and to change.
#[derive(Clone)]
pub struct Parts {
    /// Series for `/metrics`.
    pub registry: Registry,
    /// Conditions for `/readyz`.
    pub health: Health,
    /// Levels for `/log`.
    pub log: LogHandle,
    /// Rules for `/explain`.
    pub routing: routing::Handle,
    /// Keys of route tokens for `/explain`, if there are any.
    pub tokens: Option<TokenKeys>,
    /// What is known of claims, for `/explain`; `None` without a route store.
    pub claims: Option<Claims>,
    /// This relay.
    pub place: Place,
    /// How calls of methods are routed.
    pub route_policy: RoutePolicies,
    /// Units, links and services for `/status`.
    pub status: Arc<dyn StatusSource>,
    /// Cancelled by `POST /drain`.
    pub drain: CancellationToken,
    /// Where clients of users connect, for `/access`; `None` if nobody knows.
    pub users: Option<access::Desk>,
    /// Who may.
    pub access: Access,
    /// The queue, for `/queue`.
    pub queue: Option<Arc<Desk>>,
    /// Units that count as away because an operator says so, for `/explain` and `/routes`.
    pub away: AwayUnits,
    /// Which units others reach, for the same.
    pub observers: Arc<Observers>,
    /// The routes, for `/routes`; `None` without a route store.
    pub routes: Option<Arc<dyn RouteDesk>>,
}

/// How calls of a service and method, by name, are routed.
pub type RoutePolicies = Arc<dyn Fn(Option<&str>, Option<&str>) -> RoutePolicy + Send + Sync>;

/// Gives the part of `/status` that only the app knows.
pub trait StatusSource: Send + Sync {
    /// A JSON object; its fields are added to the answer.
    fn status(&self) -> serde_json::Map<String, serde_json::Value>;

    /// The certificates in use: this relay's, and on each open link both sides'.
    fn certificates(&self) -> serde_json::Map<String, serde_json::Value>;
}

/// Why the admin address cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address} (admin.listen); is another relay running there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// No thread or runtime.
    #[error("cannot start the admin thread")]
    Thread(#[source] io::Error),
}

/// The running admin address. Ends with [`stop`](Self::stop) or when dropped.
pub struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens and serves from now on.
    ///
    /// # Errors
    /// [`ServerError`] if the address or a thread cannot be had.
    pub fn start(address: SocketAddr, parts: Parts) -> Result<Self, ServerError> {
        let bind = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServerError::Thread)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let desk = parts.queue.clone();
        let app = router(address, parts);
        let thread = std::thread::Builder::new()
            .name("strait-admin".to_owned())
            .spawn(move || runtime.block_on(serve(listener, app, desk, stopped)))
            .map_err(ServerError::Thread)?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends at once; the last act of a shutdown.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, app: Router, desk: Option<Arc<Desk>>, stopped: CancellationToken) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "admin address cannot be served");
            return;
        }
    };
    let server = async { axum::serve(listener, app).await };
    let answers = async {
        if let Some(desk) = desk {
            desk.run().await;
        }
        // The queue has ended, before this address does.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Open connections are cut: scrapers keep theirs open for ever.
        () = stopped.cancelled() => {}
        () = answers => {}
        result = server => {
            if let Err(error) = result {
                tracing::error!(%error, "admin address is no longer served");
            }
        }
    }
}

fn router(address: SocketAddr, parts: Parts) -> Router {
    let rules = Rules {
        any_host: !address.ip().is_loopback(),
        access: parts.access.clone(),
    };
    Router::new()
        .route("/", get(pages::index))
        .route("/metrics", get(pages::metrics))
        .route("/livez", get(pages::livez))
        .route("/readyz", get(pages::readyz))
        .route("/explain", get(pages::explain))
        .route("/access", get(pages::access))
        .route("/status", get(pages::status))
        .route("/certificates", get(pages::certificates))
        .route("/drain", post(pages::drain))
        .route("/log", put(pages::log))
        .route("/queue", get(messages::read).post(messages::change))
        .route(
            "/routes",
            get(routes::read)
                .post(routes::change)
                .layer(DefaultBodyLimit::max(routes::BODY_BYTES_MAX)),
        )
        .layer(from_fn_with_state(Arc::new(rules), guard))
        .with_state(Arc::new(parts))
}
