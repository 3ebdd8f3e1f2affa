//! The gRPC side: paths to questions, and a byte stream as tonic wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::pieces::{Pieces, Rest};
use super::{Authority, Caller};
use crate::control::question::{Question, document};
use crate::control::store::StoreError;
use crate::wire::authority::{self as message, ASK, Piece, SERVICE, WATCH};
use crate::wire::service::{Paths, no_such_method};

/// What one caller may ask.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) authority: Authority,
    pub(super) caller: Caller,
    pub(super) over: CancellationToken,
}

impl Paths for Service {
    const NAME: &'static str = SERVICE;

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let watch = match request.uri().path() {
            ASK => false,
            WATCH => true,
            _ => return no_such_method(),
        };
        let mut grpc =
            Grpc::new(ProstCodec::<Piece, message::Question>::default()).max_decoding_message_size(QUESTION_BYTES_MAX);
        grpc.server_streaming(Method { service: self, watch }, request).await
    }
}

/// One of the two methods.
struct Method {
    service: Service,
    watch: bool,
}

impl ServerStreamingService<message::Question> for Method {
    type Response = Piece;
    type ResponseStream = Pieces;
    type Future = BoxFuture<Response<Pieces>, Status>;

    fn call(&mut self, request: Request<message::Question>) -> Self::Future {
        let (service, watch) = (self.service.clone(), self.watch);
        Box::pin(async move {
            let question: Question = serde_json::from_slice(&request.into_inner().json)
                .map_err(|error| Status::invalid_argument(format!("this is no question: {error}")))?;
            let Service {
                authority,
                caller,
                over,
            } = service;
            let failed = |error: StoreError| document::<()>(&Err(error));
            let pieces = match question {
                Question::Watch(from) if watch => match authority.watch(from).await {
                    Ok(feed) => Pieces::new(None, Rest::Feed(feed), &over),
                    Err(error) => Pieces::new(Some(failed(error)), Rest::Nothing, &over),
                },
                Question::Reports if watch => match authority.reports().await {
                    // Nothing may be reported for long: that it listens is said at once.
                    Ok(reports) => Pieces::new(Some(document(&Ok::<_, StoreError>(()))), Rest::Reports(reports), &over),
                    Err(error) => Pieces::new(Some(failed(error)), Rest::Nothing, &over),
                },
                question => {
                    let answer = authority.answer(&caller, question).await.unwrap_or_else(failed);
                    Pieces::new(Some(answer), Rest::Nothing, &over)
                }
            };
            Ok(Response::new(pieces))
        })
    }
}

/// A byte stream; when the server drops it, all that belongs to it ends.
pub(super) struct Io<T> {
    io: T,
    _over: DropGuard,
}

impl<T> Io<T> {
    pub(super) fn new(io: T, over: DropGuard) -> Self {
        Self { io, _over: over }
    }
}

impl<T> Connected for Io<T> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// A move of 10000 nodes with long keys fits.
const QUESTION_BYTES_MAX: usize = 16 << 20;
