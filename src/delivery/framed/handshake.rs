//! First frames of a connection, and its last words.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Limits, SessionError};
use crate::model::{Reason, RelayError, Retry};
use crate::wire::frame::{CONNECTION, Decoder, Frame, put_failed, put_hello};
use crate::wire::hello::{self, Agreed, Hello, Purpose};

/// Time for the last words of a connection to be taken.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes that are read and thrown away while saying goodbye.
const GOODBYE_BYTES: u64 = 1024 * 1024;

/// A connection whose two sides know each other.
pub(super) struct Shaken {
    /// What the other side accepts.
    pub(super) agreed: Agreed,
    /// Holds what was read after the hello.
    pub(super) decoder: Decoder,
}

/// Sends our hello and waits for the other's.
pub(super) async fn shake(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limits: &Limits,
    calls_max: u32,
) -> Result<Shaken, SessionError> {
    let ours = Hello {
        bytes_max: u64::try_from(limits.call_bytes_max).unwrap_or(u64::MAX),
        frame_bytes_max: u32::try_from(limits.frame_bytes_max).unwrap_or(u32::MAX),
        features: vec![hello::ROUTES.to_owned()],
        ..Hello::new(Purpose::Service, calls_max)
    };
    let mut decoder = Decoder::new(limits.frame_bytes_max);
    let exchange = async {
        let mut out = BytesMut::new();
        put_hello(&mut out, &hello::encode(&ours));
        io.write_all(&out).await.map_err(SessionError::Io)?;
        io.flush().await.map_err(SessionError::Io)?;
        first_frame(io, &mut decoder).await
    };
    let theirs = timeout(limits.hello_timeout, exchange)
        .await
        .map_err(|_| SessionError::HelloTimeout(limits.hello_timeout))??;
    let agreed = hello::negotiate(&ours, &theirs).map_err(SessionError::Hello)?;
    Ok(Shaken { agreed, decoder })
}

async fn first_frame(io: &mut (impl AsyncRead + Unpin), decoder: &mut Decoder) -> Result<Hello, SessionError> {
    loop {
        match decoder.next(Instant::now().into_std()).map_err(SessionError::Frame)? {
            Some(Frame::Hello(body)) => return hello::decode(&body).map_err(SessionError::Hello),
            Some(Frame::Failed { id: CONNECTION, error }) => return Err(SessionError::Refused(error.detail)),
            Some(Frame::Unknown(_)) => {}
            Some(_) => return Err(SessionError::Violation("the first frame must be HELLO")),
            None => {
                if io.read_buf(decoder.buffer()).await.map_err(SessionError::Io)? == 0 {
                    return Err(SessionError::Io(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }
}

/// Tells the other side why, closes, and gives the error back.
pub(super) async fn give_up(io: &mut (impl AsyncRead + AsyncWrite + Unpin), error: SessionError) -> SessionError {
    let mut out = BytesMut::new();
    put_goodbye(&mut out, &error);
    close(io, &out).await;
    error
}

/// The last frame of a connection; nothing if there is nobody to tell.
pub(super) fn put_goodbye(out: &mut BytesMut, error: &SessionError) {
    if !matches!(error, SessionError::Io(_) | SessionError::Refused(_)) {
        let error = RelayError::new(Reason::BadInput, Retry::Ambiguous, error.to_string());
        put_failed(out, CONNECTION, &error);
    }
}

/// Writes what is left and closes. Reads on for a moment: bytes that nobody reads would make the
/// kernel reset the connection, and the last words would be lost with it.
pub(super) async fn close(io: &mut (impl AsyncRead + AsyncWrite + Unpin), out: &[u8]) {
    let words = async {
        io.write_all(out).await?;
        io.shutdown().await?;
        tokio::io::copy(&mut (&mut *io).take(GOODBYE_BYTES), &mut tokio::io::sink()).await
    };
    // Whoever does not listen to a goodbye has no other way of hearing it.
    let _ = timeout(GOODBYE, words).await;
}
