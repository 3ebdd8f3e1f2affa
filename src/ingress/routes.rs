//! `strait.v1.Routes`: tells services of this unit who owns keys, and binds keys to it.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::updates::{Followed, Updates, own_service};
use crate::control::keys::{Desk, KeysError, News, Owner, Watch};
use crate::model::{Key, UnitId};
use crate::wire::routes as message;
use crate::wire::service::{Paths, no_such_method};

/// The API of one shard.
#[derive(Clone)]
pub(super) struct RouteApi {
    pub(super) unit: UnitId,
    pub(super) desk: Desk,
    /// The relay takes no new work.
    pub(super) drain: CancellationToken,
}

impl Paths for RouteApi {
    const NAME: &'static str = message::SERVICE;

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            message::RESOLVE => Grpc::new(ProstCodec::default()).unary(Resolve(self), request).await,
            message::CLAIM => Grpc::new(ProstCodec::default()).unary(Claim(self), request).await,
            message::WATCH => {
                let mut grpc = Grpc::new(ProstCodec::default());
                grpc.server_streaming(Following(self), request).await
            }
            _ => no_such_method(),
        }
    }
}

struct Resolve(RouteApi);

impl UnaryService<message::ResolveRequest> for Resolve {
    type Response = message::ResolveReply;
    type Future = BoxFuture<Response<message::ResolveReply>, Status>;

    fn call(&mut self, request: Request<message::ResolveRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            own_service(&api.unit, request.metadata())?;
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
            own_service(&api.unit, request.metadata())?;
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
    type ResponseStream = Updates<Watch>;
    type Future = BoxFuture<Response<Updates<Watch>>, Status>;

    fn call(&mut self, request: Request<message::WatchRoutesRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            own_service(&api.unit, request.metadata())?;
            let keys = request.into_inner().keys.into_iter().map(key);
            let watch = api.desk.watch(keys.collect()).map_err(|error| status(&error))?;
            Ok(Response::new(Updates::of(watch, api.drain)))
        })
    }
}

impl Followed for Watch {
    type Update = message::RouteUpdate;

    async fn next(&mut self) -> message::RouteUpdate {
        update(Watch::next(self).await)
    }
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
