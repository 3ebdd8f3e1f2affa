//! `delivery::grpc` against the h2 server, and behind `ingress::grpc`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use strait::delivery::grpc::{Connection, Metrics, Settings, connect};
use strait::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Code, Endpoint, Envelope, Facts, Metadata, Name, Reason,
    ReplyEvent, Request, RequestBody, RequestEvent, Retry, RouteHints, Source,
};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn deliver(socket: UnixStream, settings: &Settings) -> Rc<Connection> {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let (connection, run) = connect(Box::new(socket), Bytes::from_static(b"local"), settings, metrics).unwrap();
    spawn(async move {
        run.await;
    });
    connection
}

/// A connection to an h2 server in which `handler` answers each request.
fn to_h2<F, R>(settings: &Settings, streams_max: u32, handler: F) -> Rc<Connection>
where
    F: Fn(http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> R + Clone + 'static,
    R: Future<Output = ()> + 'static,
{
    let (ours, theirs) = UnixStream::pair().unwrap();
    spawn(async move {
        let mut builder = h2::server::Builder::new();
        let mut server = builder
            .max_concurrent_streams(streams_max)
            .initial_connection_window_size(1 << 20)
            .handshake(theirs)
            .await
            .unwrap();
        while let Some(Ok((request, respond))) = server.accept().await {
            spawn(handler(request, respond));
        }
    });
    deliver(ours, settings)
}

pub async fn echo(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (parts, mut stream) = request.into_parts();
    let mut response = http::Response::builder()
        .status(200)
        .header("content-type", "application/grpc");
    for (name, value) in &parts.headers {
        response = response.header(format!("x-saw-{name}"), value);
    }
    response = response.header("strait-error", "forged");
    let mut reply = respond.send_response(response.body(()).unwrap(), false).unwrap();
    while let Some(Ok(mut chunk)) = stream.data().await {
        let len = chunk.len();
        while !chunk.is_empty() {
            reply.reserve_capacity(chunk.len());
            let granted = match reply.capacity() {
                0 => std::future::poll_fn(|cx| reply.poll_capacity(cx))
                    .await
                    .and_then(Result::ok),
                granted => Some(granted),
            };
            let Some(granted) = granted else { return };
            let piece = chunk.split_to(granted.min(chunk.len()));
            reply.send_data(piece, false).unwrap();
        }
        stream.flow_control().release_capacity(len).unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-trailer", "t".parse().unwrap());
    let _ = reply.send_trailers(trailers);
}

/// A caller that keeps what it gets.
#[derive(Default)]
pub struct Desk {
    events: RefCell<Vec<(CallId, ReplyEvent)>>,
}

impl Caller for Desk {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.events.borrow_mut().push((id, event));
    }
}

#[derive(Debug, Default)]
pub struct Reply {
    http_status: u16,
    head: Metadata,
    pub body: BytesMut,
    pub status: Option<Code>,
    trailers: Metadata,
    message: Bytes,
    error: Option<(Reason, Retry)>,
}

impl Desk {
    pub fn is_done(&self, id: u64) -> bool {
        self.events.borrow().iter().any(|(call, event)| {
            call.0 == id
                && match event {
                    ReplyEvent::Part(part) => part.end.is_some(),
                    ReplyEvent::Failed(_) => true,
                    ReplyEvent::Credit(_) => false,
                }
        })
    }

    fn credit(&self, id: u64) -> usize {
        let events = self.events.borrow();
        let credits = events.iter().filter(|(call, _)| call.0 == id);
        credits
            .map(|(_, event)| {
                if let ReplyEvent::Credit(bytes) = event {
                    *bytes
                } else {
                    0
                }
            })
            .sum()
    }

    pub async fn reply(&self, id: u64) -> Reply {
        until("the call ends", || self.is_done(id)).await;
        let mut reply = Reply::default();
        for (call, event) in self.events.borrow().iter() {
            match event {
                _ if call.0 != id => {}
                ReplyEvent::Part(part) => {
                    if let Some((status, head)) = &part.head {
                        reply.http_status = *status;
                        reply.head = head.clone();
                    }
                    reply.body.extend_from_slice(&part.body.0);
                    if let Some(end) = &part.end {
                        reply.status = Some(end.status);
                        reply.trailers = end.trailers.clone();
                        reply.message = end.message.clone();
                    }
                }
                ReplyEvent::Failed(error) => reply.error = Some((error.reason, error.retry)),
                ReplyEvent::Credit(_) => {}
            }
        }
        reply
    }
}

pub fn to(desk: &Rc<Desk>, id: u64) -> CallerRef {
    CallerRef {
        port: desk.clone(),
        id: CallId(id),
    }
}

pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub fn made(body: &'static [u8], end: bool) -> Request {
    Request {
        path: Bytes::from_static(b"/t.Echo/Say"),
        authority: Bytes::new(),
        envelope: Envelope::Grpc,
        metadata: fields(&[("content-type", "application/grpc"), ("x-custom", "v")]),
        hints: RouteHints::default(),
        facts: Facts::default(),
        received: now(),
        deadline: None,
        body: RequestBody {
            chunk: Bytes::from_static(body),
            end,
        },
    }
}

// C-G1, C-D1, C-E2, C-T2
#[test]
fn a_service_sees_the_request_its_source_and_the_time_that_is_left() {
    on_a_shard(async {
        let service = to_h2(&Settings::default(), 100, echo);
        let desk = Rc::new(Desk::default());
        let name = |text| Name::new(text).unwrap();
        let mut request = made(b"\0\0\0\0\x02hi", true);
        request.deadline = Some(now() + Duration::from_secs(7));
        request.facts.attempt = 3;
        request.facts.source = Some(Source {
            geo: name("sg"),
            unit: name("b"),
            service: Some(name("im.Web")),
        });
        service.open(Box::new(request), to(&desk, 1)).unwrap();
        let reply = desk.reply(1).await;
        assert_eq!((reply.http_status, reply.status), (200, Some(Code::Ok)));
        assert_eq!(&reply.body[..], b"\0\0\0\0\x02hi");
        assert_eq!(reply.head.text("x-saw-x-custom"), Some("v"));
        assert_eq!(reply.head.text("x-saw-te"), Some("trailers"));
        assert_eq!(reply.head.text("x-saw-strait-source-unit"), Some("b"));
        assert_eq!(reply.head.text("x-saw-strait-source-geo"), Some("sg"));
        assert_eq!(reply.head.text("x-saw-strait-source-service"), Some("im.Web"));
        assert_eq!(reply.head.text("x-saw-grpc-previous-rpc-attempts"), Some("3"));
        assert_eq!(
            reply.head.text("strait-error"),
            None,
            "services cannot forge errors of a relay"
        );
        let timeout = reply.head.text("x-saw-grpc-timeout").unwrap();
        let left: u64 = timeout.trim_end_matches('u').parse().unwrap();
        assert!((5_000_000..=7_000_000).contains(&left), "{timeout}");
        assert_eq!(reply.trailers.text("x-trailer"), Some("t"));
        until("the call is released", || service.in_flight() == 0).await;
    });
}

// C-D1
#[test]
fn a_call_whose_time_is_over_never_reaches_the_service() {
    on_a_shard(async {
        let service = to_h2(&Settings::default(), 100, echo);
        let desk = Rc::new(Desk::default());
        let mut request = made(b"", true);
        request.deadline = Some(now());
        service.open(Box::new(request), to(&desk, 1)).unwrap();
        assert_eq!(desk.reply(1).await.error, Some((Reason::DeadlineExceeded, Retry::Safe)));
    });
}

// C-G5
#[test]
fn a_framed_call_is_wrapped_and_its_reply_unwrapped() {
    on_a_shard(async {
        let service = to_h2(&Settings::default(), 100, echo);
        let desk = Rc::new(Desk::default());
        let mut request = made(b"hel", false);
        request.envelope = Envelope::Framed;
        request.metadata = fields(&[("x-custom", "v")]);
        let id = service.open(Box::new(request), to(&desk, 1)).unwrap();
        until("the first chunk is credited", || desk.credit(1) == 3).await;
        let body = RequestBody {
            chunk: Bytes::from_static(b"lo"),
            end: true,
        };
        service.on_request(id, RequestEvent::Body(body));
        let reply = desk.reply(1).await;
        assert_eq!(&reply.body[..], b"hello");
        assert_eq!(reply.status, Some(Code::Ok));
        assert_eq!(reply.head.text("x-saw-content-type"), Some("application/grpc"));
        assert_eq!(reply.head.text("content-type"), None);
        assert_eq!(reply.trailers.text("grpc-status"), None);
        assert_eq!(reply.trailers.text("x-trailer"), Some("t"));
    });
}

// C-T6
#[test]
fn a_status_is_read_from_trailers_only_replies() {
    on_a_shard(async {
        let service = to_h2(&Settings::default(), 100, |_, mut respond| async move {
            let response = http::Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "9")
                .header("grpc-message", "not%20now");
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        });
        let desk = Rc::new(Desk::default());
        service.open(Box::new(made(b"", true)), to(&desk, 1)).unwrap();
        let reply = desk.reply(1).await;
        assert_eq!(reply.status, Some(Code::FailedPrecondition));
        assert_eq!(reply.message, "not now");
        assert_eq!(reply.head.text("grpc-status"), Some("9"));
        assert!(reply.trailers.is_empty());
    });
}

