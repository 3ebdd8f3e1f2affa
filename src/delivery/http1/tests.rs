//! Against a real HTTP/1.1 server on a real socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::runtime::Runtime;

use super::*;
use crate::crossing::testing::{Recorder, on_shard, request, wait_for};
use crate::model::{CancelReason, Envelope, ReplyEvent};

/// A server on a runtime of its own, so that it can be killed.
struct Server {
    address: SocketAddr,
    hanging: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

impl Server {
    fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let hanging = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&hanging);
        let routes = Router::new()
            .route("/im.Echo/Say", post(|body: Bytes| async { body }))
            .route(
                "/im.Echo/Kind",
                post(
                    |fields: HeaderMap| async move { fields.get("content-type").unwrap().clone().as_bytes().to_vec() },
                ),
            )
            .route(
                "/im.Echo/Deny",
                post(|| async { (StatusCode::FORBIDDEN, [("x-why", "because")], "no") }),
            )
            .route("/im.Echo/Large", post(|| async { vec![7_u8; 1_000_000] }))
            .route(
                "/im.Echo/Hang",
                post(move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>()
                }),
            )
            .layer(DefaultBodyLimit::max(8 << 20));
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        };
        TaskTracker::new().spawn_on(serve, runtime.handle());
        Self {
            address,
            hanging,
            runtime: Some(runtime),
        }
    }

    async fn pool(&self, settings: Settings) -> Rc<Pool> {
        let io = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let place = Place::Address(self.address);
        Pool::new(place, Box::new(io), settings, TaskTracker::new())
            .await
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Head, body and status of the one call that `caller` made; gives credit for all of it.
async fn reply(pool: &Pool, id: CallId, caller: &Recorder) -> (u16, Vec<u8>, String) {
    let mut credited = 0;
    let (mut status, mut body) = (0, Vec::new());
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        assert!(tokio::time::Instant::now() < limit, "the call ends");
        for (_, event) in caller.events.borrow_mut().drain(..) {
            match event {
                ReplyEvent::Part(part) => {
                    if let Some((code, _)) = part.head {
                        status = code;
                    }
                    body.extend_from_slice(&part.body.0);
                    credited += part.body.0.len();
                    if let Some(end) = part.end {
                        return (status, body, format!("{:?}", end.status));
                    }
                }
                ReplyEvent::Failed(error) => return (status, body, error.to_string()),
                ReplyEvent::Credit(_) => {}
            }
        }
        if credited > 0 {
            pool.on_request(id, RequestEvent::Credit(std::mem::take(&mut credited)));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn call(pool: &Pool, path: &'static str) -> (u16, Vec<u8>, String) {
    let caller = Recorder::new();
    let id = pool.open(Box::new(request(path)), caller.call(1)).unwrap();
    reply(pool, id, &caller).await
}

// C-E1
#[test]
fn unary_calls_become_posts_and_statuses_come_back() {
    on_shard(async {
        let server = Server::new();
        let pool = server.pool(Settings::default()).await;
        assert_eq!(
            call(&pool, "/im.Echo/Say").await,
            (200, b"ping".to_vec(), "Ok".to_owned())
        );
        assert_eq!(
            call(&pool, "/im.Echo/Deny").await,
            (403, b"no".to_vec(), "PermissionDenied".to_owned())
        );
        assert_eq!(call(&pool, "/im.Echo/Nope").await.2, "NotFound");
        assert_eq!(pool.in_flight(), 0);
        assert_eq!(pool.idle.borrow().len(), 1, "one connection was used again and again");
    });
}

// C-G5
#[test]
fn a_grpc_caller_gets_its_framing_back_and_the_service_sees_none() {
    on_shard(async {
        let server = Server::new();
        let pool = server.pool(Settings::default()).await;
        let grpc = |path, chunk: &'static [u8], end| {
            let body = RequestBody {
                chunk: Bytes::from_static(chunk),
                end,
            };
            Request {
                envelope: Envelope::Grpc,
                body,
                ..request(path)
            }
        };
        let caller = Recorder::new();
        let id = pool
            .open(Box::new(grpc("/im.Echo/Say", b"\0\0\0\0\x04pi", false)), caller.call(1))
            .unwrap();
        let rest = RequestBody {
            chunk: Bytes::from_static(b"ng"),
            end: true,
        };
        pool.on_request(id, RequestEvent::Body(rest));
        wait_for("the call ends", || !caller.endings().is_empty()).await;
        let events = caller.events.take();
        assert!(matches!(events[0].1, ReplyEvent::Credit(7)), "{events:?}");
        let ReplyEvent::Part(part) = &events[1].1 else {
            panic!("{events:?}")
        };
        assert_eq!(&part.body.0[..], b"\0\0\0\0\x04ping");
        assert_eq!(
            part.head.as_ref().unwrap().1.text("content-type"),
            Some("application/grpc")
        );
        assert_eq!(part.end.as_ref().unwrap().trailers.text("grpc-status"), Some("0"));
        let caller = Recorder::new();
        pool.open(
            Box::new(grpc("/im.Echo/Say", b"\0\0\0\0\x01a\0\0\0\0\x01b", true)),
            caller.call(1),
        )
        .unwrap();
        wait_for("a stream is refused", || {
            caller.endings() == [(1, "bad_input".to_owned())]
        })
        .await;
    });
}

// C-F4: a reply is not pushed further than its credit
#[test]
fn a_large_reply_waits_for_credit() {
    on_shard(async {
        let server = Server::new();
        let pool = server.pool(Settings::default()).await;
        let caller = Recorder::new();
        let id = pool.open(Box::new(request("/im.Echo/Large")), caller.call(1)).unwrap();
        let sent = || {
            let events = caller.events.borrow();
            let bytes = events.iter().map(|(_, event)| match event {
                ReplyEvent::Part(part) => part.body.0.len(),
                _ => 0,
            });
            bytes.sum::<usize>()
        };
        wait_for("the window is full", || sent() >= 128 * 1024).await;
        assert_eq!(call(&pool, "/im.Echo/Say").await.2, "Ok", "others go on");
        assert!(sent() <= 192 * 1024, "{}", sent());
        let (_, body, status) = reply(&pool, id, &caller).await;
        assert_eq!((body.len(), status.as_str()), (1_000_000, "Ok"));
    });
}

// C-F3
#[test]
fn as_many_calls_as_connections_and_no_more() {
    on_shard(async {
        let server = Server::new();
        let pool = server
            .pool(Settings {
                connections_max: 2,
                ..Settings::default()
            })
            .await;
        let caller = Recorder::new();
        let first = pool.open(Box::new(request("/im.Echo/Hang")), caller.call(1)).unwrap();
        pool.open(Box::new(request("/im.Echo/Hang")), caller.call(2)).unwrap();
        let refused = pool
            .open(Box::new(request("/im.Echo/Say")), caller.call(3))
            .unwrap_err();
        assert_eq!(
            (refused.error.reason, refused.error.retry),
            (Reason::Limited, Retry::Safe)
        );
        // C-D2: a cancelled call gives its place back.
        pool.on_request(first, RequestEvent::Cancel(CancelReason::Caller));
        wait_for("there is room", || pool.is_ready()).await;
        assert_eq!(call(&pool, "/im.Echo/Say").await.2, "Ok");
    });
}

// T2
#[test]
fn a_killed_service_loses_calls_it_had_and_refuses_new_ones_safely() {
    on_shard(async {
        let server = Server::new();
        let pool = server.pool(Settings::default()).await;
        assert_eq!(call(&pool, "/im.Echo/Say").await.2, "Ok");
        let caller = Recorder::new();
        pool.open(Box::new(request("/im.Echo/Hang")), caller.call(1)).unwrap();
        wait_for("it is sent", || server.hanging.load(Ordering::SeqCst) == 1).await;
        drop(server);
        wait_for("it is lost", || caller.endings() == [(1, "service_lost".to_owned())]).await;
        let caller = Recorder::new();
        pool.open(Box::new(request("/im.Echo/Say")), caller.call(1)).unwrap();
        wait_for("it was not sent", || {
            caller.endings() == [(1, "service_unavailable".to_owned())]
        })
        .await;
        assert!(!pool.is_open(), "the keeper takes over");
        tokio::time::timeout(Duration::from_secs(5), Rc::clone(&pool).lasting())
            .await
            .unwrap();
    });
}

#[test]
fn the_type_of_the_message_is_told() {
    on_shard(async {
        let server = Server::new();
        let pool = server.pool(Settings::default()).await;
        let (_, body, _) = call(&pool, "/im.Echo/Kind").await;
        assert_eq!(body, b"application/octet-stream");
    });
}
