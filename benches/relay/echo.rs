//! The service behind every peer: sends each body back. A process of its own (the benchmark runs itself
//! again), one thread, HTTP/2 on the h2 crate; its cost is the same for all. It says that it has no health
//! check, because an echoed one would count as "not serving".

use std::net::TcpListener;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Serves a port until the process is ended.
pub fn serve(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            tokio::task::spawn_local(connection(stream));
        }
    });
}

async fn connection(stream: TcpStream) {
    let handshake = server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(64 << 20)
        .max_concurrent_streams(10_000)
        .max_send_buffer_size(16 << 20)
        .handshake(stream)
        .await;
    let Ok(mut connection) = handshake else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if request.uri().path() == "/grpc.health.v1.Health/Check" {
            let response = Response::builder().header("grpc-status", HeaderValue::from_static("12"));
            let _ = respond.send_response(response.body(()).unwrap(), true);
            continue;
        }
        tokio::task::spawn_local(answer(request, respond));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let response = Response::builder()
        .header("content-type", HeaderValue::from_static("application/grpc"))
        .body(())
        .unwrap();
    let Ok(mut reply) = respond.send_response(response, false) else {
        return;
    };
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        if reply.send_data(chunk, false).is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = reply.send_trailers(trailers);
}