// C-T1
#[test]
fn a_refused_stream_may_be_tried_again_and_a_broken_one_may_not() {
    on_a_shard(async {
        let service = to_h2(&Settings::default(), 100, |request, mut respond| async move {
            let refused = request.headers().contains_key("x-refuse");
            respond.send_reset(if refused {
                h2::Reason::REFUSED_STREAM
            } else {
                h2::Reason::INTERNAL_ERROR
            });
        });
        let desk = Rc::new(Desk::default());
        let mut request = made(b"", true);
        request.metadata = fields(&[("x-refuse", "1")]);
        service.open(Box::new(request), to(&desk, 1)).unwrap();
        service.open(Box::new(made(b"", true)), to(&desk, 2)).unwrap();
        assert_eq!(
            desk.reply(1).await.error,
            Some((Reason::ServiceUnavailable, Retry::Safe))
        );
        assert_eq!(desk.reply(2).await.error, Some((Reason::ServiceLost, Retry::Ambiguous)));
    });
}

// C-T1
#[test]
fn a_lost_connection_loses_its_calls_and_takes_no_more() {
    on_a_shard(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let service = deliver(ours, &Settings::default());
        let desk = Rc::new(Desk::default());
        service.open(Box::new(made(b"", true)), to(&desk, 1)).unwrap();
        let mut server = h2::server::handshake(theirs).await.unwrap();
        let accepted = server.accept().await.unwrap().unwrap();
        drop((server, accepted));
        assert_eq!(desk.reply(1).await.error, Some((Reason::ServiceLost, Retry::Ambiguous)));
        assert!(!service.is_ready());
        let refused = service.open(Box::new(made(b"", true)), to(&desk, 2)).unwrap_err();
        assert_eq!(refused.error.retry, Retry::Safe);
        assert_eq!(service.in_flight(), 0);
    });
}

