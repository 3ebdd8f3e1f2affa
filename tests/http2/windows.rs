//! Peers with the smallest windows HTTP/2 knows, and services at their limit: what one call holds up (C-F1, C-F2).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use strait::delivery::{self, Delivery, ServiceSettings, Services, SharedDirectory, Transports, framed, grpc, http1};
use strait::model::{Callee, CancelReason, Code, Name, RequestBody, RequestEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delivery::{Desk, echo, made, to};
use crate::support::*;

/// What a service saw of the connections to it.
#[derive(Default)]
struct Seen {
    connections: Cell<usize>,
    swallowing: Cell<usize>,
}

/// A service with windows of 64 KiB. It never reads the bodies of `Swallow`.
async fn small_windows() -> (String, Rc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seen = Rc::new(Seen::default());
    let counts = Rc::clone(&seen);
    spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            counts.connections.set(counts.connections.get() + 1);
            let counts = Rc::clone(&counts);
            spawn(async move {
                let Ok(mut server) = h2::server::handshake(socket).await else {
                    return;
                };
                while let Some(Ok((request, respond))) = server.accept().await {
                    let counts = Rc::clone(&counts);
                    spawn(async move {
                        if request.uri().path().ends_with("Swallow") {
                            counts.swallowing.set(counts.swallowing.get() + 1);
                            std::future::pending::<()>().await;
                            drop((request, respond));
                        } else {
                            echo(request, respond).await;
                        }
                    });
                }
            });
        }
    });
    (endpoint, seen)
}

struct Service {
    delivery: Rc<Delivery>,
    series: prometheus::Registry,
    desk: Rc<Desk>,
}

impl Service {
    /// Delivery to one endpoint.
    fn new(endpoint: &str, settings: ServiceSettings, http1: http1::Settings) -> Self {
        let series = prometheus::Registry::new();
        let tracker = TaskTracker::new();
        let mut settings = ServiceSettings {
            endpoints: vec![endpoint.parse().unwrap()],
            ..settings
        };
        settings.health.enabled = false;
        let delivery = Delivery::new(delivery::Parts {
            settings: delivery::Settings::default(),
            services: Services::from([(Name::new("t.Echo").unwrap(), settings)]),
            shard: 0,
            directory: SharedDirectory::new(1),
            metrics: delivery::Metrics::register(&series).unwrap(),
            transports: Transports {
                grpc: grpc::Settings::default(),
                grpc_metrics: grpc::Metrics::register(&series).unwrap(),
                framed: framed::Limits::default(),
                framed_metrics: framed::Metrics::register(&series).unwrap().delivery(),
                http1,
            },
            tracker: tracker.clone(),
        });
        tracker.spawn_local(Rc::clone(&delivery).run(CancellationToken::new()));
        Self {
            delivery,
            series,
            desk: Rc::new(Desk::default()),
        }
    }

    async fn is_up(&self) {
        until("the endpoint is connected", || {
            self.delivery.is_available("t.Echo") == Some(true)
        })
        .await;
    }

    fn gauge(&self, name: &str) -> f64 {
        let families = self.series.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let series = family.get_metric().iter();
        series.map(|metric| metric.get_gauge().get_value()).sum()
    }

    /// Begins a call whose body the service never reads, with more bytes than all windows hold.
    fn stall(&self, id: u64) {
        let mut request = made(b"", false);
        request.path = Bytes::from_static(b"/t.Echo/Swallow");
        request.body.chunk = Bytes::from(vec![1; 64 * 1024]);
        let call = self.delivery.open(Box::new(request), to(&self.desk, id)).unwrap();
        for _ in 0..3 {
            let body = RequestBody {
                chunk: Bytes::from(vec![1; 64 * 1024]),
                end: false,
            };
            self.delivery.on_request(call, RequestEvent::Body(body));
        }
    }

    async fn answers(&self, id: u64, body: Bytes) {
        let mut request = made(b"", true);
        request.body.chunk = body.clone();
        self.delivery.open(Box::new(request), to(&self.desk, id)).unwrap();
        let reply = self.desk.reply(id).await;
        assert_eq!(reply.status, Some(Code::Ok), "{reply:?}");
        assert_eq!(reply.body, body);
    }
}

