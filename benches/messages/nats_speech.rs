//! The text protocol of NATS, as much of it as publishers and consumers of `JetStream` need.

use std::fmt::Write;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::speech::{Ack, Heard, Outgoing, Speech};

/// One connection of a client of NATS.
pub struct Nats {
    buffer: BytesMut,
    /// Where answers to this connection go.
    inbox: String,
    /// Text of the line that is being written.
    line: String,
    /// What consumers subscribe to.
    deliver: String,
}

impl Nats {
    /// A connection; `name` is no other's. A consumer gets what comes to the subject `deliver`.
    pub fn new(name: &str, deliver: &str) -> Self {
        Self {
            buffer: BytesMut::with_capacity(256 * 1024),
            inbox: format!("_I.{name}"),
            line: String::new(),
            deliver: deliver.to_owned(),
        }
    }
}

impl Speech for Nats {
    fn greet(&mut self, out: &mut BytesMut) {
        out.put_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"lang\":\"bench\"}\r\n");
        out.put_slice(format!("SUB {}.* 1\r\n", self.inbox).as_bytes());
    }

    fn put_publish(&mut self, out: &mut BytesMut, slot: u32, what: &Outgoing<'_>) {
        self.line.clear();
        let Outgoing { topic, key, body } = what;
        write!(
            self.line,
            "PUB m.{topic}.{key} {}.{slot} {}\r\n",
            self.inbox,
            body.len()
        )
        .unwrap();
        out.put_slice(self.line.as_bytes());
        out.put_slice(body);
        out.put_slice(b"\r\n");
    }

    fn put_subscribe(&mut self, out: &mut BytesMut, _in_flight: usize) {
        // The bound is a setting of the durable consumer.
        out.put_slice(format!("SUB {} 2\r\n", self.deliver).as_bytes());
    }

    fn put_ack(&mut self, out: &mut BytesMut, ack: &Ack) {
        if let Ack::Subject(subject) = ack {
            out.put_slice(b"PUB ");
            out.put_slice(subject);
            out.put_slice(b" 4\r\n+ACK\r\n");
        }
    }

    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    fn next(&mut self, out: &mut BytesMut) -> Option<Heard> {
        loop {
            let end = self.buffer.windows(2).take(4096).position(|pair| pair == b"\r\n")?;
            let line = &self.buffer[..end];
            let with_headers = line.starts_with(b"HMSG ");
            if !with_headers && !line.starts_with(b"MSG ") {
                assert!(!line.starts_with(b"-ERR"), "{}", String::from_utf8_lossy(line));
                if line.starts_with(b"PING") {
                    out.put_slice(b"PONG\r\n");
                }
                self.buffer.advance(end + 2);
                continue;
            }
            let head = Head::read(line, with_headers);
            if self.buffer.len() < end + 2 + head.total + 2 {
                return None;
            }
            let line = self.buffer.split_to(end + 2).freeze();
            let mut payload = self.buffer.split_to(head.total).freeze();
            self.buffer.advance(2);
            payload.advance(head.headers);
            return Some(if head.sid == 1 {
                answer(head.slot(&line), &payload)
            } else {
                let (from, to) = head.reply.expect("messages of a consumer have a reply subject");
                Heard::Message(payload, Ack::Subject(line.slice(from..to)))
            });
        }
    }
}

/// What the first line of a message says.
struct Head {
    sid: u32,
    subject: (usize, usize),
    reply: Option<(usize, usize)>,
    headers: usize,
    total: usize,
}

impl Head {
    /// `MSG subject sid [reply] bytes` or `HMSG subject sid [reply] bytes-of-headers bytes`.
    fn read(line: &[u8], with_headers: bool) -> Self {
        let mut words = [(0, 0); 6];
        let mut count = 0;
        let mut start = 0;
        for (at, byte) in line.iter().chain(b" ").enumerate() {
            if *byte == b' ' {
                words[count] = (start, at);
                count += 1;
                start = at + 1;
            }
        }
        let number =
            |(from, to): (usize, usize)| -> usize { std::str::from_utf8(&line[from..to]).unwrap().parse().unwrap() };
        let sizes = 1 + usize::from(with_headers);
        Self {
            sid: number(words[2]) as u32,
            subject: words[1],
            reply: (count - sizes > 3).then_some(words[3]),
            headers: if with_headers { number(words[count - 2]) } else { 0 },
            total: number(words[count - 1]),
        }
    }

    /// The last part of the subject of an answer.
    fn slot(&self, line: &[u8]) -> u32 {
        let subject = std::str::from_utf8(&line[self.subject.0..self.subject.1]).unwrap();
        subject.rsplit('.').next().unwrap().parse().unwrap()
    }
}

/// `JetStream` says `{"stream":"M","seq":7}` or `{"error":...}`; nobody there is an empty answer with a status.
fn answer(slot: u32, payload: &Bytes) -> Heard {
    if payload.starts_with(b"{\"stream\":") {
        Heard::Stored(slot)
    } else {
        Heard::Refused(slot, String::from_utf8_lossy(payload).into_owned())
    }
}
