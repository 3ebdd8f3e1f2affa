//! The relay's own gRPC API: health and reflection (C-G4), who owns keys, and where clients connect (S1).
//!
//! An ordinary tonic server behind an in-process pipe, so that it needs no listener and its HTTP/2 stays off
//! the data path. Calls reach it as they reach any local service, by their path.
//!
//! # Invariants
//! - A1. A service of these names in the settings takes the calls instead.
//! - A2. Once the relay drains, every watch is told and ended: none holds up the drain (C-L1).
//!
//! # Not here
//! Where calls without a key go (the settings' policies).

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Answer;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::Builder;

use super::access_list::AccessApi;
use super::routes::RouteApi;
use crate::control::{access, keys};
use crate::delivery::{Delivery, Services, grpc};
use crate::model::{
    CallId, Callee, CallerRef, Endpoint, Reason, Refused, RelayError, Request, RequestEvent, Retry, ServiceName, UnitId,
};
use crate::wire;
use crate::wire::messages::{DESCRIPTORS, SERVICE};
use crate::wire::service::Served;

/// Services the relay itself can answer.
const SERVICES: [&str; 5] = [
    wire::access::SERVICE,
    wire::routes::SERVICE,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The services the relay itself answers: those that the settings do not give to someone else (A1).
pub fn services_for(configured: &Services) -> impl Iterator<Item = ServiceName> + use<'_> {
    let names = SERVICES.into_iter().filter_map(|name| ServiceName::new(name).ok());
    names.filter(|name| !configured.contains_key(name))
}

/// All services of the relay itself: those, and the API for messages.
pub fn own_services(configured: &Services) -> impl Iterator<Item = ServiceName> + use<'_> {
    let messages = ServiceName::new(SERVICE).ok().into_iter();
    services_for(configured).chain(messages.filter(|name| !configured.contains_key(name)))
}

/// Whether the relay should get work.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the API of one shard is made of.
pub struct Parts {
    /// Where its services are attached, and which says whether a service is available.
    pub delivery: Rc<Delivery>,
    /// What to answer: [`services_for`] the settings.
    pub own: Vec<ServiceName>,
    /// Health of the relay as a whole.
    pub ready: Ready,
    /// How calls go through the pipe.
    pub settings: grpc::Settings,
    /// Series of the pipe.
    pub metrics: grpc::Metrics,
    /// This unit.
    pub unit: UnitId,
    /// Who owns keys.
    pub keys: keys::Desk,
    /// Where clients of users connect.
    pub access: access::Desk,
    /// The relay takes no new work.
    pub drain: CancellationToken,
}

