//! A client that can say anything.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use strait::model::{CallId, Callee, CallerRef};
use strait::wire::frame::{self, Decoder, Encoder, Frame};
use strait::wire::hello::{self, Hello, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::relay::Relay;

/// A TCP connection to a relay.
pub struct Raw {
    stream: TcpStream,
    decoder: Decoder,
    pub encoder: Encoder,
}

impl Raw {
    /// Connects and says nothing.
    pub async fn silent(relay: &Relay) -> Self {
        let stream = TcpStream::connect(relay.tcp.strip_prefix("tcp://").unwrap())
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            decoder: Decoder::new(1 << 20),
            encoder: Encoder::new(),
        }
    }

    /// Connects and shakes hands.
    pub async fn connect(relay: &Relay) -> Self {
        let mut raw = Self::silent(relay).await;
        raw.hello(&Hello::new(Purpose::Service, 100)).await;
        assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
        raw
    }

    pub async fn hello(&mut self, hello: &Hello) {
        let mut out = BytesMut::new();
        frame::put_hello(&mut out, &hello::encode(hello));
        self.send(&out).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends a byte every few milliseconds until the other side has closed. Never ends.
    pub async fn drip(&mut self) {
        while self.stream.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::future::pending::<()>().await;
    }

    /// Sends a request with this body; more follows unless `end`.
    pub async fn request(&mut self, id: u64, path: &str, body: &[u8], end: bool) {
        let mut out = BytesMut::new();
        let mut request = request(path, body);
        request.body.end = end;
        self.encoder.request(&mut out, id, &request, false, Instant::now());
        self.send(&out).await;
    }

    /// The next frame; `None` when the relay has closed.
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                if let Some(frame) = self.decoder.next(Instant::now()).unwrap() {
                    return Some(frame);
                }
                // A reset after the last frame is an end as well.
                if self.stream.read_buf(self.decoder.buffer()).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
        .expect("no frame and no end")
    }

    /// The text of the last frame before the end.
    pub async fn goodbye(&mut self) -> String {
        let mut text = String::new();
        while let Some(frame) = self.next().await {
            if let Frame::Failed {
                id: frame::CONNECTION,
                error,
            } = frame
            {
                text = error.to_string();
            }
        }
        text
    }
}

/// A plain framed request.
pub fn request(path: &str, body: &[u8]) -> strait::model::Request {
    strait::model::Request {
        path: bytes::Bytes::copy_from_slice(path.as_bytes()),
        authority: bytes::Bytes::new(),
        envelope: strait::model::Envelope::Framed,
        metadata: strait::model::Metadata::default(),
        hints: strait::model::RouteHints::default(),
        facts: strait::model::Facts::default(),
        received: Instant::now(),
        deadline: None,
        body: strait::model::RequestBody {
            chunk: bytes::Bytes::copy_from_slice(body),
            end: true,
        },
    }
}

/// Opens a call at a callee, or says why not.
pub fn open(callee: &dyn Callee, request: strait::model::Request, back: CallerRef) -> Result<CallId, String> {
    callee
        .open(Box::new(request), back)
        .map_err(|refused| refused.error.to_string())
}
