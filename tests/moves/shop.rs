//! The service behind a relay: it writes into the ledger which write it did under which epoch. One that its caller gives up
//! half-way changes nothing.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::codec::BytesCodec;
use crate::harness::Background;
use crate::ledger::Ledger;

/// Name of the service.
pub const NAME: &str = "im.Shop";

/// A running service. Ends when dropped.
pub struct Shop {
    address: String,
    _thread: Background,
}

impl Shop {
    /// Starts the one behind this relay.
    pub fn start(relay: usize, ledger: Ledger) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counter = Counter { relay, ledger };
        let thread = Background::start("shop", move || async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap()).with_nodelay(Some(true));
            let server = Server::builder().max_concurrent_streams(10_000).add_service(counter);
            let _ = server.serve_with_incoming(incoming).await;
        });
        Self {
            address,
            _thread: thread,
        }
    }

    /// As an endpoint of a service in the settings.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[derive(Clone)]
struct Counter {
    relay: usize,
    ledger: Ledger,
}

impl NamedService for Counter {
    const NAME: &'static str = NAME;
}

impl Service<http::Request<Body>> for Counter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let counter = self.clone();
        Box::pin(async move { Ok(Grpc::new(BytesCodec).unary(counter, request).await) })
    }
}

impl UnaryService<Bytes> for Counter {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let counter = self.clone();
        Box::pin(async move { counter.write(request.metadata()).await })
    }
}

impl Counter {
    async fn write(self, metadata: &MetadataMap) -> Result<Response<Bytes>, Status> {
        let write = number(metadata, "x-write")?;
        let key = number(metadata, "x-key")?;
        let epoch = number(metadata, "strait-owner-epoch")?;
        let begun = self.ledger.begin((write, key as usize), self.relay, epoch);
        let delay = number(metadata, "x-delay-ms")?;
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        begun.done();
        Ok(Response::new(epoch.to_string().into()))
    }
}

fn number(metadata: &MetadataMap, name: &'static str) -> Result<u64, Status> {
    let text = metadata.get(name).and_then(|value| value.to_str().ok());
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Status::invalid_argument(format!("{name} is no number")))
}
