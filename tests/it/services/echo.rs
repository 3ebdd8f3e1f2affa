//! The service `im.Echo` on tonic. What a call wants is said in its metadata, so that every client can ask
//! for everything; `tests/python/server.py` is the same service on grpcio.
//!
//! | method | does |
//! |---|---|
//! | `Unary`, `Chat` | sends each message back as it comes |
//! | `Collect` | sends all messages back as one, after the half-close |
//! | `Produce` | message `<count> <bytes>` makes it send that many messages of that size |
//! | `AfterHalfClose` | sends nothing before the half-close, then all messages |
//! | `Metadata` | sends the request metadata back, a line each |
//! | `Hang` | sends its initial metadata and then nothing |
//! | `Flood` | sends 64 KiB messages as fast as they are taken, without an end |
//! | `Sink` | reads nothing |
//!
//! | metadata | does |
//! |---|---|
//! | `x-code`, `x-message`, `x-details-bin` | end with this status; before any message if `x-early` is set |
//! | `x-echo-*` | comes back in the initial metadata |
//! | `x-trail-*` | comes back in the trailing metadata |
//! | `x-delay-ms` | wait before anything is sent |

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use super::codec::BytesCodec;
use crate::harness::Background;

/// A running echo service. Ends when dropped.
pub struct Echo {
    address: String,
    /// What it saw.
    pub seen: Arc<Seen>,
    _thread: Background,
}

/// What the service saw; all are counts since its start.
#[derive(Default)]
pub struct Seen {
    /// Calls that reached it.
    pub opened: AtomicU64,
    /// Calls that it answered with a status or that ended in any other way.
    pub ended: AtomicU64,
    /// Of those, calls that were cancelled before it gave a status.
    pub cancelled: AtomicU64,
    /// Bytes that `Flood` could hand to its HTTP/2 library.
    pub flooded: AtomicU64,
    /// Messages read from callers.
    pub messages: AtomicU64,
}

impl Seen {
    /// Calls that are open now. Not zero after all callers left means orphans.
    pub fn open(&self) -> u64 {
        // `ended` first: read the other way round, a call could seem to end before it began.
        let ended = self.ended.load(Ordering::SeqCst);
        self.opened.load(Ordering::SeqCst).saturating_sub(ended)
    }

    /// A count by value.
    pub fn get(&self, count: impl Fn(&Self) -> &AtomicU64) -> u64 {
        count(self).load(Ordering::SeqCst)
    }
}

impl Echo {
    /// Starts the service on a free loopback port.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::start_on(listener)
    }

    /// Starts the service on a listener.
    pub fn start_on(listener: std::net::TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Seen::default());
        let handler = Handler { seen: seen.clone() };
        let thread = Background::start("echo", move || async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap()).with_nodelay(Some(true));
            let _ = Server::builder()
                .max_concurrent_streams(10_000)
                .add_service(handler)
                .serve_with_incoming(incoming)
                .await;
        });
        Self {
            address,
            seen,
            _thread: thread,
        }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// As an endpoint of a service in the settings.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[derive(Clone)]
struct Handler {
    seen: Arc<Seen>,
}

impl NamedService for Handler {
    const NAME: &'static str = "im.Echo";
}

impl Service<http::Request<Body>> for Handler {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let call = Call {
            method,
            seen: self.seen.clone(),
        };
        let mut grpc = Grpc::new(BytesCodec)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(64 << 20);
        if request.headers().contains_key("x-compress") {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip);
        }
        Box::pin(async move { Ok(grpc.streaming(call, request).await) })
    }
}

struct Call {
    method: String,
    seen: Arc<Seen>,
}

type Replies = mpsc::Sender<Result<Bytes, Status>>;

impl StreamingService<Bytes> for Call {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let open = Open::new(self.seen.clone());
        let method = self.method.clone();
        Box::pin(async move { open.serve(method, request).await })
    }
}

