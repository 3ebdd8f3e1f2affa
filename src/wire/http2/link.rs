//! A session and its socket: moves bytes, and notices a peer that is too slow or gone.
//!
//! # Invariants
//! - L1. A batch is read whole, then everything it caused is written in one write.
//! - L2. Reading goes on while a write waits, so two relays cannot wait for each other; what the peer can
//!   pile up that way is bounded by the session (H3).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use super::{Limits, Session, SessionError, Side, code};
use crate::wire::io::{self as buffers, BoxIo};
use crate::wire::pace::{LeastPace, Progress};

/// How slow a peer may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// From the start until the peer's settings are there.
    pub settings: Duration,
    /// From the first to the last byte of a header block.
    pub headers: Duration,
    /// A write that goes on at less than this.
    pub write: LeastPace,
    /// Silence after which the peer is asked for a sign of life; zero for never.
    pub keepalive: Duration,
    /// How long it may take to answer that.
    pub keepalive_answer: Duration,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The peer closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// Both sides have said that they are done.
    #[error("the connection is done")]
    Over,
    /// HTTP/2 was broken.
    #[error("the session failed")]
    Session(#[source] SessionError),
    /// The peer was too slow in something.
    #[error("the other side took too long to {0}")]
    Slow(&'static str),
}

impl LinkEnd {
    /// One word for labels.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Io(_) => "failed",
            Self::Over => "over",
            Self::Session(_) => "protocol",
            Self::Slow(_) => "slow",
        }
    }

    /// All of [`LinkEnd::word`].
    pub const WORDS: [&'static str; 5] = ["closed", "failed", "over", "protocol", "slow"];
}

/// A session with its socket and its timers. Made and polled on a tokio runtime.
pub struct Link {
    io: BoxIo,
    /// The session; its events belong to the owner of the link.
    pub session: Session,
    /// A write that did not complete, and how much of it is out.
    rest: Option<(BytesMut, usize)>,
    failed: Option<SessionError>,
    vitals: Vitals,
    sleep: Pin<Box<Sleep>>,
}

impl Link {
    /// A link over a connected socket.
    ///
    /// # Errors
    /// [`SessionError::Memory`].
    pub fn new(io: BoxIo, side: Side, limits: Limits, pace: Pace) -> Result<Self, SessionError> {
        let now = tokio::time::Instant::now();
        let vitals = Vitals::new(pace, now.into_std());
        Ok(Self {
            io,
            session: Session::new(side, limits)?,
            rest: None,
            failed: None,
            sleep: Box::pin(tokio::time::sleep_until(vitals.next().into())),
            vitals,
        })
    }

