//! The task of one connection: reads, lets the session work, writes everything that is ready at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::handshake::{self, Shaken};
use super::session::Session;
use super::{Connection, Ended, Limits, SessionError, Surroundings};
use crate::wire::frame::Decoder;
use crate::wire::io::{return_read_buffer, take_read_buffer};
use crate::wire::pace::{LeastPace, Progress};

/// Events are left in the mailbox while more than this waits to be written.
const EVENTS_BELOW: usize = 256 * 1024;
/// Nothing is read while more than this waits to be written (S4).
const READ_BELOW: usize = 1024 * 1024;

/// Time for the other side to answer the ping behind a `DRAIN`.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

struct Driver<I> {
    io: I,
    session: Session,
    decoder: Decoder,
    limits: Limits,
    drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// When the other side was told to send no more calls.
    drain_since: Option<Instant>,
    timer: Timer,
    /// Bytes of a frame wait for the rest of it.
    frame_since: Option<Instant>,
    /// The socket takes no more.
    stalled: Option<Progress>,
    written: u64,
    /// When to look for calls that are too slow, if there are any that may be.
    look_at: Option<Instant>,
    /// Last frame in either direction.
    active: Instant,
}

/// Runs a connection until it ends; says why.
pub(super) async fn run(
    io: impl AsyncRead + AsyncWrite + Unpin,
    connection: Rc<Connection>,
    shaken: Shaken,
    surroundings: Surroundings,
    drain: CancellationToken,
) -> Ended {
    let mut driver = Driver {
        io,
        limits: surroundings.limits.clone(),
        session: Session::new(connection, shaken.agreed, surroundings),
        decoder: shaken.decoder,
        drain: Some(Box::pin(drain.cancelled_owned())),
        drain_since: None,
        timer: Timer::default(),
        frame_since: None,
        stalled: None,
        written: 0,
        look_at: None,
        active: now(),
    };
    let ended = match driver.parse(now()) {
        Ok(()) => poll_fn(|cx| driver.poll(cx)).await,
        Err(error) => Ended::Failed(error),
    };
    driver.session.close();
    let Driver {
        mut io, mut session, ..
    } = driver;
    match &ended {
        Ended::Failed(SessionError::Io(_) | SessionError::SlowReader(_)) => {}
        Ended::Failed(error) => {
            handshake::put_goodbye(&mut session.out, error);
            handshake::close(&mut io, &session.out).await;
        }
        Ended::Closed | Ended::Drained => handshake::close(&mut io, &session.out).await,
    }
    ended
}