/// The descriptors of the API cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the relay's own API cannot be read; this is a fault of this build")]
pub struct ApiError(#[from] tonic_reflection::server::Error);

/// Attaches the API. The future serves it and must be polled on the shard; it never ends.
///
/// # Errors
/// [`ApiError`].
pub fn attach(parts: Parts) -> Result<impl Future<Output = ()> + use<>, ApiError> {
    let reporter = HealthReporter::new();
    let routes = routes(&reporter, &parts)?;
    let pipe = Rc::new(Pipe::default());
    let endpoint: Rc<dyn Endpoint> = pipe.clone();
    for service in &parts.own {
        parts.delivery.attach(service, Rc::clone(&endpoint));
    }
    Ok(async move {
        let (settings, metrics) = (parts.settings.clone(), parts.metrics.clone());
        tokio::join!(tell_health(parts, reporter), serve(&pipe, &routes, &settings, &metrics));
    })
}

fn routes(reporter: &HealthReporter, parts: &Parts) -> Result<Routes, ApiError> {
    let health = RelayHealth {
        ready: Arc::clone(&parts.ready),
        services: HealthService::from_health_reporter(reporter.clone()),
    };
    let owners = RouteApi {
        unit: parts.unit.clone(),
        desk: parts.keys.clone(),
        drain: parts.drain.clone(),
    };
    let access = AccessApi {
        unit: parts.unit.clone(),
        desk: parts.access.clone(),
        drain: parts.drain.clone(),
    };
    let reflection = || {
        Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(wire::access::DESCRIPTORS)
            .register_encoded_file_descriptor_set(wire::routes::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(HealthServer::new(health))
        .add_service(Served(owners))
        .add_service(Served(access))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

/// Keeps a connection through the pipe. The server ends one that resets calls too often, as it should.
async fn serve(pipe: &Pipe, routes: &Routes, settings: &grpc::Settings, metrics: &grpc::Metrics) {
    loop {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let authority = Bytes::from_static(b"strait");
        match grpc::connect(Box::new(near), authority, settings, metrics.clone()) {
            Ok((connection, run)) => {
                pipe.0.replace(Some(connection));
                let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
                let served = Server::builder().serve_with_incoming(routes.clone(), incoming);
                let (_, end) = tokio::join!(served, run);
                tracing::warn!(?end, "the connection to the relay's own API ended; connecting again");
            }
            Err(error) => tracing::warn!(%error, "cannot connect to the relay's own API; trying again"),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Brings the health of services up to date until the relay drains, then ends all watches (A2).
async fn tell_health(parts: Parts, mut reporter: HealthReporter) {
    let mut told: HashMap<String, bool> = HashMap::new();
    while !parts.drain.is_cancelled() {
        let mut now = parts.delivery.availability();
        now.insert(String::new(), (parts.ready)());
        // A service that left the settings.
        for name in told.keys().filter(|name| !now.contains_key(*name)) {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
            reporter.clear_service_status(name).await;
        }
        for (name, serving) in &now {
            // Telling the same again would send it to every watcher again.
            if told.get(name) != Some(serving) {
                let status = if *serving {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                };
                reporter.set_service_status(name, status).await;
            }
        }
        told = now;
        tokio::select! {
            () = parts.drain.cancelled() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
    for name in told.keys() {
        reporter.set_service_status(name, ServingStatus::NotServing).await;
        reporter.clear_service_status(name).await;
        reporter.set_service_status(name, ServingStatus::NotServing).await;
    }
}

/// Health of the relay, asked when it is wanted, and of services, as last told.
struct RelayHealth {
    ready: Ready,
    services: HealthService,
}

#[tonic::async_trait]
impl Health for RelayHealth {
    type WatchStream = <HealthService as Health>::WatchStream;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        if !request.get_ref().service.is_empty() {
            return self.services.check(request).await;
        }
        let answer = if (self.ready)() {
            Answer::Serving
        } else {
            Answer::NotServing
        };
        Ok(tonic::Response::new(HealthCheckResponse { status: answer.into() }))
    }

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
        self.services.watch(request).await
    }
}

/// The endpoint that calls see: the connection there is now. A connection that ends has failed its calls
/// before the next one takes its place, so no id of one is ever used with another.
#[derive(Default)]
struct Pipe(RefCell<Option<Rc<grpc::Connection>>>);

impl Pipe {
    fn connection(&self) -> Option<Rc<grpc::Connection>> {
        self.0.borrow().clone()
    }
}

impl Callee for Pipe {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        match self.connection() {
            Some(connection) => connection.open(request, caller),
            None => Err(Refused {
                error: Box::new(RelayError::new(
                    Reason::ServiceUnavailable,
                    Retry::Safe,
                    "the relay is starting; try again",
                )),
                request,
            }),
        }
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        if let Some(connection) = self.connection() {
            connection.on_request(id, event);
        }
    }
}

impl Endpoint for Pipe {
    fn in_flight(&self) -> usize {
        self.connection().map_or(0, |connection| connection.in_flight())
    }

    fn is_ready(&self) -> bool {
        self.connection().is_some_and(|connection| connection.is_ready())
    }
}

/// How old the health of a service may be. A look costs a wake-up of an idle shard, and the directory looks no oftener.
const TICK: Duration = Duration::from_millis(250);
const RECONNECT: Duration = Duration::from_millis(100);
const PIPE_BYTES: usize = 64 * 1024;
