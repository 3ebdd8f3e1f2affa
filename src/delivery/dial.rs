//! Makes one connection to an endpoint, in the protocol that it speaks.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::{HostPort, Protocol};
use super::slot::{Control, Link};
use super::{framed, grpc, http1};
use crate::model::Endpoint;
use crate::wire::http2::LinkEnd;
use crate::wire::io::BoxIo;

/// How the protocols are spoken, on all connections to local services.
#[derive(Clone)]
pub struct Transports {
    /// gRPC.
    pub grpc: grpc::Settings,
    /// Series of gRPC connections.
    pub grpc_metrics: grpc::Metrics,
    /// Framed protocol.
    pub framed: framed::Limits,
    /// Series of framed connections.
    pub framed_metrics: framed::Side,
    /// `[delivery.http1]`.
    pub http1: http1::Settings,
}

/// The work of a connection; ends with it, and says whether it ended as agreed.
pub(super) type Work = Pin<Box<dyn Future<Output = bool>>>;
/// A future that stays on its thread.
pub(super) type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A connection that was made.
pub(super) struct Opened {
    pub(super) link: Link,
    pub(super) work: Work,
}

/// Where to connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Address(SocketAddr),
    Host(HostPort),
    Unix(PathBuf),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum DialError {
    #[error("the framed handshake failed: {0}")]
    Framed(framed::SessionError),
    #[error("no HTTP/2 session: {0}")]
    Http2(crate::wire::http2::SessionError),
    #[error("cannot connect: {0}")]
    Io(io::Error),
    #[error("not connected within {0:?}; check that the service listens there")]
    Timeout(Duration),
}

/// What the connector needs from the world outside.
pub(super) trait Dial {
    /// Connects, and shakes hands where the protocol has that; `tracker` runs what is more than one task.
    fn dial<'a>(
        &'a self,
        protocol: Protocol,
        place: &'a Place,
        tracker: &'a TaskTracker,
    ) -> Local<'a, Result<Opened, DialError>>;
    /// All addresses of a name now.
    fn resolve<'a>(&'a self, name: &'a HostPort) -> Local<'a, io::Result<Vec<SocketAddr>>>;
}

impl Dial for Transports {
    fn dial<'a>(
        &'a self,
        protocol: Protocol,
        place: &'a Place,
        tracker: &'a TaskTracker,
    ) -> Local<'a, Result<Opened, DialError>> {
        Box::pin(async move {
            let io = connect(place).await.map_err(DialError::Io)?;
            match protocol {
                Protocol::Framed => self.framed(io).await,
                Protocol::Grpc => self.grpc(io, place),
                Protocol::Http1 => self.http1(io, place, tracker).await,
            }
        })
    }

    fn resolve<'a>(&'a self, name: &'a HostPort) -> Local<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((name.host.as_str(), name.port))
                .await?
                .collect())
        })
    }
}

impl Transports {
    fn grpc(&self, io: BoxIo, place: &Place) -> Result<Opened, DialError> {
        let authority = Bytes::from(place.authority());
        let metrics = self.grpc_metrics.clone();
        let (connection, run) = grpc::connect(io, authority, &self.grpc, metrics).map_err(DialError::Http2)?;
        let endpoint: Rc<dyn Endpoint> = connection.clone();
        let control: Option<Rc<dyn Control>> = Some(connection);
        let work = Box::pin(async move { matches!(run.await, LinkEnd::Over) });
        Ok(Opened {
            link: Link { endpoint, control },
            work,
        })
    }

    async fn framed(&self, io: BoxIo) -> Result<Opened, DialError> {
        let drain = CancellationToken::new();
        let connected = framed::connect(io, self.framed.clone(), self.framed_metrics.clone(), drain.clone());
        let (connection, run) = connected.await.map_err(DialError::Framed)?;
        let endpoint: Rc<dyn Endpoint> = connection.clone();
        let control: Option<Rc<dyn Control>> = Some(Rc::new(FramedControl { connection, drain }));
        let work = Box::pin(async move { !matches!(run.await, framed::Ended::Failed(_)) });
        Ok(Opened {
            link: Link { endpoint, control },
            work,
        })
    }

    async fn http1(&self, io: BoxIo, place: &Place, tracker: &TaskTracker) -> Result<Opened, DialError> {
        let pool = http1::Pool::new(place.clone(), io, self.http1.clone(), tracker.clone());
        let pool = pool.await.map_err(DialError::Io)?;
        let endpoint: Rc<dyn Endpoint> = pool.clone();
        let control: Rc<dyn Control> = pool.clone();
        let work = Box::pin(async move {
            pool.lasting().await;
            true
        });
        let control = Some(control);
        Ok(Opened {
            link: Link { endpoint, control },
            work,
        })
    }
}

impl Control for grpc::Connection {
    fn is_open(&self) -> bool {
        Self::is_open(self)
    }

    fn retire(&self) {
        Self::retire(self);
    }

    fn streaming(&self) -> usize {
        Self::streaming(self)
    }

    fn is_blocked(&self) -> bool {
        Self::is_blocked(self)
    }
}

struct FramedControl {
    connection: Rc<framed::Connection>,
    drain: CancellationToken,
}

impl Control for FramedControl {
    fn is_open(&self) -> bool {
        self.connection.is_open()
    }

    fn retire(&self) {
        self.drain.cancel();
    }
}

pub(super) async fn connect(place: &Place) -> io::Result<BoxIo> {
    let tcp = match place {
        Place::Address(address) => TcpStream::connect(address).await?,
        Place::Host(at) => TcpStream::connect((at.host.as_str(), at.port)).await?,
        Place::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
    };
    // Batches are written whole: waiting for more would only add delay.
    tcp.set_nodelay(true)?;
    Ok(Box::new(tcp))
}

impl Place {
    /// What stands in `:authority` of calls that have none.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Host(at) => at.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(at) => at.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
