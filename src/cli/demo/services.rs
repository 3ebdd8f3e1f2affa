//! What stands behind the relays: in each unit a plain gRPC service and one that registers itself over the framed
//! protocol, and subscribes to messages. Both say which unit they belong to, so that a reply tells where the call really went.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::super::grpc::Plain;
use super::ledger::Ledger;
use super::room::Room;
use super::world::{Relay, UNITS, Unit};
use super::{DemoError, publishing};
use crate::client::{Client, Reply};

/// gRPC, at an address of its own.
pub(super) const ECHO: &str = "im.Echo/Say";
/// Framed, registered.
pub(super) const PRESENCE: &str = "im.Presence/Where";

/// Running services. They end when dropped.
pub(super) struct Services {
    ports: Vec<(Unit, u16)>,
    registered: Vec<Client>,
    _servers: JoinSet<()>,
}

impl Services {
    /// Starts the gRPC services.
    ///
    /// # Errors
    /// There is no port.
    pub(super) async fn start() -> Result<Self, DemoError> {
        let mut servers = JoinSet::new();
        let mut ports = Vec::new();
        for unit in UNITS {
            let listener = TcpListener::bind("127.0.0.1:0").await.map_err(DemoError::Ports)?;
            ports.push((unit, listener.local_addr().map_err(DemoError::Ports)?.port()));
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = Server::builder().add_service(Echo { unit: unit.name });
            servers.spawn(async move {
                // If it ends, calls to it fail, and the demo says so.
                let _ = server.serve_with_incoming(incoming).await;
            });
        }
        Ok(Self {
            ports,
            registered: Vec::new(),
            _servers: servers,
        })
    }

    /// Registers the framed services with their relays, and subscribes to the demo's topic. They come back by themselves
    /// when a relay does.
    ///
    /// # Errors
    /// A relay refuses.
    pub(super) async fn register(&mut self, relays: &[Relay], ledger: &Ledger, room: &Room) -> Result<(), DemoError> {
        for relay in relays {
            let client = relay.connect().await?;
            let unit = relay.unit.name;
            client
                .serve("im.Presence", async move |received| {
                    Ok(Reply::new(said_by(unit, received.body())))
                })
                .await?;
            let (unit, room) = (relay.unit, room.clone());
            client
                .serve("im.Room", move |received| {
                    room.write(unit, received.owner_epoch(), received.body());
                    ready(Ok(Reply::new(said_by(unit.name, received.body()))))
                })
                .await?;
            publishing::subscribe(&client, relay.unit, ledger).await?;
            self.registered.push(client);
        }
        Ok(())
    }

    /// Port of the gRPC service of a unit.
    pub(super) fn grpc_port(&self, unit: Unit) -> u16 {
        let found = self.ports.iter().find(|(of, _)| *of == unit);
        found.map_or(1, |(_, port)| *port)
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            ports: Vec::new(),
            registered: Vec::new(),
            _servers: JoinSet::new(),
        }
    }
}

/// What a service of a unit answers.
fn said_by(unit: &str, message: &[u8]) -> Bytes {
    let mut text = format!("unit {unit} heard: ").into_bytes();
    text.extend_from_slice(message);
    text.into()
}

/// The unit that a reply was made in.
pub(super) fn speaker(reply: &[u8]) -> Option<&str> {
    std::str::from_utf8(reply)
        .ok()?
        .strip_prefix("unit ")?
        .split(' ')
        .next()
}

#[derive(Clone)]
struct Echo {
    unit: &'static str,
}

impl NamedService for Echo {
    const NAME: &'static str = "im.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(Grpc::new(Plain).unary(service, request).await) })
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(said_by(self.unit, request.get_ref()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_tells_where_it_was_made() {
        assert_eq!(speaker(&said_by("c", b"hello")), Some("c"));
        assert_eq!(speaker(b"hello"), None);
    }
}
