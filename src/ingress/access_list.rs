//! `strait.v1.Access`: tells gateways of this unit where clients of users connect, and when they should connect elsewhere (S1, R-3.10).

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::updates::{Followed, Updates, own_service};
use crate::control::access::{AccessError, Desk, Following, Listed, News, Point, ReAttach, User};
use crate::model::{Name, UnitId};
use crate::routing::record::KeyBytes;
use crate::wire::access as message;
use crate::wire::service::{Paths, no_such_method};

/// The API of one shard.
#[derive(Clone)]
pub(super) struct AccessApi {
    pub(super) unit: UnitId,
    pub(super) desk: Desk,
    /// The relay takes no new work.
    pub(super) drain: CancellationToken,
}

impl Paths for AccessApi {
    const NAME: &'static str = message::SERVICE;

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            message::LIST => Grpc::new(ProstCodec::default()).unary(List(self), request).await,
            message::ATTACH => {
                let mut grpc = Grpc::new(ProstCodec::default());
                grpc.server_streaming(Attach(self), request).await
            }
            _ => no_such_method(),
        }
    }
}

struct List(AccessApi);

impl UnaryService<message::ListRequest> for List {
    type Response = message::ListReply;
    type Future = BoxFuture<Response<message::ListReply>, Status>;

    fn call(&mut self, request: Request<message::ListRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            own_service(&api.unit, request.metadata())?;
            let user = KeyBytes(request.into_inner().user);
            let listed = api.desk.list(user).await.map_err(|error| status(&error))?;
            Ok(Response::new(message::ListReply {
                access: Some(access(listed)),
            }))
        })
    }
}

struct Attach(AccessApi);

impl ServerStreamingService<message::AttachRequest> for Attach {
    type Response = message::AccessUpdate;
    type ResponseStream = Updates<Following>;
    type Future = BoxFuture<Response<Updates<Following>>, Status>;

    fn call(&mut self, request: Request<message::AttachRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            own_service(&api.unit, request.metadata())?;
            let users = request.into_inner().users.into_iter().map(user);
            let users = users.collect::<Result<_, _>>()?;
            let following = api.desk.follow(users).map_err(|error| status(&error))?;
            Ok(Response::new(Updates::of(following, api.drain)))
        })
    }
}

impl Followed for Following {
    type Update = message::AccessUpdate;

    async fn next(&mut self) -> message::AccessUpdate {
        update(Following::next(self).await)
    }
}

fn user(user: message::AttachedUser) -> Result<User, Status> {
    let home = Some(user.home).filter(|home| !home.is_empty());
    let home = home.as_deref().map(Name::new).transpose();
    Ok(User {
        key: KeyBytes(user.user),
        home: home.map_err(|error| Status::invalid_argument(format!("home: {error}")))?,
    })
}

fn update(news: News) -> message::AccessUpdate {
    message::AccessUpdate {
        users: news.users.into_iter().map(access).collect(),
        advice: news.advice.into_iter().map(advice).collect(),
        epoch: news.epoch,
    }
}

fn access(listed: Listed) -> message::UserAccess {
    message::UserAccess {
        user: listed.user.0,
        home: listed.home.map(|home| home.to_string()).unwrap_or_default(),
        epoch: listed.epoch,
        moving: listed.is_moving,
        points: listed.points.iter().map(point).collect(),
        detail: listed.detail,
    }
}

fn advice(advice: ReAttach) -> message::ReAttach {
    let now = advice.now;
    message::ReAttach {
        user: now.user.0,
        unit: now.home.map(|home| home.to_string()).unwrap_or_default(),
        previous: advice.previous.to_string(),
        epoch: now.epoch,
        points: now.points.iter().map(point).collect(),
        after_ms: whole_ms(advice.after),
        within_ms: whole_ms(advice.within),
    }
}

fn point(point: &Point) -> message::AccessPoint {
    message::AccessPoint {
        unit: point.unit.to_string(),
        address: point.address.to_string(),
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn status(error: &AccessError) -> Status {
    let text = error.to_string();
    match error {
        AccessError::Invalid(_) => Status::invalid_argument(text),
        AccessError::Full(_) => Status::resource_exhausted(text),
        _ => Status::failed_precondition(text),
    }
}
