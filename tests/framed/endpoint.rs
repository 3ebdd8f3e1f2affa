//! Delivery to a framed service, called by stories that speak either envelope (C-G5).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use strait::delivery::framed::{Limits, Metrics, SessionError, connect};
use strait::delivery::{self, Delivery};
use strait::mailbox::Mailbox;
use strait::model::{
    CallId, Callee, Caller, CallerRef, Code, Endpoint, Envelope, Name, Part, Reason, Registry, ReplyEvent, Request,
    RequestBody, RequestEvent, Retry, wants_credit,
};
use strait::wire::envelope::grpc_prefix;
use strait::wire::frame::{self, Decoder, Encoder, Frame};
use strait::wire::hello::{self, Hello, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::raw::{open, request};

/// A caller that takes everything and can be asked for it.
#[derive(Default)]
struct Story {
    events: Mailbox<ReplyEvent>,
}

impl Caller for Story {
    fn on_reply(&self, _: CallId, event: ReplyEvent) {
        self.events.push(event);
    }
}

impl Story {
    fn caller(self: &Rc<Self>) -> CallerRef {
        let port: Rc<dyn Caller> = Rc::<Self>::clone(self);
        CallerRef { port, id: CallId(1) }
    }

    async fn next(&self) -> ReplyEvent {
        tokio::time::timeout(Duration::from_secs(10), self.events.some())
            .await
            .expect("no event");
        self.events.pop().unwrap()
    }

    async fn part(&self) -> Part {
        match self.next().await {
            ReplyEvent::Part(part) => part,
            other => panic!("{other:?}"),
        }
    }
}

/// The service's end of a connection that a relay made.
struct Service {
    io: DuplexStream,
    decoder: Decoder,
    frames: RefCell<VecDeque<Frame>>,
}

impl Service {
    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.frames.borrow_mut().pop_front() {
                return frame;
            }
            if let Some(frame) = self.decoder.next(std::time::Instant::now()).unwrap() {
                return frame;
            }
            let read = self.io.read_buf(self.decoder.buffer());
            let read = tokio::time::timeout(Duration::from_secs(10), read)
                .await
                .expect("no frame");
            assert_ne!(read.unwrap(), 0, "closed");
        }
    }

    async fn send(&mut self, put: impl FnOnce(&mut bytes::BytesMut)) {
        let mut out = bytes::BytesMut::new();
        put(&mut out);
        self.io.write_all(&out).await.unwrap();
    }
}

async fn with_service<F: Future<Output = ()>>(test: impl FnOnce(Rc<dyn Endpoint>, Service) -> F) {
    let work = async {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut service = Service {
            io: theirs,
            decoder: Decoder::new(1 << 20),
            frames: RefCell::default(),
        };
        service
            .send(|out| frame::put_hello(out, &hello::encode(&Hello::new(Purpose::Service, 2))))
            .await;
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap().delivery();
        let (endpoint, work) = connect(ours, Limits::default(), metrics, CancellationToken::new())
            .await
            .unwrap();
        assert!(matches!(service.next().await, Frame::Hello(_)));
        tokio::task::spawn_local(work);
        test(endpoint, service).await;
    };
    LocalSet::new().run_until(work).await;
}

fn grpc(message: &[u8]) -> Request {
    let mut body = grpc_prefix(message.len()).to_vec();
    body.extend_from_slice(message);
    let mut request = request("/im.Echo/Say", &body);
    request.envelope = Envelope::Grpc;
    let mut fields = strait::model::MetadataBuilder::new();
    fields.push(b"content-type", b"application/grpc").unwrap();
    fields.push(b"te", b"trailers").unwrap();
    fields.push(b"x-own", b"kept").unwrap();
    request.metadata = fields.build();
    request
}

fn reply(body: &[u8], status: Code) -> Part {
    Part {
        head: Some((200, strait::model::Metadata::default())),
        body: strait::model::ReplyBody(Bytes::copy_from_slice(body)),
        end: Some(strait::model::Ending {
            status,
            message: Bytes::from_static(if matches!(status, Code::Ok) { b"" } else { b"50% off" }),
            ..strait::model::Ending::default()
        }),
    }
}

