//! A gRPC service without generated code: its name and its paths are all that a service says of itself, and this is what tonic
//! wants beside.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

/// What a service answers.
pub trait Paths: Clone + Send + 'static {
    /// Its name, such as `strait.v1.Routes`.
    const NAME: &'static str;

    /// Answers a request to one of its paths, else with [`no_such_method`]. Dropped, it is cancelled.
    fn answer(self, request: http::Request<Body>) -> impl Future<Output = http::Response<Body>> + Send;
}

/// The service as tonic serves it.
#[derive(Clone)]
pub struct Served<P>(pub P);

impl<P: Paths> NamedService for Served<P> {
    const NAME: &'static str = P::NAME;
}

impl<P: Paths> Service<http::Request<Body>> for Served<P> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let paths = self.0.clone();
        Box::pin(async move { Ok(paths.answer(request).await) })
    }
}

/// The answer to a path that the service does not have.
pub fn no_such_method() -> http::Response<Body> {
    Status::unimplemented("no such method").into_http()
}
