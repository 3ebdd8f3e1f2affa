//! A tonic client that can call any method with bytes.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::codec::BytesCodec;

/// A channel to a relay or a service. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
    service: &'static str,
}

impl Client {
    /// Connects to `host:port`, for the service `im.Echo`.
    pub async fn connect(address: &str) -> Self {
        Self::open(Endpoint::from_shared(format!("http://{address}")).unwrap()).await
    }

    /// The same, with this `:authority`.
    pub async fn connect_as(address: &str, authority: &str) -> Self {
        let origin = format!("http://{authority}").parse().unwrap();
        Self::open(
            Endpoint::from_shared(format!("http://{address}"))
                .unwrap()
                .origin(origin),
        )
        .await
    }

    /// Connects to a Unix socket, for the service `im.Echo`.
    pub async fn connect_unix(path: &Path) -> Self {
        Self::open(Endpoint::from_shared(format!("unix:{}", path.display())).unwrap()).await
    }

    async fn open(endpoint: Endpoint) -> Self {
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect()
            .await
            .unwrap();
        Self {
            grpc: Grpc::new(channel).max_decoding_message_size(64 << 20),
            service: "im.Echo",
        }
    }

    /// The same connection for another service.
    pub fn service(mut self, service: &'static str) -> Self {
        self.service = service;
        self
    }

    /// Sends gzip and takes gzip.
    pub fn compressed(mut self) -> Self {
        self.grpc = self
            .grpc
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip);
        self
    }

    /// One message there, one back.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn unary(&self, method: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let mut grpc = self.ready().await?;
        grpc.unary(request, self.path(method), BytesCodec).await
    }

    /// Many messages there, one back.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn collect<S>(&self, method: &str, request: Request<S>) -> Result<Response<Bytes>, Status>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let mut grpc = self.ready().await?;
        grpc.client_streaming(request, self.path(method), BytesCodec).await
    }

    /// One message there, many back.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn produce(&self, method: &str, request: Request<Bytes>) -> Result<Response<Streaming<Bytes>>, Status> {
        let mut grpc = self.ready().await?;
        grpc.server_streaming(request, self.path(method), BytesCodec).await
    }

    /// Many messages there and back.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn chat<S>(&self, method: &str, request: Request<S>) -> Result<Response<Streaming<Bytes>>, Status>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let mut grpc = self.ready().await?;
        grpc.streaming(request, self.path(method), BytesCodec).await
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready()
            .await
            .map_err(|error| Status::unknown(format!("no connection: {error:?}")))?;
        Ok(grpc)
    }

    fn path(&self, method: &str) -> PathAndQuery {
        format!("/{}/{method}", self.service).parse().unwrap()
    }
}

/// A request with metadata.
pub fn request<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// A request for a key of unit `b`.
pub fn to_b<T>(message: T) -> Request<T> {
    request(message, &[("strait-key", "uid=b:1")])
}

/// A stream of these messages, then the half-close.
pub fn stream_of(messages: Vec<Bytes>) -> impl Stream<Item = Bytes> + Send + 'static {
    tonic::codegen::tokio_stream::iter(messages)
}

/// A stream to push messages into; dropping the sender half-closes.
pub fn channel() -> (tokio::sync::mpsc::Sender<Bytes>, ReceiverStream<Bytes>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    (sender, ReceiverStream::new(receiver))
}
