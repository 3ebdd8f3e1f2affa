//! A plain gRPC client whose messages are bytes, as relays see them.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// A message is its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A unary call.
#[derive(Clone, Debug)]
pub(super) struct Unary {
    /// `package.Service/Method`.
    pub(super) method: String,
    /// Metadata fields.
    pub(super) fields: Vec<(&'static str, String)>,
    /// The message.
    pub(super) body: Bytes,
    /// The deadline, from now.
    pub(super) timeout: Duration,
}

/// Opens a connection. Addresses: `http://host:port`, `unix:/path`.
///
/// # Errors
/// The address has no known form, or nothing listens there.
pub(super) async fn connect(address: &str, timeout: Duration) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?;
    endpoint.connect_timeout(timeout).tcp_nodelay(true).connect().await
}

/// Makes the call.
///
/// # Errors
/// The status of the service or the relay; `InvalidArgument` without a call if it cannot be expressed.
pub(super) async fn unary(channel: Channel, call: Unary) -> Result<Response<Bytes>, Status> {
    let path = PathAndQuery::try_from(format!("/{}", call.method.trim_start_matches('/')))
        .map_err(|_| Status::invalid_argument("a method looks like im.Echo/Say"))?;
    let mut request = Request::new(call.body);
    request.set_timeout(call.timeout);
    for (name, value) in call.fields {
        let value = AsciiMetadataValue::try_from(value)
            .map_err(|_| Status::invalid_argument(format!("{name} may hold visible ASCII characters only")))?;
        request
            .metadata_mut()
            .append(AsciiMetadataKey::from_static(name), value);
    }
    let mut client = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(format!("the connection to the relay broke: {error}")))?;
    client.unary(request, path, Plain).await
}

/// As long as the framed client takes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Opens a stream in both directions; `requests` are the messages to send.
///
/// # Errors
/// The status of the service or the relay.
pub(super) async fn stream(
    channel: Channel,
    path: &'static str,
    requests: mpsc::Receiver<Bytes>,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(format!("the connection to the relay broke: {error}")))?;
    let request = Request::new(ReceiverStream::new(requests));
    let reply = client
        .streaming(request, PathAndQuery::from_static(path), Plain)
        .await?;
    Ok(reply.into_inner())
}
