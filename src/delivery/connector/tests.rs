//! Against real tonic servers on real sockets; each runs on a runtime of its own, so that it can be killed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use prometheus::Registry as Series;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;
use tonic::codegen::tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::metadata::MetadataMap;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::*;
use crate::crossing::testing::{Recorder, on_shard, request, wait_for};
use crate::delivery::settings::{HealthSettings, OutlierSettings, ServiceSettings, Services, Settings};
use crate::delivery::{Metrics, Parts, SharedDirectory, Transports, framed, grpc, http1};
use crate::model::{Callee, Name, ReplyEvent, Request, RequestBody, ServiceName, Source};

const SERVICE: &str = "grpc.health.v1.Health";
const PATH: &str = "/grpc.health.v1.Health/Check";

/// A real gRPC server.
struct Server {
    runtime: Option<Runtime>,
    reporter: HealthReporter,
    calls: Arc<AtomicUsize>,
    last: Arc<Mutex<MetadataMap>>,
    address: String,
}

impl Server {
    fn tcp(port: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        Self::start(address, move || {
            TcpListenerStream::new(TcpListener::from_std(listener).unwrap())
        })
    }

    fn unix(path: &Path) -> Self {
        let path = path.to_owned();
        Self::start(format!("unix:{}", path.display()), move || {
            UnixListenerStream::new(UnixListener::bind(path).unwrap())
        })
    }