// C-D2
#[test]
fn a_cancel_resets_the_stream_at_the_service() {
    on_a_shard(async {
        let (seen, mut resets) = tokio::sync::mpsc::channel(1);
        let service = to_h2(&Settings::default(), 100, move |_request, mut respond| {
            let seen = seen.clone();
            async move {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                seen.send(reason).await.unwrap();
            }
        });
        let desk = Rc::new(Desk::default());
        let id = service.open(Box::new(made(b"", true)), to(&desk, 1)).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        service.on_request(id, RequestEvent::Cancel(CancelReason::Deadline));
        assert_eq!(resets.recv().await, Some(h2::Reason::CANCEL));
        until("the call is released", || service.in_flight() == 0).await;
        assert!(!desk.is_done(1), "nothing is owed after a cancel");
    });
}

// C-F2
#[test]
fn calls_above_the_services_limit_wait_and_then_are_refused() {
    on_a_shard(async {
        let gate = CancellationToken::new();
        let shut = gate.clone();
        let settings = Settings {
            pending_max: 3,
            ..Settings::default()
        };
        let service = to_h2(&settings, 2, move |request, respond| {
            let shut = shut.clone();
            async move {
                shut.cancelled().await;
                echo(request, respond).await;
            }
        });
        let desk = Rc::new(Desk::default());
        service.open(Box::new(made(b"a", true)), to(&desk, 1)).unwrap();
        service.open(Box::new(made(b"b", true)), to(&desk, 2)).unwrap();
        until("the service has said how many streams it allows", || {
            !service.is_ready()
        })
        .await;
        for id in 3..=5 {
            service.open(Box::new(made(b"b", true)), to(&desk, id)).unwrap();
        }
        assert!(!service.is_ready());
        let refused = service.open(Box::new(made(b"c", true)), to(&desk, 6)).unwrap_err();
        assert_eq!(
            (refused.error.reason, refused.error.retry),
            (Reason::Limited, Retry::Safe)
        );
        gate.cancel();
        for id in 1..=5 {
            assert_eq!(desk.reply(id).await.status, Some(Code::Ok));
        }
        until("all are released", || service.in_flight() == 0).await;
    });
}

