//! A session against a peer that does whatever it likes, with an owner that does the same (H1 to H4).
//!
//! The input is a list of steps: frames of the peer, well formed or not, mixed with what ingress and delivery
//! may ask of a session at any time. The model knows what a session may still say about each stream.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use strait::model::{Metadata, MetadataBuilder};
use strait::wire::http2::{Event, Limits, Part, RequestHead, Session, Side, StreamRef, code};

/// The first byte says which side the session is; the rest are steps.
pub fn http2(data: &[u8]) {
    let Some((first, steps)) = data.split_first() else {
        return;
    };
    let side = if first & 1 == 0 { Side::Server } else { Side::Client };
    let mut run = Run::new(side);
    let mut steps = Steps(steps);
    while let Some(step) = steps.byte() {
        if run.step(step, &mut steps).is_none() {
            return;
        }
    }
    run.end();
}

/// Small limits, so that inputs of a few hundred bytes get there.
fn limits(side: Side) -> Limits {
    Limits {
        streams_max: if side == Side::Server { 8 } else { 0 },
        fields_max: 8,
        fields_bytes_max: 1024,
        stream_window: 4096,
        connection_window: 65_535,
        held_bytes_max: 8192,
        idle_frames_max: 50,
        ..Limits::default()
    }
}

struct Run {
    session: Session,
    side: Side,
    now: Instant,
    /// Streams that were heard of, by number.
    streams: HashMap<u32, Stream>,
    /// The same in the order in which they appeared.
    order: Vec<StreamRef>,
    /// Body bytes fed.
    fed: usize,
    /// The session was told to end, or the peer does not let it go on.
    is_ended: bool,
    tokens: u64,
}

#[derive(Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says something that is independent of the others"
)]
struct Stream {
    token: u64,
    has_head: bool,
    has_trailers: bool,
    /// The peer is done with its side.
    has_ended: bool,
    /// It broke off.
    is_closed: bool,
    /// The owner has begun to answer; it does so once.
    is_answered: bool,
    /// The owner gave it up or has answered all: nothing more may be said about it.
    is_left: bool,
    /// Body bytes submitted with credit, and those reported as sent.
    credited: usize,
    sent: usize,
}

impl Run {
    fn new(side: Side) -> Self {
        let mut run = Self {
            session: Session::new(side, limits(side)).expect("memory"),
            side,
            now: Instant::now(),
            streams: HashMap::new(),
            order: Vec::new(),
            fed: 0,
            is_ended: false,
            tokens: 0,
        };
        let preface: &[u8] = match side {
            Side::Server => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            Side::Client => b"\0\0\0\x04\0\0\0\0\0",
        };
        run.receive(preface).expect("a preface is legal");
        run
    }

    /// One step; `None` at the end of the input, and once the session is broken, as a link ends then.
    fn step(&mut self, step: u8, steps: &mut Steps<'_>) -> Option<()> {
        match step % 16 {
            kind @ 0..8 => {
                let bytes = self.frame(kind, steps)?;
                self.receive(&bytes)?;
            }
            8 => self.open(steps.piece()),
            9 => self.answer(steps.byte()?, steps.byte()? & 1 == 1),
            10 => {
                let (at, length) = (steps.byte()?, usize::from(steps.byte()?) * 100);
                self.submit(at, length, steps.byte()? & 1 == 1);
            }
            11 => self.finish(steps.byte()?, steps.byte()? & 1 == 1),
            12 => {
                let stream = self.stream(steps.byte()?);
                self.session.reset(stream, code::CANCEL);
                self.leave(stream);
            }
            13 => {
                let (stream, bytes) = (self.stream(steps.byte()?), usize::from(steps.byte()?) * 32);
                self.session.consume(stream, bytes);
            }
            14 => {
                self.write(usize::from(steps.byte()?) * 256)?;
            }
            _ => self.rest(steps.byte()?),
        }
        Some(())
    }

