//! The framed protocol of relays, as much of it as publishers and consumers of messages need.

use std::fmt::Write;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use strait::model::{Code, Ending, Envelope, Facts, Metadata, Part, ReplyBody, Request, RequestBody, RouteHints};
use strait::wire::frame::{self, Decoder, Encoder, Frame};
use strait::wire::hello::{self, Hello, Purpose};

use crate::speech::{Ack, Heard, Outgoing, Speech};

/// What a publisher waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    /// This relay's disk.
    Accepted,
    /// The disk of the other unit's relay.
    Relayed,
    /// This relay's disk, of a message that stays here.
    Local,
}

/// One connection of a local service.
pub struct Framed {
    encoder: Encoder,
    decoder: Decoder,
    request: Request,
    wish: Wish,
    turn: u32,
    name: String,
}

impl Framed {
    /// Of a publisher.
    pub fn publisher(wish: Wish) -> Self {
        Self {
            encoder: Encoder::new(),
            decoder: Decoder::new(1 << 20),
            request: request(),
            wish,
            turn: 0,
            name: String::new(),
        }
    }

    /// Of a consumer.
    pub fn consumer() -> Self {
        Self::publisher(Wish::Accepted)
    }

    /// The protobuf message `PublishRequest`.
    fn publish_request(&mut self, what: &Outgoing<'_>) -> Bytes {
        let mut out = BytesMut::with_capacity(what.body.len() + 64);
        let kind = if self.wish == Wish::Local { 'l' } else { 'm' };
        self.name.clear();
        write!(self.name, "{kind}{}", what.topic).unwrap();
        put_field(&mut out, 1, self.name.as_bytes());
        self.name.clear();
        write!(self.name, "b:{}", what.key).unwrap();
        let mut key = BytesMut::with_capacity(32);
        put_field(&mut key, 1, b"uid");
        put_field(&mut key, 2, self.name.as_bytes());
        put_field(&mut out, 2, &key);
        put_field(&mut out, 4, what.body);
        if self.wish == Wish::Relayed {
            out.put_slice(&[6 << 3, 2]);
        }
        out.freeze()
    }
}

impl Speech for Framed {
    fn greet(&mut self, out: &mut BytesMut) {
        frame::put_hello(out, &hello::encode(&Hello::new(Purpose::Service, 4096)));
    }

    fn put_publish(&mut self, out: &mut BytesMut, slot: u32, what: &Outgoing<'_>) {
        self.request.body.chunk = self.publish_request(what);
        let id = (u64::from(self.turn) << 32) | u64::from(slot);
        // An id is never used twice on a connection.
        self.turn += 1;
        self.encoder.request(out, id, &self.request, false, Instant::now());
    }

    fn put_subscribe(&mut self, out: &mut BytesMut, in_flight: usize) {
        let register = hello::Register {
            instance: "bench".to_owned(),
            subscriptions: vec![hello::Subscription {
                topic: "m0".to_owned(),
                group: "c".to_owned(),
                in_flight_max: in_flight as u32,
            }],
            ..hello::Register::default()
        };
        frame::put_register(out, 1, &hello::encode(&register));
    }

    fn put_ack(&mut self, out: &mut BytesMut, ack: &Ack) {
        if let Ack::Call(id) = ack {
            let part = Part {
                head: Some((200, Metadata::default())),
                body: ReplyBody(Bytes::new()),
                end: Some(Ending::default()),
            };
            frame::put_reply(out, *id, &part, false, 0);
        }
    }

    fn buffer(&mut self) -> &mut BytesMut {
        self.decoder.buffer()
    }

    fn next(&mut self, _out: &mut BytesMut) -> Option<Heard> {
        loop {
            match self.decoder.next(Instant::now()).expect("frames of the relay")? {
                Frame::Request { id, request, .. } => {
                    return Some(Heard::Message(request.body.chunk, Ack::Call(id)));
                }
                Frame::Reply { id, part, .. } => {
                    if let Some(end) = part.end {
                        let slot = id as u32;
                        return Some(match end.status {
                            Code::Ok => Heard::Stored(slot),
                            _ => Heard::Refused(slot, String::from_utf8_lossy(&end.message).into_owned()),
                        });
                    }
                }
                Frame::Failed { id, error } => return Some(Heard::Refused(id as u32, error.to_string())),
                Frame::Registered { body, .. } => {
                    let registered: hello::Registered = hello::decode(&body).unwrap();
                    assert!(registered.refused_subscriptions.is_empty(), "{registered:?}");
                }
                _ => {}
            }
        }
    }
}

fn put_field(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag << 3 | 2);
    put_varint(out, value.len());
    out.put_slice(value);
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn request() -> Request {
    Request {
        path: Bytes::from_static(b"/strait.v1.Messages/Publish"),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: Metadata::default(),
        hints: RouteHints::default(),
        facts: Facts::default(),
        received: Instant::now(),
        deadline: None,
        body: RequestBody {
            chunk: Bytes::new(),
            end: true,
        },
    }
}