#[test]
fn a_retired_connection_finishes_its_calls_and_ends() {
    on_a_shard(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let context = context(Rc::new(Echo::default()));
        spawn(strait::ingress::grpc::serve(
            Box::new(theirs),
            context,
            CancellationToken::new(),
        ));
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let settings = Settings::default();
        let (service, run) = connect(Box::new(ours), Bytes::from_static(b"local"), &settings, metrics).unwrap();
        let desk = Rc::new(Desk::default());
        let mut request = made(b"x", false);
        request.path = Bytes::from_static(b"/t.Echo/Stream");
        let id = service.open(Box::new(request), to(&desk, 1)).unwrap();
        let rest = async {
            until("the reply begins", || !desk.events.borrow().is_empty()).await;
            service.retire();
            assert!(service.open(Box::new(made(b"", true)), to(&desk, 2)).is_err());
            let body = RequestBody {
                chunk: Bytes::from_static(b"y"),
                end: true,
            };
            service.on_request(id, RequestEvent::Body(body));
        };
        let (_end, ()) = tokio::join!(run, rest);
        let reply = desk.reply(1).await;
        assert_eq!(&reply.body[..], b"xy");
        assert_eq!(reply.status, Some(Code::Ok));
    });
}

/// h2 client -> ingress -> delivery -> h2 server.
async fn through_both() -> h2::client::SendRequest<Bytes> {
    let service = to_h2(&Settings::default(), 1000, echo);
    h2_client(serve(&context(service), &CancellationToken::new())).await
}

// C-G1
#[test]
fn many_calls_pass_through_both_edges() {
    on_a_shard(async {
        let client = through_both().await;
        let mut set = tokio::task::JoinSet::new();
        for n in 0..500_usize {
            let client = client.clone();
            set.spawn_local(async move {
                let body = vec![n.to_le_bytes()[0]; n * 7];
                let answer = call(
                    &client,
                    request("Unary").header("x-n", n).body(()).unwrap(),
                    body.clone(),
                )
                .await;
                let answer = answer.unwrap();
                assert_eq!(answer.body, body);
                assert_eq!(answer.head["x-saw-x-n"], n.to_string());
                assert_eq!(answer.trailers["grpc-status"], "0");
            });
        }
        while let Some(done) = set.join_next().await {
            done.unwrap();
        }
    });
}