    fn start<S, IO>(address: String, incoming: impl FnOnce() -> S + Send + 'static) -> Self
    where
        S: tonic::codegen::tokio_stream::Stream<Item = std::io::Result<IO>> + Send + 'static,
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let reporter = HealthReporter::new();
        let (calls, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(MetadataMap::new())));
        let (count, seen) = (Arc::clone(&calls), Arc::clone(&last));
        let service = HealthService::from_health_reporter(reporter.clone());
        let service = HealthServer::with_interceptor(service, move |request: tonic::Request<()>| {
            count.fetch_add(1, Ordering::SeqCst);
            *seen.lock().unwrap() = request.metadata().clone();
            Ok(request)
        });
        let tracker = TaskTracker::new();
        let serve = async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming())
                .await
                .unwrap();
        };
        tracker.spawn_on(serve, runtime.handle());
        Self {
            runtime: Some(runtime),
            reporter,
            calls,
            last,
            address,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn port(&self) -> u16 {
        self.address.rsplit_once(':').unwrap().1.parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // As if killed: connections break off where they are.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Delivery on one shard with one service, and a caller.
struct Shard {
    delivery: Rc<Delivery>,
    caller: Rc<Recorder>,
    series: Series,
    stop: CancellationToken,
    tracker: TaskTracker,
    next: std::cell::Cell<u64>,
}

impl Shard {
    fn new(endpoints: &[&str], settings: ServiceSettings) -> Self {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        let series = Series::new();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let delivery = Delivery::new(Parts {
            settings: Settings::default(),
            services: Services::from([(name(), ServiceSettings { endpoints, ..settings })]),
            shard: 0,
            directory: SharedDirectory::new(1),
            metrics: Metrics::register(&series).unwrap(),
            transports: transports(&series),
            tracker: tracker.clone(),
        });
        tracker.spawn_local(Rc::clone(&delivery).run(stop.clone()));
        Self {
            delivery,
            caller: Recorder::new(),
            series,
            stop,
            tracker,
            next: std::cell::Cell::new(0),
        }
    }

    /// Waits until so many endpoints can take calls.
    async fn ready(&self, endpoints: usize) {
        wait_for("endpoints are ready", || self.endpoints("ready") == endpoints).await;
    }

    fn open(&self) -> Option<u64> {
        let id = self.next.replace(self.next.get() + 1);
        self.delivery
            .open(Box::new(check()), self.caller.call(id))
            .ok()
            .map(|_| id)
    }

    /// Makes a call; its status in words, or the reason a relay gave.
    async fn call(&self) -> String {
        let Some(id) = self.open() else {
            return "refused".to_owned();
        };
        let ended = || self.caller.endings().into_iter().find(|(ended, _)| *ended == id);
        wait_for("the call ends", || ended().is_some()).await;
        ended().unwrap().1
    }

    /// Makes calls until so many in a row are answered.
    async fn until_ok(&self, in_a_row: usize) {
        let limit = Instant::now() + Duration::from_secs(20);
        let mut good = 0;
        while good < in_a_row {
            assert!(Instant::now() < limit, "calls never became good again");
            good = if self.call().await == "Ok" { good + 1 } else { 0 };
            if good == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    fn endpoints(&self, state: &str) -> usize {
        let sum = self.sum("strait_delivery_endpoints", "state", state);
        usize::try_from(sum).unwrap()
    }

    fn sum(&self, name: &str, label: &str, value: &str) -> i64 {
        let families = self.series.gather();
        let family = families.iter().find(|family| family.name() == name);
        let series = family.into_iter().flat_map(prometheus::proto::MetricFamily::get_metric);
        let fit = series.filter(|metric| {
            metric
                .get_label()
                .iter()
                .any(|pair| pair.name() == label && pair.value() == value)
        });
        #[expect(clippy::cast_possible_truncation, clippy::as_conversions, reason = "small counts")]
        fit.map(|metric| (metric.get_gauge().get_value() + metric.get_counter().get_value()) as i64)
            .sum()
    }
}

/// A health check, as good a call as any.
fn check() -> Request {
    Request {
        body: RequestBody {
            end: true,
            ..RequestBody::default()
        },
        ..request(PATH)
    }
}

fn name() -> ServiceName {
    Name::new(SERVICE).unwrap()
}

fn transports(series: &Series) -> Transports {
    Transports {
        grpc: grpc::Settings::default(),
        grpc_metrics: grpc::Metrics::register(series).unwrap(),
        framed: framed::Limits::default(),
        framed_metrics: framed::Metrics::register(series).unwrap().delivery(),
        http1: http1::Settings::default(),
    }
}

/// Without health checks, so that servers count calls only.
fn unchecked() -> ServiceSettings {
    ServiceSettings {
        health: HealthSettings {
            enabled: false,
            ..HealthSettings::default()
        },
        ..ServiceSettings::default()
    }
}

fn socket_path(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("strait-delivery-{}-{test}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

// C-E1
#[test]
fn calls_are_balanced_over_tcp_unix_and_a_resolved_name() {
    on_shard(async {
        let path = socket_path("balanced");
        let servers = [Server::tcp(0), Server::unix(&path), Server::tcp(0)];
        let dns = format!("dns://localhost:{}", servers[2].port());
        let shard = Shard::new(&[&servers[0].address, &servers[1].address, &dns], unchecked());
        shard.ready(3).await;
        for _ in 0..300 {
            shard.open().unwrap();
        }
        wait_for("all calls end", || shard.caller.endings().len() == 300).await;
        assert!(shard.caller.endings().iter().all(|(_, status)| status == "Ok"));
        for server in &servers {
            assert!((95..=105).contains(&server.calls()), "{}", server.calls());
        }
        // Connections end with their calls once delivery stops.
        shard.stop.cancel();
        shard.tracker.close();
        timeout(Duration::from_secs(5), shard.tracker.wait())
            .await
            .expect("all tasks end");
        std::fs::remove_file(path).unwrap();
    });
}

// C-E1, C-L3
#[test]
fn a_killed_endpoint_is_left_out_and_used_again_when_it_is_back() {
    on_shard(async {
        let (dying, steady) = (Server::tcp(0), Server::tcp(0));
        let port = dying.port();
        let shard = Shard::new(&[&dying.address, &steady.address], unchecked());
        shard.ready(2).await;
        shard.until_ok(20).await;
        drop(dying);
        shard.until_ok(50).await;
        assert_eq!(shard.endpoints("down"), 1);
        let back = Server::tcp(port);
        wait_for("it is connected again", || shard.endpoints("ready") == 2).await;
        shard.until_ok(50).await;
        assert!(back.calls() > 10, "{}", back.calls());
    });
}

// C-E1: an endpoint that is not there yet when the relay starts
#[test]
fn a_late_endpoint_is_found_and_calls_before_are_refused_safely() {
    on_shard(async {
        let path = socket_path("late");
        let shard = Shard::new(&[&format!("unix:{}", path.display())], unchecked());
        wait_for("a first attempt fails", || {
            shard.sum("strait_delivery_connects_total", "outcome", "failed") > 0
        })
        .await;
        assert_eq!(shard.call().await, "refused");
        let server = Server::unix(&path);
        shard.until_ok(10).await;
        assert_eq!(server.calls(), 10);
        std::fs::remove_file(path).unwrap();
    });
}

/// Takes connections, reads what comes and breaks off after the first call that it sees.
async fn break_every_call(listener: TcpListener) {
    let tracker = TaskTracker::new();
    while let Ok((mut socket, _)) = listener.accept().await {
        tracker.spawn_local(async move {
            let mut bytes = vec![0; 4096];
            // Preface and settings are below 100 bytes; a call comes after them.
            let mut seen = 0;
            while let Ok(read @ 1..) = socket.read(&mut bytes).await {
                seen += read;
                if seen > 150 {
                    return;
                }
            }
        });
    }
}

// C-F8
#[test]
fn an_endpoint_that_keeps_breaking_calls_is_ejected_and_one_with_application_errors_is_not() {
    on_shard(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broken = format!("http://{}", listener.local_addr().unwrap());
        let tracker = TaskTracker::new();
        tracker.spawn_local(break_every_call(listener));
        let mut good = Server::tcp(0);
        // An application error on every call: the name asked for does not exist.
        good.reporter.clear_service_status("").await;
        let outlier = OutlierSettings {
            failures: 2,
            ejection: Duration::from_secs(60),
            ..OutlierSettings::default()
        };
        let shard = Shard::new(&[&broken, &good.address], ServiceSettings { outlier, ..unchecked() });
        shard.ready(2).await;
        let ejections = || shard.sum("strait_delivery_ejections_total", "endpoint", "0");
        let limit = Instant::now() + Duration::from_secs(20);
        while ejections() == 0 {
            assert!(Instant::now() < limit);
            shard.call().await;
        }
        for _ in 0..100 {
            assert_eq!(shard.call().await, "NotFound");
        }
        assert_eq!(shard.sum("strait_delivery_ejections_total", "endpoint", "1"), 0);
    });
}

// C-E1
#[test]
fn an_endpoint_that_says_not_serving_gets_no_calls_until_it_serves() {
    on_shard(async {
        let (moody, steady) = (Server::tcp(0), Server::tcp(0));
        let health = HealthSettings {
            interval: Duration::from_millis(50),
            ..HealthSettings::default()
        };
        let settings = ServiceSettings {
            health,
            ..ServiceSettings::default()
        };
        let shard = Shard::new(&[&moody.address, &steady.address], settings);
        shard.ready(2).await;
        moody.reporter.set_service_status("", ServingStatus::NotServing).await;
        wait_for("it is unhealthy", || shard.endpoints("unhealthy") == 1).await;
        let steady_before = steady.calls();
        shard.until_ok(50).await;
        assert!(steady.calls() >= steady_before + 50);
        moody.reporter.set_service_status("", ServingStatus::Serving).await;
        shard.ready(2).await;
    });
}

// C-E2
#[test]
fn the_service_sees_who_called() {
    on_shard(async {
        let server = Server::tcp(0);
        let shard = Shard::new(&[&server.address], unchecked());
        shard.ready(1).await;
        let name = |text| Name::new(text).unwrap();
        let mut request = check();
        request.facts.source = Some(Source {
            geo: name("sg"),
            unit: name("b"),
            service: Some(name("im.Sender")),
        });
        shard.delivery.open(Box::new(request), shard.caller.call(1)).unwrap();
        wait_for("the call ends", || !shard.caller.endings().is_empty()).await;
        let last = server.last.lock().unwrap();
        let field = |name: &str| last.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(field("strait-source-geo").as_deref(), Some("sg"));
        assert_eq!(field("strait-source-unit").as_deref(), Some("b"));
        assert_eq!(field("strait-source-service").as_deref(), Some("im.Sender"));
    });
}

/// Answers look-ups with what a test says and connects for real.
struct ScriptedNames {
    transports: Transports,
    addresses: std::cell::RefCell<Result<Vec<SocketAddr>, std::io::ErrorKind>>,
    asked: std::cell::Cell<usize>,
}

impl Dial for ScriptedNames {
    fn dial<'a>(
        &'a self,
        protocol: Protocol,
        place: &'a Place,
        tracker: &'a TaskTracker,
    ) -> crate::delivery::dial::Local<'a, Result<Opened, DialError>> {
        self.transports.dial(protocol, place, tracker)
    }

    fn resolve<'a>(&'a self, _: &'a HostPort) -> crate::delivery::dial::Local<'a, std::io::Result<Vec<SocketAddr>>> {
        self.asked.set(self.asked.get() + 1);
        let addresses = self.addresses.borrow().clone().map_err(std::io::Error::from);
        Box::pin(async { addresses })
    }
}

// C-E1: DNS name (re-resolved); K3
#[test]
fn a_name_is_followed_and_its_addresses_are_kept_while_the_resolver_fails() {
    on_shard(async {
        let servers = [Server::tcp(0), Server::tcp(0)];
        let at = |index: usize| SocketAddr::from(([127, 0, 0, 1], servers[index].port()));
        let settings = ServiceSettings {
            resolve_interval: Duration::from_millis(10),
            ..unchecked()
        };
        // The shard itself has no endpoints; the one with scripted names is started by hand.
        let shard = Shard::new(&[], settings);
        let service = shard.delivery.services().remove(0);
        let names = Rc::new(ScriptedNames {
            transports: transports(&Series::new()),
            addresses: std::cell::RefCell::new(Ok(vec![at(0)])),
            asked: std::cell::Cell::new(0),
        });
        let kept = Kept {
            delivery: Rc::clone(&shard.delivery),
            service,
            dial: names.clone(),
            protocol: Protocol::Grpc,
            label: "0".to_owned(),
            kind: "dns",
        };
        let follow = kept.follow(
            HostPort {
                host: "echo.local".to_owned(),
                port: 1,
            },
            shard.stop.clone(),
        );
        shard.tracker.spawn_local(follow);
        shard.until_ok(10).await;
        assert_eq!((servers[0].calls(), servers[1].calls()), (10, 0));
        *names.addresses.borrow_mut() = Ok(vec![at(1)]);
        wait_for("calls go to the new address", || {
            shard.open();
            servers[1].calls() > 0
        })
        .await;
        wait_for("calls end", || shard.delivery.open_calls() == 0).await;
        let before = servers[0].calls();
        *names.addresses.borrow_mut() = Err(std::io::ErrorKind::TimedOut);
        let asked = names.asked.get();
        wait_for("failing look-ups", || names.asked.get() > asked + 3).await;
        shard.until_ok(20).await;
        assert_eq!(servers[0].calls(), before);
    });
}

// C-F2, C-F3: more calls than streams get more connections, up to the limit
#[test]
fn more_connections_are_opened_when_streams_run_out() {
    on_shard(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let accepted = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&accepted);
        let tracker = TaskTracker::new();
        // A server that says nothing: calls stay under way.
        tracker.spawn_local(async move {
            let mut sockets = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                count.set(count.get() + 1);
                sockets.push(socket);
            }
        });
        let shard = Shard::new(
            &[&address],
            ServiceSettings {
                connections_max: 3,
                ..unchecked()
            },
        );
        shard.ready(1).await;
        shard.open().unwrap();
        assert_eq!(accepted.get(), 1);
        wait_for("two more connections", || {
            while shard.open().is_some() {}
            accepted.get() == 3
        })
        .await;
        // Full again: no fourth one, and what cannot wait is told so.
        wait_for("all are full", || shard.open().is_none()).await;
        assert_eq!(shard.sum("strait_delivery_connects_total", "outcome", "ok"), 3);
    });
}

// Y1 over a real connection: what a lost endpoint leaves is counted and told
#[test]
fn calls_under_way_at_a_killed_endpoint_fail_as_lost() {
    on_shard(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shard = Shard::new(&[&address], unchecked());
        let (mut socket, _) = listener.accept().await.unwrap();
        shard.ready(1).await;
        let id = shard.open().unwrap();
        let mut bytes = vec![0; 4096];
        let mut seen = 0;
        while seen < 150 {
            seen += socket.read(&mut bytes).await.unwrap();
        }
        drop(socket);
        wait_for("the call fails", || !shard.caller.endings().is_empty()).await;
        assert_eq!(shard.caller.endings(), [(id, "service_lost".to_owned())]);
        let events = shard.caller.events.borrow();
        let Some((_, ReplyEvent::Failed(error))) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(error.retry, crate::model::Retry::Ambiguous);
        assert_eq!(shard.delivery.open_calls(), 0);
    });
}
