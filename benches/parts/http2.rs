//! A gRPC call between two HTTP/2 sessions in memory: what both edges of a relay do, without the sockets.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use strait::model::{Metadata, MetadataBuilder};
use strait::wire::http2::{Event, Limits, RequestHead, Session, Side, StreamRef};

use crate::frames::fields;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http2");
    for (bytes, batch) in [(128, 1), (128, 64), (1024, 64)] {
        let mut pair = Pair::new(bytes);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} calls of {bytes} B, client and server"), |bencher| {
            bencher.iter(|| pair.calls(batch));
        });
    }
    group.finish();
}

/// A client's and a server's session, with what passes between them.
struct Pair {
    client: Session,
    server: Session,
    wire: BytesMut,
    body: Bytes,
    request: Metadata,
    reply: Metadata,
    trailers: Metadata,
}

impl Pair {
    fn new(bytes: usize) -> Self {
        let field = |name: &[u8], value: &[u8]| {
            let mut fields = MetadataBuilder::new();
            fields.push(name, value).unwrap();
            fields.build()
        };
        let client = Limits {
            streams_max: 0,
            ..Limits::default()
        };
        let mut pair = Self {
            client: Session::new(Side::Client, client).unwrap(),
            server: Session::new(Side::Server, Limits::default()).unwrap(),
            wire: BytesMut::with_capacity(1 << 20),
            body: Bytes::from(vec![b'x'; bytes]),
            request: fields(),
            reply: field(b"content-type", b"application/grpc"),
            trailers: field(b"grpc-status", b"0"),
        };
        // Both settings frames and their acknowledgements.
        for _ in 0..2 {
            pair.forth(&mut Vec::new());
            pair.back();
        }
        pair
    }

    /// So many calls, all of them open before the first is answered.
    fn calls(&mut self, count: u64) {
        for token in 0..count {
            let head = RequestHead {
                authority: b"127.0.0.1",
                path: b"/im.Echo/Say",
                fields: &self.request,
                added: &[(b"te", b"trailers")],
            };
            let stream = self.client.request(token, &head).unwrap();
            self.client.body(stream, self.body.clone(), false);
            self.client.finish(stream, None);
        }
        let mut open = Vec::new();
        self.forth(&mut open);
        for stream in open {
            self.server.respond(stream, 200, &self.reply, false);
            self.server.body(stream, self.body.clone(), false);
            self.server.finish(stream, Some(self.trailers.clone()));
        }
        let mut answered = 0;
        while answered < count {
            let ended = self.back();
            assert!(ended > 0, "{answered} of {count} calls were answered");
            answered += ended;
            self.forth(&mut Vec::new());
        }
    }

    /// Client to server; names the streams that are whole.
    fn forth(&mut self, whole: &mut Vec<StreamRef>) {
        carry(&mut self.client, &mut self.server, &mut self.wire, |stream| {
            whole.push(stream);
        });
    }

    /// Server to client; counts the streams that are whole.
    fn back(&mut self) -> u64 {
        let mut whole = 0;
        carry(&mut self.server, &mut self.client, &mut self.wire, |_| whole += 1);
        whole
    }
}

fn carry(from: &mut Session, to: &mut Session, wire: &mut BytesMut, mut on_end: impl FnMut(StreamRef)) {
    loop {
        wire.clear();
        from.send_into(wire, 256 * 1024).unwrap();
        while from.next_event().is_some() {}
        if wire.is_empty() {
            return;
        }
        to.recv(wire, Instant::now()).unwrap();
        while let Some(event) = to.next_event() {
            if let Event::Part(part) = event {
                to.consume(part.stream, part.chunk.len());
                if part.end {
                    on_end(part.stream);
                }
            }
        }
    }
}