    /// What the peer sends in a step: anything, any frame, or a frame of a kind that matters.
    fn frame(&self, kind: u8, steps: &mut Steps<'_>) -> Option<Vec<u8>> {
        if kind == 0 {
            return Some(steps.piece().to_vec());
        }
        if kind < 3 {
            let (kind, flags, stream) = (steps.byte()? % 12, steps.byte()?, self.number(steps.byte()?));
            return Some(frame(kind, flags, stream, steps.piece()));
        }
        let (extra, stream) = (steps.byte()?, self.number(steps.byte()?));
        Some(match kind {
            3 | 4 => {
                let head: &[u8] = match self.side {
                    Side::Server => b"\x83\x86\x84\x41\x01a",
                    Side::Client => b"\x88",
                };
                let block = [head, &field(steps.piece())].concat();
                frame(1, 4 | (extra & 1), stream, &block)
            }
            5 => frame(0, extra & 1, stream, &vec![7; usize::from(steps.byte()?) * 64]),
            6 => frame(3, 0, stream, &[0, 0, 0, extra % 14]),
            _ => frame(8, 0, stream, &[0, 0, extra, 1]),
        })
    }

    fn rest(&mut self, what: u8) {
        match what % 5 {
            0 => self.session.ping(),
            1 => self.session.announce_goaway(),
            2 => self.session.goaway(code::NO_ERROR),
            3 => self.now += Duration::from_secs(1),
            _ => {
                self.is_ended = true;
                self.session.terminate(code::NO_ERROR);
            }
        }
    }

    // ---- the owner

    /// A client opens a stream.
    fn open(&mut self, piece: &[u8]) {
        let is_full = self.session.open_streams() >= self.session.peer_streams_max();
        if self.side == Side::Server || is_full || !self.session.takes_requests() {
            return;
        }
        let value = text(piece);
        self.tokens += 1;
        let head = RequestHead {
            authority: b"a",
            path: b"/s/m",
            fields: &fields(&value),
            added: &[(b"te", b"trailers")],
        };
        let Ok(stream) = self.session.request(self.tokens, &head) else {
            return;
        };
        let known = Stream {
            token: self.tokens,
            ..Stream::default()
        };
        assert!(
            self.streams.insert(stream.id, known).is_none(),
            "a number is used twice"
        );
        self.order.push(stream);
    }

    fn answer(&mut self, at: u8, end: bool) {
        let stream = self.stream(at);
        let is_first = |known: &mut Stream| !std::mem::replace(&mut known.is_answered, true);
        if self.side == Side::Server && self.streams.get_mut(&stream.id).is_some_and(is_first) {
            self.session.respond(stream, 200, &fields("ok"), end);
            if end {
                self.leave(stream);
            }
        }
    }

    fn submit(&mut self, at: u8, length: usize, credit: bool) {
        let stream = self.stream(at);
        self.session.body(stream, Bytes::from(vec![9; length]), credit);
        if credit && let Some(known) = self.streams.get_mut(&stream.id) {
            known.credited += length;
        }
    }

    fn finish(&mut self, at: u8, trailers: bool) {
        let stream = self.stream(at);
        let is_answered = |known: &Stream| known.is_answered;
        if self.side == Side::Server && !self.streams.get(&stream.id).is_some_and(is_answered) {
            return;
        }
        self.session.finish(stream, trailers.then(|| fields("0")));
        if self.side == Side::Server {
            self.leave(stream);
        }
    }

    fn leave(&mut self, stream: StreamRef) {
        if let Some(known) = self.streams.get_mut(&stream.id) {
            known.is_left = true;
        }
    }

    // ---- the wire

    fn receive(&mut self, bytes: &[u8]) -> Option<()> {
        self.fed += bytes.len();
        let result = self.session.recv(bytes, self.now);
        self.take_events();
        result.ok()
    }

    /// Writes about this much; gives how much it was.
    fn write(&mut self, limit: usize) -> Option<usize> {
        let mut out = BytesMut::new();
        let result = self.session.send_into(&mut out, limit);
        assert!(out.len() < limit + WRITE_SLACK, "{} of {limit} bytes", out.len());
        self.take_events();
        result.ok().map(|()| out.len())
    }