    /// Reads one batch into the session. Ready with the time of the read; take all events then.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Instant, LinkEnd>> {
        if self.failed.is_some() {
            // What is left to say is being written; nothing more is listened to.
            return Poll::Pending;
        }
        let mut memory = buffers::take_read_buffer();
        let mut buffer = ReadBuf::new(&mut memory);
        let result = Pin::new(&mut *self.io).poll_read(cx, &mut buffer);
        let outcome = match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(LinkEnd::Io(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(LinkEnd::Closed)),
            Poll::Ready(Ok(())) => {
                let now = tokio::time::Instant::now().into_std();
                if let Err(error) = self.session.recv(buffer.filled(), now) {
                    self.failed = Some(error);
                }
                self.vitals.on_read(now, self.session.is_in_header_block());
                self.rearm();
                Poll::Ready(Ok(now))
            }
        };
        buffers::return_read_buffer(memory);
        outcome
    }

    /// Writes all that is ready and that the socket takes. `true` if anything went out.
    ///
    /// # Errors
    /// [`LinkEnd`] if that was the last of it.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut any = false;
        loop {
            let (mut buffer, mut done) = self.rest.take().unwrap_or_else(|| self.fill());
            if buffer.is_empty() {
                buffers::return_write_buffer(buffer);
                if let Some(error) = self.failed {
                    return Err(LinkEnd::Session(error));
                }
                return if self.session.is_over() {
                    Err(LinkEnd::Over)
                } else {
                    Ok(any)
                };
            }
            while done < buffer.len() {
                let piece = buffer.get(done..).unwrap_or_default();
                match Pin::new(&mut *self.io).poll_write(cx, piece) {
                    Poll::Ready(Ok(0)) => return Err(LinkEnd::Closed),
                    Poll::Ready(Ok(written)) => {
                        done += written;
                        any = true;
                        self.vitals.on_written(written);
                    }
                    Poll::Ready(Err(error)) => return Err(LinkEnd::Io(error)),
                    Poll::Pending => {
                        self.rest = Some((buffer, done));
                        self.vitals.on_write_blocked(tokio::time::Instant::now().into_std());
                        self.rearm();
                        return Ok(any);
                    }
                }
            }
            self.vitals.on_all_written();
            buffer.clear();
            buffers::return_write_buffer(buffer);
        }
    }

    /// Whether the socket takes nothing more for now.
    pub fn is_write_blocked(&self) -> bool {
        self.rest.is_some()
    }

    /// Looks after the timers; asks for a sign of life if need be.
    ///
    /// # Errors
    /// [`LinkEnd::Slow`].
    pub fn poll_time(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = tokio::time::Instant::now().into_std();
            match self.vitals.check(now) {
                Verdict::Fine => {}
                Verdict::Ping => self.session.ping(),
                Verdict::Slow(what) => return Err(LinkEnd::Slow(what)),
            }
            self.sleep.as_mut().reset(self.vitals.next().into());
        }
        Ok(())
    }

    /// The peer's settings arrived.
    pub fn on_settings(&mut self) {
        self.vitals.settings_by = None;
    }

    /// Asks the peer for a sign of life now; `Event::Pong` or the end of the link follows.
    pub fn ask(&mut self) {
        self.session.ping();
        self.vitals.answer_by = Some(tokio::time::Instant::now().into_std() + self.vitals.pace.keepalive_answer);
        self.rearm();
    }

    /// Writes what the socket takes without waiting, after the owner decided to end: a GOAWAY, say.
    pub fn say_goodbye(&mut self, cx: &mut Context<'_>, code: u32) {
        self.session.terminate(code);
        let _ = self.poll_write(cx);
    }

    /// What the session wants written.
    fn fill(&mut self) -> (BytesMut, usize) {
        let mut buffer = buffers::take_write_buffer();
        if let Err(error) = self.session.send_into(&mut buffer, buffers::WRITE_BYTES) {
            self.failed.get_or_insert(error);
        }
        (buffer, 0)
    }

    fn rearm(&mut self) {
        let next = tokio::time::Instant::from_std(self.vitals.next());
        if next < self.sleep.deadline() {
            self.sleep.as_mut().reset(next);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.failed.is_none() && !self.session.is_over() && self.rest.is_none() {
            // A relay that ends says so if that costs nothing.
            self.say_goodbye(&mut Context::from_waker(std::task::Waker::noop()), code::NO_ERROR);
        }
    }
}

/// Signs of life of a peer. Pure: time is an argument.
#[derive(Debug)]
struct Vitals {
    pace: Pace,
    settings_by: Option<Instant>,
    headers_by: Option<Instant>,
    written: u64,
    blocked: Option<Progress>,
    last_read: Instant,
    answer_by: Option<Instant>,
}

#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    Fine,
    Ping,
    Slow(&'static str),
}