impl<I: AsyncRead + AsyncWrite + Unpin> Driver<I> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            match self.round(cx, now()) {
                Ok(Round::Again) => {}
                Ok(Round::Wait) => return Poll::Pending,
                Ok(Round::Yield) => {
                    // What this read brought goes out before more is read: else all calls in flight travel as one
                    // train, and each stage waits for the last of it.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(Round::End(ended)) => return Poll::Ready(ended),
                Err(error) => return Poll::Ready(Ended::Failed(error)),
            }
        }
    }

    /// Events, one write, one read; then it knows whether to go on at once.
    fn round(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Round, SessionError> {
        if self
            .drain
            .as_mut()
            .is_some_and(|drain| drain.as_mut().poll(cx).is_ready())
        {
            self.drain = None;
            self.drain_since = Some(now);
            self.session.drain();
        }
        let mut progress = false;
        while self.session.out.len() < EVENTS_BELOW {
            let Some(event) = self.session.connection.mailbox.pop() else {
                break;
            };
            self.session.on_event(event, now);
            progress = true;
        }
        progress |= self.write(cx, now)?;
        if self.may_end(now) {
            return Ok(Round::End(Ended::Drained));
        }
        if self.session.out.len() < READ_BELOW {
            match self.read(cx, now) {
                Poll::Ready(Ok(0)) if self.decoder.is_mid_frame() => {
                    return Err(SessionError::Io(std::io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(0)) => return Ok(Round::End(Ended::Closed)),
                Poll::Ready(Ok(_)) => {
                    self.parse(now)?;
                    return Ok(Round::Yield);
                }
                Poll::Ready(Err(error)) => return Err(SessionError::Io(error)),
                Poll::Pending => {}
            }
        }
        if progress {
            self.active = now;
            return Ok(Round::Again);
        }
        let mailbox = &self.session.connection.mailbox;
        if self.session.out.len() < EVENTS_BELOW && mailbox.poll_some(cx).is_ready() {
            return Ok(Round::Again);
        }
        self.watch(cx, now)
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<std::io::Result<usize>> {
        let mut shared = take_read_buffer();
        let mut buffer = ReadBuf::new(&mut shared);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut buffer);
        let filled = buffer.filled();
        let len = filled.len();
        self.decoder.feed(filled);
        return_read_buffer(shared);
        ready!(polled)?;
        self.active = now;
        Poll::Ready(Ok(len))
    }

    fn parse(&mut self, now: Instant) -> Result<(), SessionError> {
        let mut whole = false;
        while let Some(frame) = self.decoder.next(now).map_err(SessionError::Frame)? {
            self.session.on_frame(frame, now)?;
            whole = true;
        }
        if !self.decoder.is_mid_frame() {
            self.frame_since = None;
        } else if whole || self.frame_since.is_none() {
            self.frame_since = Some(now);
        }
        Ok(())
    }

    /// Whether something was written.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, SessionError> {
        let mut progress = false;
        while !self.session.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.session.out) {
                Poll::Ready(Ok(0)) => return Err(SessionError::Io(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.session.out.advance(written);
                    self.written = self.written.saturating_add(u64::try_from(written).unwrap_or(0));
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Err(SessionError::Io(error)),
                Poll::Pending => {
                    self.stalled.get_or_insert(Progress::new(now, self.written));
                    return Ok(progress);
                }
            }
        }
        self.stalled = None;
        if progress && self.session.out.capacity() > READ_BELOW {
            self.session.out = BytesMut::new(); // a burst must not cost memory for ever
        }
        if progress && let Poll::Ready(Err(error)) = Pin::new(&mut self.io).poll_flush(cx) {
            return Err(SessionError::Io(error));
        }
        Ok(progress)
    }

    /// Whether a drained connection has nothing left to do.
    fn may_end(&self, now: Instant) -> bool {
        let known = |since: Instant| self.session.is_drain_known() || since + DRAIN_GRACE <= now;
        self.drain_since.is_some_and(known) && self.session.out.is_empty() && self.session.is_quiet()
    }

    /// Nothing to do: looks what has taken too long and sets the timer for what will.
    fn watch(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Round, SessionError> {
        let limits = &self.limits;
        let write = LeastPace {
            time: limits.write_timeout,
            ..limits.body_pace
        };
        let written = self.written;
        let is_slow = |stalled: &mut Progress| stalled.is_slow(now, written, 0, &write);
        if self.stalled.as_mut().is_some_and(is_slow) {
            return Err(SessionError::SlowReader(limits.write_timeout));
        }
        let has_long = limits.body_pace.is_some() && self.session.has_long_calls();
        self.look_at = has_long.then(|| self.look_at.unwrap_or(now + limits.body_pace.look_again()));
        let idle = !limits.idle_timeout.is_zero() && self.session.is_quiet();
        let watched = [
            self.frame_since.map(|since| since + limits.frame_timeout),
            self.stalled.map(|stalled| stalled.due(&write)),
            self.look_at,
            idle.then(|| self.active + limits.idle_timeout),
            // Looked at by `may_end` when it comes; with calls open it means nothing.
            self.drain_since
                .map(|since| since + DRAIN_GRACE)
                .filter(|due| *due > now),
        ];
        let [frame, _, look, idle, _] = watched.map(|due| due.is_some_and(|due| due <= now));
        if frame {
            return Err(SessionError::SlowFrame(limits.frame_timeout));
        }
        if look {
            self.look_at = None;
            self.session.end_slow_calls(now);
            return Ok(Round::Again);
        }
        if idle {
            return Err(SessionError::Idle(limits.idle_timeout));
        }
        match watched.into_iter().flatten().min() {
            Some(due) if self.timer.is_due(due, now, cx) => Ok(Round::Again),
            _ => Ok(Round::Wait),
        }
    }
}

enum Round {
    Again,
    Wait,
    Yield,
    End(Ended),
}

/// A timer that is only ever made to fire earlier; firing too early does no harm.
#[derive(Default)]
struct Timer(Option<(Instant, Pin<Box<Sleep>>)>);

impl Timer {
    /// Wakes the task at `due` or before; `true` if it has fired by now.
    fn is_due(&mut self, due: Instant, now: Instant, cx: &mut Context<'_>) -> bool {
        match &mut self.0 {
            Some((at, _)) if *at <= due && *at > now => {}
            _ => {
                let wait = due.saturating_duration_since(now).max(Duration::from_millis(1));
                self.0 = Some((due, Box::pin(tokio::time::sleep(wait))));
            }
        }
        let fired = self
            .0
            .as_mut()
            .is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if fired {
            self.0 = None;
        }
        fired
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