    fn take_events(&mut self) {
        while let Some(event) = self.session.next_event() {
            match event {
                Event::Part(part) => self.on_part(&part),
                Event::Closed { stream, token, .. } => {
                    let known = self.known(stream, token);
                    assert!(!known.is_left, "a stream that was left is reported as closed");
                    assert!(!known.is_closed, "a stream is closed twice");
                    assert!(token == 0 || !known.has_ended, "an answer is complete, and then closed");
                    known.is_closed = true;
                }
                Event::Sent { stream, token, bytes } => {
                    let known = self.known(stream, token);
                    known.sent += bytes;
                    assert!(known.sent <= known.credited, "more went out than there was");
                }
                Event::Goaway { .. } | Event::Pong | Event::Settings => {}
            }
        }
        let limits = limits(self.side);
        let held = self.session.held_bytes();
        // What a window lets in after the last look; the library's own window is never below 65,535.
        assert!(held <= limits.held_bytes_max + 2 * 65_535, "{held} bytes are held");
        assert!(held <= self.fed, "more is held than came");
        if self.side == Side::Server {
            let open = self.session.open_streams();
            assert!(open <= 101, "{open} streams are open"); // 100: what may be open before settings are acknowledged
        }
    }

    fn on_part(&mut self, part: &Part) {
        if self.side == Side::Server && part.head.is_some() {
            assert!(
                !self.streams.contains_key(&part.stream.id),
                "a request begins twice: {part:?}"
            );
            self.streams.insert(part.stream.id, Stream::default());
            self.order.push(part.stream);
        }
        let fed = self.fed;
        let known = self.known(part.stream, part.token);
        let is_over = known.has_ended || known.is_closed || known.is_left;
        assert!(!is_over, "news of a stream that is over: {part:?}");
        assert!(!(known.has_head && part.head.is_some()), "two heads: {part:?}");
        known.has_head |= part.head.is_some();
        assert!(known.has_head, "a body or trailers without a head: {part:?}");
        assert!(!known.has_trailers, "something follows the trailers: {part:?}");
        known.has_trailers |= part.trailers.is_some();
        assert!(part.end || part.trailers.is_none(), "trailers do not end: {part:?}");
        assert!(part.chunk.len() <= fed);
        known.has_ended |= part.end;
        if let Some(head) = &part.head {
            assert!(head.fields.len() + head.apart.len() <= 8, "too many fields: {head:?}");
        }
    }

    fn known(&mut self, stream: StreamRef, token: u64) -> &mut Stream {
        let known = self.streams.get_mut(&stream.id).expect("news of a stream nobody knows");
        assert_eq!(known.token, token, "the token of another stream");
        known
    }

    /// When its owner lets go of every stream and all is written, nothing is left.
    fn end(mut self) {
        if self.is_ended || self.session.is_in_header_block() {
            return;
        }
        for stream in std::mem::take(&mut self.order) {
            self.session.reset(stream, code::CANCEL);
            self.leave(stream);
        }
        while self.write(1 << 16).is_some_and(|bytes| bytes > 0) {}
        // A request that was not out when the peer began to allow fewer waits until it allows more.
        let waits = self.side == Side::Client && self.session.peer_streams_max() < self.session.open_streams();
        if waits || self.session.is_over() {
            return;
        }
        assert_eq!((self.session.open_streams(), self.session.held_bytes()), (0, 0));
    }

    /// A stream by its place, those that are gone included.
    fn stream(&self, at: u8) -> StreamRef {
        let count = self.order.len().max(1);
        // Steps without a stream do nothing: this number is never given out.
        let nobody = StreamRef { index: 0, id: 1 << 30 };
        self.order.get(usize::from(at) % count).copied().unwrap_or(nobody)
    }

    /// The number of a stream of the peer's frames: small ones, so that they meet.
    fn number(&self, at: u8) -> u32 {
        match self.side {
            Side::Server if at < 128 => u32::from(at) * 2 + 1,
            _ => u32::from(at) % 32,
        }
    }
}

/// The bytes of the input that are not used yet.
struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A length and as many bytes.
    fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal field `x` with this value, not indexed, or nothing.
fn field(value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(length @ 1..=126) => [&[0, 1, b'x', length][..], value].concat(),
        _ => Vec::new(),
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

fn fields(value: &str) -> Metadata {
    let mut fields = MetadataBuilder::new();
    fields.push(b"x-value", value.as_bytes()).expect("a legal field");
    fields.build()
}

/// One frame and one header block.
const WRITE_SLACK: usize = 128 * 1024;
