//! What the tests of the HTTP/2 edges share: a callee that echoes, and connections to it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use strait::ingress::grpc as ingress;
use strait::model::{
    CallId, Callee, CallerRef, CancelReason, Code, Ending, Metadata, MetadataBuilder, Name, Part, Place, Reason,
    Refused, RelayError, ReplyBody, ReplyEvent, Request, RequestEvent, Retry, wants_credit,
};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// Runs a test on one thread, as a shard does, and fails it when it takes too long.
pub fn on_a_shard(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test)
            .await
            .expect("the test hangs");
    });
}

#[expect(clippy::disallowed_methods, reason = "tests end their tasks with their runtime")]
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

pub fn fields(list: &[(&str, &str)]) -> Metadata {
    let mut builder = MetadataBuilder::new();
    for (name, value) in list {
        builder.push(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.build()
}

/// A callee that does what the method's name says.
#[derive(Default)]
pub struct Echo {
    calls: RefCell<HashMap<u64, Call>>,
    heads: RefCell<HashMap<u64, Metadata>>,
    next: std::cell::Cell<u64>,
    /// Every request as it came.
    pub requests: RefCell<Vec<Request>>,
    pub cancels: RefCell<Vec<CancelReason>>,
}

struct Call {
    caller: CallerRef,
    method: String,
    body: BytesMut,
}

impl Echo {
    pub fn open_calls(&self) -> usize {
        self.calls.borrow().len()
    }

    fn on_chunk(&self, id: u64, chunk: Bytes, end: bool, head: Option<Metadata>) {
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(&id) else { return };
        let head_of = |metadata: Option<Metadata>| metadata.map(|metadata| (200, metadata));
        match call.method.as_str() {
            "Stream" => {
                let part = Part {
                    head: head_of(head),
                    body: ReplyBody(chunk),
                    end: end.then(ending),
                };
                let caller = call.caller.clone();
                if end {
                    calls.remove(&id);
                }
                drop(calls);
                caller.send(ReplyEvent::Part(part));
            }
            "Unary" => {
                call.body.extend_from_slice(&chunk);
                if wants_credit(chunk.len(), end) {
                    call.caller.send(ReplyEvent::Credit(chunk.len()));
                }
                if let Some(head) = head {
                    self.heads.borrow_mut().insert(id, head);
                }
                if end {
                    let call = calls.remove(&id).unwrap();
                    let head = self.heads.borrow_mut().remove(&id);
                    drop(calls);
                    let part = Part {
                        head: head_of(head),
                        body: ReplyBody(call.body.freeze()),
                        end: Some(ending()),
                    };
                    call.caller.send(ReplyEvent::Part(part));
                }
            }
            "Early" | "Fail" | "FailLate" | "TrailersOnly" => {
                let call = calls.remove(&id).unwrap();
                drop(calls);
                answer_at_once(&call, head);
            }
            // Silent
            _ => {}
        }
    }
}

/// Replies that do not wait for the request.
fn answer_at_once(call: &Call, head: Option<Metadata>) {
    let send = |part| call.caller.send(ReplyEvent::Part(part));
    let fail = |error| call.caller.send(ReplyEvent::Failed(Box::new(error)));
    let grpc = [("content-type", "application/grpc")];
    match call.method.as_str() {
        "TrailersOnly" => {
            let head = fields(&[grpc[0], ("grpc-status", "5"), ("grpc-message", "no%20one")]);
            let end = Some(Ending {
                status: Code::NotFound,
                ..Ending::default()
            });
            send(Part {
                head: Some((200, head)),
                end,
                ..Part::default()
            });
        }
        "Fail" => fail(
            RelayError::new(Reason::UnitAway, Retry::Safe, "unit b is away").pushed_back(Duration::from_millis(70)),
        ),
        "FailLate" => {
            send(Part {
                head: Some((200, fields(&grpc))),
                ..Part::default()
            });
            fail(RelayError::new(Reason::LinkLost, Retry::Ambiguous, "the link broke"));
        }
        _ => send(Part {
            head: head.map(|head| (200, head)),
            end: Some(ending()),
            ..Part::default()
        }),
    }
}

fn ending() -> Ending {
    Ending {
        status: Code::Ok,
        trailers: fields(&[("grpc-status", "0"), ("x-trailer", "t"), ("x-bin", "AAE")]),
        ..Ending::default()
    }
}

impl Callee for Echo {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let method = request.method().unwrap_or_default().to_owned();
        if method == "Refused" {
            let error = Box::new(RelayError::new(Reason::Shed, Retry::Safe, "too much"));
            return Err(Refused {
                error,
                request: Box::new(*request),
            });
        }
        let id = self.next.get() + 1;
        self.next.set(id);
        let (chunk, end) = (request.body.chunk.clone(), request.body.end);
        let head = request.metadata.clone();
        self.requests.borrow_mut().push(*request);
        self.calls.borrow_mut().insert(
            id,
            Call {
                caller,
                method,
                body: BytesMut::new(),
            },
        );
        self.on_chunk(id, chunk, end, Some(head));
        Ok(CallId(id))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        match event {
            RequestEvent::Body(body) => self.on_chunk(id.0, body.chunk, body.end, None),
            RequestEvent::Cancel(reason) => {
                if self.calls.borrow_mut().remove(&id.0).is_some() {
                    self.cancels.borrow_mut().push(reason);
                }
            }
            RequestEvent::Credit(bytes) => {
                // What was echoed is passed on: the caller may send as much again.
                let caller = self.calls.borrow().get(&id.0).map(|call| call.caller.clone());
                if let Some(caller) = caller {
                    caller.send(ReplyEvent::Credit(bytes));
                }
            }
        }
    }
}

pub fn context(callee: Rc<dyn Callee>) -> Rc<ingress::Context> {
    context_with(callee, ingress::Settings::default())
}

pub fn context_with(callee: Rc<dyn Callee>, settings: ingress::Settings) -> Rc<ingress::Context> {
    let name = |text| Name::new(text).unwrap();
    Rc::new(ingress::Context {
        settings,
        metrics: ingress::Metrics::register(&prometheus::Registry::new()).unwrap(),
        callee,
        place: Place {
            unit: name("a"),
            relay: name("a-1"),
        },
        source: None,
        token: None,
    })
}

/// A socket that the edge serves.
pub fn serve(context: &Rc<ingress::Context>, drain: &CancellationToken) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    spawn(ingress::serve(Box::new(theirs), Rc::clone(context), drain.clone()));
    ours
}

/// An h2 client on a socket.
pub async fn h2_client(socket: UnixStream) -> h2::client::SendRequest<Bytes> {
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 22)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    spawn(async move {
        let _ = connection.await;
    });
    client
}

pub fn request(method: &str) -> http::request::Builder {
    http::Request::post(format!("http://svc/t.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// What came back on a call.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: http::HeaderMap,
    pub body: Bytes,
    pub trailers: http::HeaderMap,
}

pub async fn collect(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.await?.into_parts();
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(Answer {
        status: parts.status.as_u16(),
        head: parts.headers,
        body: body.freeze(),
        trailers,
    })
}

/// One call with the whole body at once.
pub async fn call(
    client: &h2::client::SendRequest<Bytes>,
    request: http::Request<()>,
    body: impl Into<Bytes>,
) -> Result<Answer, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut stream) = client.send_request(request, false)?;
    stream.send_data(body.into(), true)?;
    collect(response).await
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never: {what}");
}
