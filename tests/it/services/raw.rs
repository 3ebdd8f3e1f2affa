//! HTTP/2 without gRPC in between: shows and makes exactly what is on the wire, on the h2 crate.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::Background;

/// A connection that sends single requests.
pub struct RawClient {
    sender: SendRequest<Bytes>,
    authority: String,
}

/// A reply as it was on the wire.
#[derive(Debug)]
pub struct RawReply {
    /// HTTP status.
    pub status: u16,
    /// Fields of the first header block.
    pub head: HeaderMap,
    /// The first header block ended the stream: a trailers-only reply.
    pub head_ended: bool,
    /// All data bytes.
    pub body: Bytes,
    /// Fields of the last header block.
    pub trailers: Option<HeaderMap>,
}

/// A request body under way.
pub struct Upload {
    stream: SendStream<Bytes>,
    _response: ResponseFuture,
}

impl Upload {
    /// Waits until all of these bytes may be sent, and sends them. Not cancel-safe.
    ///
    /// # Errors
    /// If the stream is reset.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), h2::Error> {
        while !bytes.is_empty() {
            self.stream.reserve_capacity(bytes.len());
            let capacity = std::future::poll_fn(|context| self.stream.poll_capacity(context)).await;
            let part = bytes.split_to(capacity.unwrap_or(Ok(0))?.min(bytes.len()));
            self.stream.send_data(part, false)?;
        }
        Ok(())
    }
}

impl RawReply {
    /// A field of the trailers, or of the head of a trailers-only reply.
    pub fn ending(&self, name: &str) -> Option<&str> {
        let fields = self.trailers.as_ref().unwrap_or(&self.head);
        fields.get(name)?.to_str().ok()
    }
}

impl RawClient {
    /// Connects in clear text with prior knowledge.
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self {
            sender,
            authority: address.to_owned(),
        }
    }

    /// A gRPC POST with these further fields and this body, sent whole.
    ///
    /// # Errors
    /// If the stream is reset or the connection ends.
    pub async fn call(&self, path: &str, fields: &[(&str, &str)], body: Bytes) -> Result<RawReply, h2::Error> {
        let (response, mut stream) = self.open(path, fields).await?;
        stream.send_data(body, true)?;
        read(response.await?).await
    }

    /// Begins a gRPC POST whose body is sent piece by piece. Dropping it cancels it.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn upload(&self, path: &str, fields: &[(&str, &str)]) -> Result<Upload, h2::Error> {
        let (response, stream) = self.open(path, fields).await?;
        Ok(Upload {
            stream,
            _response: response,
        })
    }

    async fn open(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone().ready().await?;
        sender.send_request(request.body(()).unwrap(), false)
    }
}

async fn read(response: Response<RecvStream>) -> Result<RawReply, h2::Error> {
    let (parts, mut stream) = response.into_parts();
    let head_ended = stream.is_end_stream();
    let body = read_all(&mut stream).await?;
    Ok(RawReply {
        status: parts.status.as_u16(),
        head: parts.headers,
        head_ended,
        body,
        trailers: stream.trailers().await?,
    })
}

/// All data of a stream, giving its window back.
///
/// # Errors
/// If the stream is reset.
pub async fn read_all(stream: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// A message with the five bytes gRPC puts before it.
pub fn grpc_message(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.freeze()
}

/// An HTTP/2 server whose answers a test writes by hand. Ends when dropped.
pub struct RawService {
    address: String,
    _thread: Background,
}

impl RawService {
    /// Starts a server that runs the handler for each request, each on a task of its own. Health checks it
    /// answers itself: it has none.
    pub fn start<F, Fut>(handler: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let handler = Arc::new(handler);
        let thread = Background::start("raw-service", move || async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, handler.clone()));
            }
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

async fn serve<F, Fut>(stream: TcpStream, handler: Arc<F>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        if request.uri().path() == "/grpc.health.v1.Health/Check" {
            trailers_only(respond, &[("grpc-status", "12")]);
        } else {
            tokio::spawn(handler(request, respond));
        }
    }
}

/// Answers with one header block and nothing else.
pub fn trailers_only(mut respond: SendResponse<Bytes>, fields: &[(&str, &str)]) {
    let mut response = Response::builder()
        .status(200)
        .header("content-type", "application/grpc");
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    let _ = respond.send_response(response.body(()).unwrap(), true);
}

/// Resets the stream instead of answering.
pub fn reset(mut respond: SendResponse<Bytes>, reason: Reason) {
    respond.send_reset(reason);
}