/// One open call: counted when it begins and, on drop, when it ends, whatever the reason.
struct Open {
    seen: Arc<Seen>,
    answered: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.answered {
            self.seen.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        self.seen.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Open {
    fn new(seen: Arc<Seen>) -> Self {
        seen.opened.fetch_add(1, Ordering::SeqCst);
        Self { seen, answered: false }
    }

    fn on_answered(&mut self) {
        self.answered = true;
    }

    async fn serve(
        mut self,
        method: String,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<ReceiverStream<Result<Bytes, Status>>>, Status> {
        let (metadata, _, messages) = request.into_parts();
        if let Some(delay) = text(&metadata, "x-delay-ms") {
            tokio::time::sleep(Duration::from_millis(delay.parse().unwrap_or(0))).await;
        }
        let status = wanted_status(&metadata);
        if metadata.contains_key("x-early") {
            self.on_answered();
            return Err(status);
        }
        let (replies, stream) = mpsc::channel(4);
        let mut response = Response::new(ReceiverStream::new(stream));
        copy(&metadata, "x-echo-", response.metadata_mut());
        tokio::spawn(async move {
            let gone = replies.clone();
            tokio::select! {
                // The caller's stream is dropped by tonic when it is reset.
                () = gone.closed() => {}
                done = self.run(&method, &metadata, messages, &replies) => {
                    if done.is_some() && replies.send(Err(status)).await.is_ok() {
                        self.on_answered();
                    }
                }
            }
        });
        Ok(response)
    }

    /// The body of the call; `None` if the caller is gone.
    async fn run(
        &self,
        method: &str,
        metadata: &MetadataMap,
        mut messages: Streaming<Bytes>,
        replies: &Replies,
    ) -> Option<()> {
        match method {
            "Unary" | "Chat" => {
                while let Some(message) = self.next(&mut messages).await? {
                    replies.send(Ok(message)).await.ok()?;
                }
            }
            "Collect" => {
                let mut all = BytesMut::new();
                while let Some(message) = self.next(&mut messages).await? {
                    all.extend_from_slice(&message);
                }
                replies.send(Ok(all.freeze())).await.ok()?;
            }
            "AfterHalfClose" => {
                let mut all = Vec::new();
                while let Some(message) = self.next(&mut messages).await? {
                    all.push(message);
                }
                for message in all {
                    replies.send(Ok(message)).await.ok()?;
                }
            }
            "Produce" => {
                let wish = self.next(&mut messages).await?.unwrap_or_default();
                let (count, bytes) = parse_wish(&wish);
                for number in 0..count {
                    replies.send(Ok(vec![number as u8; bytes].into())).await.ok()?;
                }
            }
            "Metadata" => replies.send(Ok(lines(metadata).into())).await.ok()?,
            "Flood" => {
                let message = Bytes::from(vec![7; 65_536]);
                loop {
                    replies.send(Ok(message.clone())).await.ok()?;
                    self.seen.flooded.fetch_add(65_536, Ordering::SeqCst);
                }
            }
            "Hang" => while self.next(&mut messages).await?.is_some() {},
            "Sink" => {}
            _ => {
                let _ = replies.send(Err(Status::unimplemented("no such method"))).await;
                return None;
            }
        }
        if matches!(method, "Hang" | "Sink") {
            // Keep `messages` unread and open.
            std::future::pending::<()>().await;
            drop(messages);
        }
        Some(())
    }

    /// The next message; outer `None` if the caller is gone.
    async fn next(&self, messages: &mut Streaming<Bytes>) -> Option<Option<Bytes>> {
        let message = messages.message().await.ok()?;
        if message.is_some() {
            self.seen.messages.fetch_add(1, Ordering::SeqCst);
        }
        Some(message)
    }
}

/// `<count> <bytes>`.
fn parse_wish(wish: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(wish);
    let mut numbers = text.split(' ').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name)?.to_str().ok()
}

/// The status a call asks for, with the trailing metadata it asks for.
fn wanted_status(metadata: &MetadataMap) -> Status {
    let code = text(metadata, "x-code").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
    let message = text(metadata, "x-message").unwrap_or_default().to_owned();
    let details = metadata
        .get_bin("x-details-bin")
        .and_then(|value| value.to_bytes().ok())
        .unwrap_or_default();
    let mut trailers = MetadataMap::new();
    copy(metadata, "x-trail-", &mut trailers);
    Status::with_details_and_metadata(code, message, details, trailers)
}

/// Copies the fields whose names begin with a prefix.
fn copy(from: &MetadataMap, prefix: &str, to: &mut MetadataMap) {
    for field in from.iter() {
        match field {
            KeyAndValueRef::Ascii(key, value) if key.as_str().starts_with(prefix) => {
                to.append(key.clone(), value.clone());
            }
            KeyAndValueRef::Binary(key, value) if key.as_str().starts_with(prefix) => {
                to.append_bin(key.clone(), value.clone());
            }
            _ => {}
        }
    }
}

fn lines(metadata: &MetadataMap) -> String {
    use std::fmt::Write;
    let mut lines = String::new();
    for (name, value) in metadata.as_ref() {
        let _ = writeln!(lines, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    lines
}