// C-F1
#[test]
fn a_caller_that_reads_nothing_is_pushed_back_and_others_go_on() {
    on_a_shard(async {
        let client = through_both().await;
        let mut stalled = client.clone().ready().await.unwrap();
        let (response, mut stream) = stalled.send_request(request("Unary").body(()).unwrap(), false).unwrap();
        let mut reply = response.await.unwrap().into_body();
        // Sends until it is stopped; the reply is not read.
        let mut sent = 0;
        loop {
            stream.reserve_capacity(64 * 1024);
            let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_millis(200), granted).await {
                Ok(granted) => {
                    let granted = granted.unwrap().unwrap();
                    stream.send_data(vec![7; granted].into(), false).unwrap();
                    sent += granted;
                }
                Err(_) => break,
            }
            assert!(sent < 32 << 20, "nothing pushes back");
        }
        let answer = call(&client, request("Unary").body(()).unwrap(), "other")
            .await
            .unwrap();
        assert_eq!(answer.body, "other");
        // What was sent is all there once it is read.
        stream.send_data(Bytes::new(), true).unwrap();
        let mut got = 0;
        while let Some(chunk) = reply.data().await {
            let chunk = chunk.unwrap();
            reply.flow_control().release_capacity(chunk.len()).unwrap();
            got += chunk.len();
        }
        assert_eq!(got, sent);
    });
}

// C-G3
#[test]
fn metadata_of_a_reply_over_the_limit_fails_its_call_only() {
    on_a_shard(async {
        let service = to_h2(&Settings::default(), 100, |request, mut respond| async move {
            let large = request.headers().get("x-large").cloned();
            let response = http::Response::builder().header("content-type", "application/grpc");
            if large.as_ref().is_some_and(|part| part == "head") {
                let response = response.header("x-big", "v".repeat(20_000)).body(()).unwrap();
                respond.send_response(response, true).unwrap();
                return;
            }
            let mut reply = respond.send_response(response.body(()).unwrap(), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            if large.is_some() {
                trailers.insert("x-big", "v".repeat(20_000).parse().unwrap());
            }
            let _ = reply.send_trailers(trailers);
        });
        let desk = Rc::new(Desk::default());
        for (id, large) in [(1, "head"), (2, "trailers")] {
            let mut request = made(b"", true);
            request.metadata = fields(&[("x-large", large)]);
            service.open(Box::new(request), to(&desk, id)).unwrap();
            assert_eq!(
                desk.reply(id).await.error,
                Some((Reason::TooLarge, Retry::Never)),
                "{large}"
            );
        }
        service.open(Box::new(made(b"", true)), to(&desk, 3)).unwrap();
        assert_eq!(desk.reply(3).await.status, Some(Code::Ok));
    });
}

// C-F2
#[test]
fn a_cancelled_call_gives_its_stream_to_one_that_waits() {
    on_a_shard(async {
        let service = to_h2(&Settings::default(), 1, |request, respond| async move {
            if request.headers().contains_key("x-never") {
                std::future::pending::<()>().await;
            }
            echo(request, respond).await;
        });
        let desk = Rc::new(Desk::default());
        let mut never = made(b"", true);
        never.metadata = fields(&[("x-never", "1")]);
        let id = service.open(Box::new(never), to(&desk, 1)).unwrap();
        until("the service has said how many streams it allows", || {
            !service.is_ready()
        })
        .await;
        service.open(Box::new(made(b"x", true)), to(&desk, 2)).unwrap();
        service.on_request(id, RequestEvent::Cancel(CancelReason::Caller));
        assert_eq!(desk.reply(2).await.status, Some(Code::Ok));
    });
}
