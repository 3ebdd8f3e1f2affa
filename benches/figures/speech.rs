//! How the lean load and the lean echo speak: to bare forwarders, or the framed protocol to a relay. Bytes in, bytes out.

use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use strait::model::{Ending, Envelope, Facts, Key, Metadata, Part, ReplyBody, Request, RequestBody, RouteHints};
use strait::wire::frame::{self, Decoder, Encoder, Frame};
use strait::wire::hello::{self, Hello, Purpose, Register};

/// One side of one local connection.
pub enum Speech {
    /// `length u32 | id u64 | body`, both ways.
    Bare(BytesMut),
    /// Frames of the product.
    Strait(Box<Framed>),
}

/// State of the framed protocol.
pub struct Framed {
    encoder: Encoder,
    decoder: Decoder,
    request: Request,
}

/// What came.
pub enum Heard {
    /// A call with this id and body.
    Call(u64, Bytes),
    /// The answer to a call.
    Reply(u64),
    /// A call failed; why.
    Failed(u64, String),
}

/// Bytes before the body of a bare frame.
pub const BARE_HEADER: usize = 12;

impl Speech {
    /// By its name on the command line: `bare` or `strait`.
    pub fn named(name: &str) -> Self {
        match name {
            "bare" => Self::Bare(BytesMut::with_capacity(256 * 1024)),
            _ => Self::Strait(Box::new(Framed {
                encoder: Encoder::new(),
                decoder: Decoder::new(1 << 20),
                request: request(),
            })),
        }
    }

    /// First words of a caller.
    pub fn greet(&self, out: &mut BytesMut) {
        if let Self::Strait(_) = self {
            frame::put_hello(out, &hello::encode(&Hello::new(Purpose::Service, 4096)));
        }
    }

    /// First words of a service.
    pub fn register(&self, out: &mut BytesMut) {
        self.greet(out);
        if let Self::Strait(_) = self {
            let register = Register {
                services: vec!["im.Echo".to_owned()],
                instance: "bench".to_owned(),
                ..Register::default()
            };
            frame::put_register(out, 1, &hello::encode(&register));
        }
    }

    /// Sends a call. `index` is below the calls in flight and free; `turn` is never the same twice.
    pub fn put_call(&mut self, out: &mut BytesMut, index: u32, turn: u32, body: &Bytes) {
        let id = (u64::from(turn) << 32) | u64::from(index);
        match self {
            Self::Bare(_) => put_bare(out, id, body),
            Self::Strait(framed) => {
                let framed = &mut **framed;
                framed.request.body.chunk = body.clone();
                framed.encoder.request(out, id, &framed.request, false, Instant::now());
            }
        }
    }

    /// The key of calls from now on, of dimension `uid`; `b:1` at first.
    pub fn set_key(&mut self, key: &str) {
        if let Self::Strait(framed) = self {
            framed.request.hints.keys[0].key = Bytes::copy_from_slice(key.as_bytes());
        }
    }

    /// Answers a call.
    pub fn put_reply(&self, out: &mut BytesMut, id: u64, body: Bytes) {
        match self {
            Self::Bare(_) => put_bare(out, id, &body),
            Self::Strait(_) => {
                let part = Part {
                    head: Some((200, Metadata::default())),
                    body: ReplyBody(body),
                    end: Some(Ending::default()),
                };
                frame::put_reply(out, id, &part, false, 0);
            }
        }
    }

    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        match self {
            Self::Bare(buffer) => buffer,
            Self::Strait(framed) => framed.decoder.buffer(),
        }
    }

    /// The next thing that came, if it came whole. `serves`: what is bare does not say which way it goes.
    pub fn next(&mut self, serves: bool, now: Instant) -> Option<Heard> {
        match self {
            Self::Bare(buffer) => {
                let (id, body) = take_bare(buffer)?;
                Some(if serves {
                    Heard::Call(id, body)
                } else {
                    Heard::Reply(id)
                })
            }
            Self::Strait(framed) => loop {
                match framed.decoder.next(now).expect("frames of the relay")? {
                    Frame::Request { id, request, .. } => return Some(Heard::Call(id, request.body.chunk)),
                    Frame::Reply { id, part, .. } if part.end.is_some() => return Some(Heard::Reply(id)),
                    Frame::Failed { id, error } => return Some(Heard::Failed(id, error.to_string())),
                    Frame::Registered { body, .. } => {
                        let registered: hello::Registered = hello::decode(&body).unwrap();
                        assert!(registered.refused.is_empty(), "{registered:?}");
                    }
                    _ => {}
                }
            },
        }
    }
}

/// One bare frame.
pub fn put_bare(out: &mut BytesMut, id: u64, body: &[u8]) {
    out.reserve(BARE_HEADER + body.len());
    out.put_u32(body.len() as u32);
    out.put_u64(id);
    out.put_slice(body);
}

/// The first bare frame, if it is whole.
pub fn take_bare(buffer: &mut BytesMut) -> Option<(u64, Bytes)> {
    let header = buffer.first_chunk::<4>()?;
    let length = u32::from_be_bytes(*header) as usize;
    if buffer.len() < BARE_HEADER + length {
        return None;
    }
    buffer.advance(4);
    let id = buffer.get_u64();
    Some((id, buffer.split_to(length).freeze()))
}

fn request() -> Request {
    Request {
        path: Bytes::from_static(b"/im.Echo/Say"),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: Metadata::default(),
        hints: RouteHints {
            keys: vec![Key {
                dimension: Bytes::from_static(b"uid"),
                key: Bytes::from_static(b"b:1"),
            }],
            ..RouteHints::default()
        },
        facts: Facts::default(),
        received: Instant::now(),
        deadline: None,
        body: RequestBody {
            chunk: Bytes::new(),
            end: true,
        },
    }
}