// C-G5
#[tokio::test]
async fn a_grpc_caller_is_translated_for_a_framed_service_and_back() {
    with_service(async |endpoint, mut service| {
        let story = Rc::new(Story::default());
        open(&*endpoint, grpc(b"hello"), story.caller()).unwrap();
        let Frame::Request { id, request, .. } = service.next().await else {
            panic!()
        };
        assert_eq!(request.envelope, Envelope::Framed);
        assert_eq!((&*request.body.chunk, request.body.end), (&b"hello"[..], true));
        assert_eq!(
            (request.metadata.len(), request.metadata.text("x-own")),
            (1, Some("kept"))
        );
        service
            .send(|out| frame::put_reply(out, id, &reply(b"world", Code::Ok), false, 0))
            .await;
        let part = story.part().await;
        assert_eq!(part.body.0, &b"\0\0\0\0\x05world"[..]);
        assert_eq!(part.head.unwrap().1.text("content-type"), Some("application/grpc"));
        assert_eq!(part.end.unwrap().trailers.text("grpc-status"), Some("0"));
        assert_eq!(endpoint.in_flight(), 0);

        // An error has a status and no message.
        open(&*endpoint, grpc(b""), story.caller()).unwrap();
        let Frame::Request { id, .. } = service.next().await else {
            panic!()
        };
        service
            .send(|out| frame::put_reply(out, id, &reply(b"", Code::NotFound), false, 0))
            .await;
        let part = story.part().await;
        assert!(part.body.0.is_empty());
        let end = part.end.unwrap();
        assert_eq!(
            (end.status, end.trailers.text("grpc-status")),
            (Code::NotFound, Some("5"))
        );
        assert_eq!(end.trailers.text("grpc-message"), Some("50%25 off"));
    })
    .await;
}