// C-F1
#[test]
fn bodies_that_a_service_does_not_read_hold_up_no_other_call() {
    on_a_shard(async {
        let (endpoint, seen) = small_windows().await;
        let service = Service::new(&endpoint, ServiceSettings::default(), http1::Settings::default());
        service.is_up().await;
        // As many as use up three of the four connections, if each may be used up.
        for id in 1..=6 {
            service.stall(id);
            until("the service has the call", || {
                seen.swallowing.get() == usize::try_from(id).unwrap()
            })
            .await;
            // Far more than the window of a connection, in small calls.
            for small in 0..100 {
                let id = id * 1000 + small;
                service.answers(id, Bytes::from(vec![2; 1024])).await;
            }
        }
        until("a connection is seen to be blocked", || {
            service.gauge("strait_delivery_grpc_blocked_connections") >= 1.0
        })
        .await;
        assert!(seen.connections.get() <= 4, "{}", seen.connections.get());
    });
}

// C-F1: streams go on as long as there may be another connection.
#[test]
fn a_stream_is_not_put_behind_a_body_that_nobody_reads() {
    on_a_shard(async {
        let (endpoint, seen) = small_windows().await;
        let service = Service::new(&endpoint, ServiceSettings::default(), http1::Settings::default());
        service.is_up().await;
        for id in 1..=3 {
            service.stall(id);
        }
        until("the service has the calls", || seen.swallowing.get() == 3).await;
        until("a connection is seen to be blocked", || {
            service.gauge("strait_delivery_grpc_blocked_connections") >= 1.0
        })
        .await;
        service.answers(10, Bytes::from(vec![3; 60 * 1024])).await;
    });
}

// C-F1, H5: where there may be one connection only, one such body leaves room on it.
#[test]
fn one_body_that_a_service_does_not_read_leaves_half_of_the_only_connection() {
    on_a_shard(async {
        let (endpoint, seen) = small_windows().await;
        let settings = ServiceSettings {
            connections_max: 1,
            ..ServiceSettings::default()
        };
        let service = Service::new(&endpoint, settings, http1::Settings::default());
        service.is_up().await;
        service.stall(1);
        until("the service has the call", || seen.swallowing.get() == 1).await;
        for id in 10..210 {
            service.answers(id, Bytes::from(vec![2; 1024])).await;
        }
        assert_eq!(seen.connections.get(), 1);
    });
}

// C-F1, H5: the mirror image at the other edge, where the client makes the connections.
#[test]
fn a_reply_that_a_client_does_not_read_leaves_its_other_calls_half_of_its_window() {
    on_a_shard(async {
        let context = context(Rc::new(Echo::default()));
        let socket = serve(&context, &CancellationToken::new());
        // The windows of HTTP/2 itself: 64 KiB for a stream, and 64 KiB for all of them.
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        spawn(async move {
            let _ = connection.await;
        });
        let mut opener = client.clone().ready().await.unwrap();
        let (response, mut body) = opener.send_request(request("Unary").body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from(vec![1; 1 << 20]), true).unwrap();
        let (parts, unread) = response.await.unwrap().into_parts();
        assert_eq!(parts.status, 200);
        for _ in 0..300 {
            let answer = call(&client, request("Unary").body(()).unwrap(), vec![2; 1024])
                .await
                .unwrap();
            assert_eq!(answer.body.len(), 1024);
        }
        drop(unread);
    });
}

/// An HTTP/1.1 service that answers each call when `gate` lets it; counts the most at a time.
async fn http1(gate: Rc<tokio::sync::Semaphore>, most: Rc<Cell<(usize, usize)>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http1://{}", listener.local_addr().unwrap());
    spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            spawn(answer_http1(socket, Rc::clone(&gate), Rc::clone(&most)));
        }
    });
    endpoint
}

