//! Opens streams, with pauses after failures.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tonic::codegen::http::Uri;
use tonic::codegen::{BoxFuture, Service};

/// Any byte stream.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

type Stream = Box<dyn Bytes>;
type Dial = dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>> + Send + Sync;

/// Opens a stream when the channel wants one.
#[derive(Clone)]
pub(super) struct Connector {
    dial: Arc<Dial>,
    pause: Arc<Mutex<Pause>>,
}

/// When it may be tried again.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Connector {
    pub(super) fn new<D, F, T>(dial: D) -> Self
    where
        D: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let dial = Arc::new(dial);
        Self {
            dial: Arc::new(move || {
                let dialled = dial();
                Box::pin(async move { dialled.await.map(|io| -> Stream { Box::new(io) }) })
            }),
            pause: Arc::default(),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dial, pause } = self.clone();
        Box::pin(async move {
            if pause.lock().until.is_some_and(|until| Instant::now() < until) {
                return Err(io::Error::other("it could not be reached a moment ago"));
            }
            let dialled = match timeout(DIAL_LIMIT, dial()).await {
                Ok(dialled) => dialled,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let mut pause = pause.lock();
            match dialled {
                Ok(stream) => {
                    *pause = Pause::default();
                    Ok(TokioIo::new(stream))
                }
                Err(error) => {
                    pause.failures += 1;
                    pause.until = Some(Instant::now() + pause_after(pause.failures, fastrand::f64()));
                    Err(error)
                }
            }
        })
    }
}

/// Doubled by each failure, and spread so that relays do not all come at once.
fn pause_after(failures: u32, dice: f64) -> Duration {
    let longest = PAUSE_MIN
        .saturating_mul(1 << failures.saturating_sub(1).min(6))
        .min(PAUSE_MAX);
    longest.mul_f64(0.5 + dice / 2.0)
}

const DIAL_LIMIT: Duration = Duration::from_secs(3);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        assert_eq!(pause_after(1, 1.0), PAUSE_MIN);
        assert_eq!(pause_after(1, 0.0), PAUSE_MIN / 2);
        assert_eq!(pause_after(3, 1.0), PAUSE_MIN * 4);
        assert_eq!(pause_after(u32::MAX, 1.0), PAUSE_MAX);
    }
}
