//! `strait.v1.Routes`: tells services of this unit who owns keys, and binds keys to it.
//!
//! # Invariants
//! - A4. Who watches is ended when the relay drains: none holds up the drain (C-L1).
//! - A5. Services of other units are sent to relays of their own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::{BoxFuture, StdError, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::control::keys::{Desk, KeysError, News, Owner, Watch};
use crate::model::{Key, UnitId};
use crate::wire::routes as message;

/// The API of one shard.
#[derive(Clone)]
pub(super) struct RouteApi {
    pub(super) unit: UnitId,
    pub(super) desk: Desk,
    /// The relay takes no new work.
    pub(super) drain: CancellationToken,
}

impl NamedService for RouteApi {
    const NAME: &'static str = message::SERVICE;
}

impl<B> tonic::codegen::Service<http::Request<B>> for RouteApi
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            match request.uri().path() {
                message::RESOLVE => {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    Ok(grpc.unary(Resolve(service), request).await)
                }
                message::CLAIM => {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    Ok(grpc.unary(Claim(service), request).await)
                }
                message::WATCH => {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    Ok(grpc.server_streaming(Following(service), request).await)
                }
                _ => Ok(Status::unimplemented("no such method").into_http()),
            }
        })
    }
}

impl RouteApi {
    /// A5.
    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let source = metadata.get("strait-source-unit");
        if source.is_none_or(|unit| unit.as_bytes() == self.unit.as_str().as_bytes()) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "unit {} answers its own services; ask a relay of your unit",
            self.unit
        )))
    }
}

struct Resolve(RouteApi);

impl UnaryService<message::ResolveRequest> for Resolve {
    type Response = message::ResolveReply;
    type Future = BoxFuture<Response<message::ResolveReply>, Status>;

    fn call(&mut self, request: Request<message::ResolveRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            api.check(request.metadata())?;
            let keys: Vec<_> = request.into_inner().keys.into_iter().map(key).collect();
            let owner = api.desk.resolve(keys.clone()).await.map_err(|error| status(&error))?;
            let decided = keys.into_iter().nth(owner.at);
            Ok(Response::new(message::ResolveReply {
                route: decided.map(|key| route(key, Ok(owner))),
            }))
        })
    }
}

struct Claim(RouteApi);

impl UnaryService<message::ClaimRequest> for Claim {
    type Response = message::ClaimReply;
    type Future = BoxFuture<Response<message::ClaimReply>, Status>;

    fn call(&mut self, request: Request<message::ClaimRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            api.check(request.metadata())?;
            let named = request.into_inner().key;
            let key = named.map(key).ok_or_else(|| Status::invalid_argument("name a key"))?;
            let (owner, won) = api.desk.claim(key.clone()).await.map_err(|error| status(&error))?;
            Ok(Response::new(message::ClaimReply {
                route: Some(route(key, Ok(owner))),
                won,
            }))
        })
    }
}

struct Following(RouteApi);

impl ServerStreamingService<message::WatchRoutesRequest> for Following {
    type Response = message::RouteUpdate;
    type ResponseStream = Updates;
    type Future = BoxFuture<Response<Updates>, Status>;

    fn call(&mut self, request: Request<message::WatchRoutesRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            api.check(request.metadata())?;
            let keys = request.into_inner().keys.into_iter().map(key);
            let watch = api.desk.watch(keys.collect()).map_err(|error| status(&error))?;
            Ok(Response::new(Updates(Some(next(watch, api.drain)))))
        })
    }
}

/// What one that watches is told; the next update is on its way. It is made when the client has taken the one before.
struct Updates(Option<Next>);

type Next = Pin<Box<dyn Future<Output = Result<(News, Watch, CancellationToken), Status>> + Send>>;

impl Stream for Updates {
    type Item = Result<message::RouteUpdate, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(told) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let told = ready!(told.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(Some(told.map(|(news, watch, drain)| {
            self.0 = Some(next(watch, drain));
            update(news)
        })))
    }
}

fn next(mut watch: Watch, drain: CancellationToken) -> Next {
    Box::pin(async move {
        let news = tokio::select! {
            news = watch.next() => news,
            () = drain.cancelled() => {
                return Err(Status::unavailable("this relay is shutting down; watch at another relay of the unit"));
            }
        };
        Ok((news, watch, drain))
    })
}

fn update(news: News) -> message::RouteUpdate {
    let routes = news.keys.into_iter().map(|(key, owner)| route(key, owner));
    message::RouteUpdate {
        routes: routes.collect(),
        epoch: news.epoch,
    }
}

fn route(key: Key, owner: Result<Owner, String>) -> message::Route {
    let key = Some(message::RouteKey {
        dimension: String::from_utf8_lossy(&key.dimension).into_owned(),
        key: key.key,
    });
    match owner {
        Ok(owner) => message::Route {
            key,
            unit: owner.unit.to_string(),
            epoch: owner.epoch,
            moving: owner.is_moving,
            token: owner.token.unwrap_or_default(),
            detail: String::new(),
        },
        Err(detail) => message::Route {
            key,
            detail,
            ..message::Route::default()
        },
    }
}

fn key(key: message::RouteKey) -> Key {
    Key {
        dimension: Bytes::from(key.dimension),
        key: key.key,
    }
}

fn status(error: &KeysError) -> Status {
    let text = error.to_string();
    match error {
        KeysError::Invalid(_) => Status::invalid_argument(text),
        KeysError::Unclaimed => Status::not_found(text),
        KeysError::Refused(_) => Status::failed_precondition(text),
        KeysError::Full => Status::resource_exhausted(text),
        _ => Status::unavailable(text),
    }
}