async fn answer_http1(mut socket: TcpStream, gate: Rc<tokio::sync::Semaphore>, most: Rc<Cell<(usize, usize)>>) {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        while !bytes.ends_with(b"body") {
            match socket.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(len) => bytes.extend_from_slice(&piece[..len]),
            }
        }
        let drips = bytes.ends_with(b"slow body");
        bytes.clear();
        let (now, max) = most.get();
        most.set((now + 1, max.max(now + 1)));
        if drips {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
            let mut sent = socket.write_all(head).await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                sent = socket.write_all(b"x").await;
            }
            return most.set((0, max));
        }
        gate.acquire().await.unwrap().forget();
        let (now, max) = most.get();
        most.set((now - 1, max));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        socket.write_all(answer).await.unwrap();
    }
}

// C-F2
#[test]
fn ten_times_the_calls_an_http1_endpoint_takes_are_answered_in_turn() {
    on_a_shard(async {
        let gate = Rc::new(tokio::sync::Semaphore::new(0));
        let most = Rc::new(Cell::new((0, 0)));
        let endpoint = http1(Rc::clone(&gate), Rc::clone(&most)).await;
        let limits = http1::Settings {
            connections_max: 3,
            ..http1::Settings::default()
        };
        let service = Service::new(&endpoint, ServiceSettings::default(), limits);
        service.is_up().await;
        for id in 0..30 {
            let mut request = made(b"\0\0\0\0\x04body", true);
            request.deadline = Some(crate::delivery::now() + Duration::from_secs(60));
            service.delivery.open(Box::new(request), to(&service.desk, id)).unwrap();
        }
        until("the limit is used", || most.get() == (3, 3)).await;
        assert!((service.gauge("strait_delivery_waiting_calls") - 27.0).abs() < 0.1);
        gate.add_permits(30);
        for id in 0..30 {
            let reply = service.desk.reply(id).await;
            assert_eq!(reply.status, Some(Code::Ok), "{reply:?}");
        }
        assert_eq!(most.get(), (0, 3));
        assert!(service.gauge("strait_delivery_waiting_calls").abs() < 0.1);
    });
}

// T13, C-F2: an answer that drips costs its own call its time, and the next one its place until then.
#[test]
fn an_http1_service_that_drips_is_left_when_the_caller_gives_up_and_the_next_call_goes_on() {
    on_a_shard(async {
        let gate = Rc::new(tokio::sync::Semaphore::new(100));
        let most = Rc::new(Cell::new((0, 0)));
        let endpoint = http1(gate, Rc::clone(&most)).await;
        let limits = http1::Settings {
            connections_max: 1,
            ..http1::Settings::default()
        };
        let service = Service::new(&endpoint, ServiceSettings::default(), limits);
        service.is_up().await;
        let slow = made(b"\0\0\0\0\x09slow body", true);
        let slow = service.delivery.open(Box::new(slow), to(&service.desk, 1)).unwrap();
        let next = made(b"\0\0\0\0\x04body", true);
        service.delivery.open(Box::new(next), to(&service.desk, 2)).unwrap();
        until("the service drips", || most.get().0 == 1).await;
        assert!(!service.desk.is_done(2), "it waits");
        service
            .delivery
            .on_request(slow, RequestEvent::Cancel(CancelReason::Deadline));
        let reply = service.desk.reply(2).await;
        assert_eq!(reply.status, Some(Code::Ok), "{reply:?}");
        until("the connection that dripped is closed", || most.get().0 == 0).await;
    });
}

// C-F1: keeping bodies apart is no reason to keep them waiting.
#[test]
fn a_service_that_takes_one_connection_gets_streams_and_small_calls_on_it() {
    on_a_shard(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            // Whoever connects now is refused.
            drop(listener);
            let mut server = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, respond))) = server.accept().await {
                spawn(echo(request, respond));
            }
        });
        let service = Service::new(&endpoint, ServiceSettings::default(), http1::Settings::default());
        service.is_up().await;
        for id in 1..20 {
            service.answers(id, Bytes::from(vec![3; 40 * 1024])).await;
            service.answers(100 + id, Bytes::from_static(b"small")).await;
        }
    });
}