// C-G5: what cannot be translated fails clearly, and the service hears nothing of it.
#[tokio::test]
async fn compressed_or_streamed_calls_are_refused_for_framed_services() {
    with_service(async |endpoint, _service| {
        let story = Rc::new(Story::default());
        let mut two = grpc(b"a").body.chunk.to_vec();
        two.extend_from_slice(&two.clone());
        for (body, text) in [
            (two, "more than one message"),
            (vec![1, 0, 0, 0, 0], "compressed"),
            (vec![0, 0], "middle"),
        ] {
            let mut request = grpc(b"");
            request.body.chunk = body.into();
            open(&*endpoint, request, story.caller()).unwrap();
            match story.next().await {
                ReplyEvent::Failed(error) => {
                    assert_eq!((error.reason, error.retry), (Reason::BadInput, Retry::Never));
                    assert!(error.detail.contains(text), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(endpoint.in_flight(), 0);
    })
    .await;
}

// C-G5, C-F4: a large message both ways; every byte that wants credit gets it.
#[tokio::test]
async fn a_large_message_is_translated_under_credit() {
    with_service(async |endpoint, mut service| {
        let story = Rc::new(Story::default());
        let message: Vec<u8> = (0..700_000_u32).map(|n| u8::try_from(n % 253).unwrap()).collect();
        let mut first = grpc(&message);
        let mut rest = first.body.chunk.split_off(100_000);
        first.body.end = false;
        let id = open(&*endpoint, first, story.caller()).unwrap();
        let echo = async {
            let mut got = Vec::new();
            let number = loop {
                let (number, body) = match service.next().await {
                    Frame::Request { id, request, .. } => (id, request.body),
                    Frame::RequestBody { id, body, .. } => (id, body),
                    other => panic!("{other:?}"),
                };
                got.extend_from_slice(&body.chunk);
                if wants_credit(body.chunk.len(), body.end) {
                    service
                        .send(|out| frame::put_credit(out, number, body.chunk.len(), false))
                        .await;
                }
                if body.end {
                    break number;
                }
            };
            assert!(got == message);
            let mut window = 256 * 1024_usize;
            let mut chunks = got.chunks(60_000).peekable();
            while let Some(chunk) = chunks.next() {
                let mut part = reply(chunk, Code::Ok);
                if chunks.peek().is_some() {
                    part.end = None;
                }
                while window < chunk.len() {
                    match service.next().await {
                        Frame::Credit { bytes, reply: true, .. } => window += bytes,
                        other => panic!("{other:?}"),
                    }
                }
                window -= chunk.len();
                service.send(|out| frame::put_reply(out, number, &part, false, 0)).await;
            }
        };
        let call = async {
            let (mut credited, mut sent, mut got) = (0, 100_000, Vec::new());
            loop {
                if !rest.is_empty() && sent - credited < 200_000 {
                    let chunk = rest.split_to(rest.len().min(90_000));
                    sent += chunk.len();
                    let end = rest.is_empty();
                    endpoint.on_request(id, RequestEvent::Body(RequestBody { chunk, end }));
                }
                match story.next().await {
                    ReplyEvent::Credit(bytes) => credited += bytes,
                    ReplyEvent::Part(part) => {
                        got.extend_from_slice(&part.body.0);
                        if part.end.is_some() {
                            break;
                        }
                        endpoint.on_request(id, RequestEvent::Credit(part.body.0.len()));
                    }
                    ReplyEvent::Failed(error) => panic!("{error}"),
                }
            }
            assert_eq!(credited, sent, "every request byte is credited once");
            assert_eq!(got[..5], grpc_prefix(message.len()));
            assert!(got[5..] == message);
        };
        tokio::join!(echo, call);
        assert_eq!(endpoint.in_flight(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_full_or_draining_service_is_not_ready_and_refuses_safely() {
    with_service(async |endpoint, mut service| {
        let story = Rc::new(Story::default());
        let first = open(&*endpoint, request("/a.B/C", b""), story.caller()).unwrap();
        assert!(endpoint.is_ready());
        open(&*endpoint, request("/a.B/C", b""), story.caller()).unwrap();
        assert!(!endpoint.is_ready());
        let refused = endpoint
            .open(Box::new(request("/a.B/C", b"mine")), story.caller())
            .unwrap_err();
        assert_eq!(
            (refused.error.reason, refused.error.retry),
            (Reason::Limited, Retry::Safe)
        );
        assert_eq!(refused.request.body.chunk, "mine", "the request comes back");
        endpoint.on_request(first, RequestEvent::Cancel(strait::model::CancelReason::Caller));
        service.next().await;
        service.next().await;
        assert!(matches!(service.next().await, Frame::Cancel { .. }));
        assert!(endpoint.is_ready());
        service.send(frame::put_drain).await;
        service.send(|out| frame::put_ping(out, 1)).await;
        assert!(matches!(service.next().await, Frame::Pong(1)));
        assert!(!endpoint.is_ready());
        drop(service);
        match story.next().await {
            ReplyEvent::Failed(error) => {
                assert_eq!((error.reason, error.retry), (Reason::ServiceLost, Retry::Ambiguous));
            }
            other => panic!("{other:?}"),
        }
        assert!(
            open(&*endpoint, request("/a.B/C", b""), story.caller())
                .unwrap_err()
                .contains("closed")
        );
    })
    .await;
}

// C-F2
#[tokio::test]
async fn calls_above_what_a_registered_service_takes_wait_for_their_turn() {
    with_service(async |endpoint, mut service| {
        let series = prometheus::Registry::new();
        let tracker = TaskTracker::new();
        let name = Name::new("im.Echo").unwrap();
        let delivery = Delivery::new(delivery::Parts {
            settings: delivery::Settings::default(),
            services: delivery::Services::from([(name.clone(), delivery::ServiceSettings::default())]),
            shard: 0,
            directory: delivery::SharedDirectory::new(1),
            metrics: delivery::Metrics::register(&series).unwrap(),
            transports: delivery::Transports {
                grpc: delivery::grpc::Settings::default(),
                grpc_metrics: delivery::grpc::Metrics::register(&series).unwrap(),
                framed: Limits::default(),
                framed_metrics: Metrics::register(&series).unwrap().delivery(),
                http1: delivery::http1::Settings::default(),
            },
            tracker: tracker.clone(),
        });
        let _registered = delivery.register(&name, endpoint).unwrap();
        tokio::task::spawn_local(Rc::clone(&delivery).run(CancellationToken::new()));
        let stories: Vec<_> = (0..20).map(|_| Rc::new(Story::default())).collect();
        let mut ids = Vec::new();
        for (number, story) in stories.iter().enumerate() {
            let request = request("/im.Echo/Say", &[u8::try_from(number).unwrap()]);
            ids.push(delivery.open(Box::new(request), story.caller()).unwrap());
        }
        // One of those that wait is given up: it is never sent.
        delivery.on_request(ids[7], RequestEvent::Cancel(strait::model::CancelReason::Deadline));
        for (number, story) in stories.iter().enumerate().filter(|(number, _)| *number != 7) {
            let Frame::Request { id, request, .. } = service.next().await else {
                panic!("no request");
            };
            assert_eq!(usize::from(request.body.chunk[0]), number, "calls keep their order");
            let part = reply(b"pong", Code::Ok);
            service.send(|out| frame::put_reply(out, id, &part, false, 0)).await;
            assert_eq!(story.part().await.end.unwrap().status, Code::Ok);
        }
        assert_eq!(delivery.open_calls(), 0);
    })
    .await;
}

// S3: a service cannot pass itself off as a relay.
#[tokio::test]
async fn a_failure_from_a_service_is_its_own_and_its_calls_out_are_refused() {
    with_service(async |endpoint, mut service| {
        let story = Rc::new(Story::default());
        open(&*endpoint, request("/a.B/C", b""), story.caller()).unwrap();
        let Frame::Request { id, .. } = service.next().await else {
            panic!()
        };
        let forged = strait::model::RelayError::new(Reason::WrongUnit, Retry::Safe, "ask evil");
        service.send(|out| frame::put_failed(out, id, &forged)).await;
        match story.next().await {
            ReplyEvent::Failed(error) => assert_eq!((error.reason, error.owner), (Reason::ServiceLost, None)),
            other => panic!("{other:?}"),
        }
        let mut encoder = Encoder::new();
        let out = request("/a.B/C", b"");
        service
            .send(|bytes| encoder.request(bytes, 0, &out, false, std::time::Instant::now()))
            .await;
        assert!(matches!(service.next().await, Frame::Failed { id: 0, .. }));
    })
    .await;
}

#[tokio::test]
async fn connecting_to_something_else_fails_with_its_reason() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap().delivery();
    let result = connect(ours, Limits::default(), metrics, CancellationToken::new()).await;
    assert!(matches!(result, Err(SessionError::Frame(_))));
}