impl Vitals {
    fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            settings_by: Some(now + pace.settings),
            headers_by: None,
            written: 0,
            blocked: None,
            last_read: now,
            answer_by: None,
        }
    }

    fn on_read(&mut self, now: Instant, in_header_block: bool) {
        self.last_read = now;
        self.answer_by = None;
        if in_header_block {
            self.headers_by.get_or_insert(now + self.pace.headers);
        } else {
            self.headers_by = None;
        }
    }

    fn on_written(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(u64::try_from(bytes).unwrap_or(0));
    }

    fn on_all_written(&mut self) {
        self.blocked = None;
    }

    fn on_write_blocked(&mut self, now: Instant) {
        self.blocked.get_or_insert(Progress::new(now, self.written));
    }

    fn check(&mut self, now: Instant) -> Verdict {
        let is_past = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        if is_past(self.settings_by) {
            return Verdict::Slow("send its HTTP/2 preface and settings");
        }
        if is_past(self.headers_by) {
            return Verdict::Slow("complete a header block");
        }
        let (written, write) = (self.written, self.pace.write);
        let blocked = self.blocked.as_mut();
        if blocked.is_some_and(|blocked| blocked.is_slow(now, written, 0, &write)) {
            return Verdict::Slow("read what was written to it");
        }
        if is_past(self.answer_by) {
            return Verdict::Slow("answer a ping");
        }
        if self.answer_by.is_none() && self.keepalive_at().is_some_and(|at| at <= now) {
            self.answer_by = Some(now + self.pace.keepalive_answer);
            return Verdict::Ping;
        }
        Verdict::Fine
    }

    /// When to check again.
    fn next(&self) -> Instant {
        let life = self.answer_by.or(self.keepalive_at());
        let write_by = self.blocked.map(|blocked| blocked.due(&self.pace.write));
        [self.settings_by, self.headers_by, write_by]
            .into_iter()
            .flatten()
            .chain(life)
            .min()
            .unwrap_or(self.last_read + FAR)
    }

    fn keepalive_at(&self) -> Option<Instant> {
        (!self.pace.keepalive.is_zero()).then(|| self.last_read + self.pace.keepalive)
    }
}

/// When nothing is to be checked.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn vitals() -> (Vitals, Instant) {
        let pace = Pace {
            settings: 5 * SECOND,
            headers: 10 * SECOND,
            write: LeastPace {
                bytes_per_second: 1024,
                time: 30 * SECOND,
            },
            keepalive: 20 * SECOND,
            keepalive_answer: 3 * SECOND,
        };
        let now = tokio::time::Instant::now().into_std();
        (Vitals::new(pace, now), now)
    }

    // T13
    #[test]
    fn each_kind_of_slowness_has_its_own_limit() {
        let (mut vitals, start) = vitals();
        assert_eq!(vitals.next(), start + 5 * SECOND);
        assert_eq!(vitals.check(start + 4 * SECOND), Verdict::Fine);
        assert!(matches!(vitals.check(start + 5 * SECOND), Verdict::Slow(_)));
        vitals.settings_by = None;
        // Bytes that drip into one block do not move its limit.
        for second in 0..10 {
            vitals.on_read(start + second * SECOND, true);
        }
        assert_eq!(vitals.next(), start + 10 * SECOND);
        assert!(matches!(vitals.check(start + 10 * SECOND), Verdict::Slow(_)));
        vitals.on_read(start + 9 * SECOND, false);
        vitals.on_write_blocked(start);
        vitals.on_write_blocked(start + 20 * SECOND);
        assert!(matches!(vitals.check(start + 30 * SECOND), Verdict::Slow(_)));
        // A few bytes are not enough, and what keeps the pace begins anew.
        vitals.on_written(100);
        assert!(matches!(vitals.check(start + 30 * SECOND), Verdict::Slow(_)));
        vitals.on_written(30 * 1024);
        assert_eq!(vitals.check(start + 29 * SECOND), Verdict::Ping);
        vitals.on_all_written();
        assert_eq!(vitals.next(), start + 32 * SECOND);
        assert!(matches!(vitals.check(start + 32 * SECOND), Verdict::Slow(_)));
        vitals.on_read(start + 31 * SECOND, false);
        assert_eq!(vitals.next(), start + 51 * SECOND);
    }

    #[test]
    fn without_keepalive_an_idle_peer_is_left_alone() {
        let (mut vitals, start) = vitals();
        vitals.settings_by = None;
        vitals.pace.keepalive = Duration::ZERO;
        assert_eq!(vitals.check(start + 100_000 * SECOND), Verdict::Fine);
        assert!(vitals.next() > start + 1000 * SECOND);
    }
}
