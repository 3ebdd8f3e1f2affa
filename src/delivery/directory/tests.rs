use prometheus::Registry as Series;

use super::*;
use crate::crossing::testing::{Recorder, Service as Scripted, answer, failure, on_shard, request, wait_for};
use crate::delivery::{framed, grpc, http1};
use crate::model::{CancelReason, Code};
use crate::model::{RegisterError, Registration, Registry};

struct Fixture {
    delivery: Rc<Delivery>,
    series: Series,
    caller: Rc<Recorder>,
    endpoints: Vec<Rc<Scripted>>,
    registrations: Vec<Registration>,
}

fn name() -> ServiceName {
    Name::new("im.Echo").unwrap()
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

fn fixture(endpoints: usize, settings: ServiceSettings) -> Fixture {
    let series = Series::new();
    let delivery = Delivery::new(Parts {
        settings: Settings::default(),
        services: Services::from([(name(), settings)]),
        shard: 0,
        directory: SharedDirectory::new(1),
        metrics: Metrics::register(&series).unwrap(),
        transports: transports(&series),
        tracker: TaskTracker::new(),
    });
    let endpoints: Vec<_> = (0..endpoints).map(|_| Scripted::new()).collect();
    let register = |endpoint: &Rc<Scripted>| delivery.register(&name(), endpoint.clone());
    let registrations = endpoints.iter().map(|endpoint| register(endpoint).unwrap()).collect();
    Fixture {
        delivery,
        series,
        caller: Recorder::new(),
        endpoints,
        registrations,
    }
}

impl Fixture {
    fn open(&self, id: u64) -> Result<CallId, RelayError> {
        let opened = self
            .delivery
            .open(Box::new(request("/im.Echo/Say")), self.caller.call(id));
        opened.map_err(|refused| *refused.error)
    }

    fn loads(&self) -> Vec<usize> {
        self.endpoints.iter().map(|endpoint| endpoint.in_flight()).collect()
    }

    fn calls(&self, outcome: &str) -> u64 {
        let families = self.series.gather();
        let calls = families
            .iter()
            .find(|family| family.name() == "strait_delivery_calls_total")
            .unwrap();
        let series = calls.get_metric().iter().find(|metric| {
            metric
                .get_label()
                .iter()
                .any(|label| label.name() == "outcome" && label.value() == outcome)
        });
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        #[expect(clippy::as_conversions, reason = "a small count")]
        series.map_or(0, |metric| metric.get_counter().get_value() as u64)
    }
}

// C-E1
#[test]
fn calls_spread_over_three_endpoints_within_bounds() {
    let fixture = fixture(3, ServiceSettings::default());
    for id in 0..3000 {
        fixture.open(id).unwrap();
    }
    for load in fixture.loads() {
        assert!((990..=1010).contains(&load), "{:?}", fixture.loads());
    }
}

// C-G2
#[test]
fn an_unknown_service_is_told_what_to_add() {
    let fixture = fixture(1, ServiceSettings::default());
    let refused = fixture
        .delivery
        .open(Box::new(request("/im.Ech/Say")), fixture.caller.call(1))
        .unwrap_err();
    assert_eq!(
        (refused.error.reason, refused.error.retry),
        (Reason::UnknownService, Retry::Never)
    );
    assert!(refused.error.detail.contains("im.Ech "), "{}", refused.error.detail);
    let refused = fixture
        .delivery
        .open(Box::new(request("/")), fixture.caller.call(1))
        .unwrap_err();
    assert_eq!(refused.error.reason, Reason::BadInput);
}

// C-E1
#[test]
fn a_service_without_a_ready_endpoint_is_unavailable_and_retry_is_safe() {
    let fixture = fixture(0, ServiceSettings::default());
    let error = fixture.open(1).unwrap_err();
    assert_eq!((error.reason, error.retry), (Reason::ServiceUnavailable, Retry::Safe));
    assert_eq!(fixture.delivery.is_available("im.Echo"), Some(false));
    assert_eq!(fixture.delivery.is_available("im.Ech"), None);
    assert_eq!(fixture.calls("failed"), 1);
}

// C-T1, Y2
#[test]
fn an_endpoint_that_took_no_byte_is_passed_over_and_one_that_may_have_is_not() {
    let fixture = fixture(3, ServiceSettings::default());
    fixture.endpoints[0].refuse.set(Some((Reason::Limited, Retry::Safe)));
    fixture.endpoints[1]
        .refuse
        .set(Some((Reason::ServiceUnavailable, Retry::Safe)));
    for id in 0..20 {
        fixture.open(id).unwrap();
    }
    assert_eq!(fixture.loads(), [0, 0, 20]);
    fixture.endpoints[2]
        .refuse
        .set(Some((Reason::Internal, Retry::Ambiguous)));
    fixture.endpoints[0].ready.set(false);
    fixture.endpoints[1].ready.set(false);
    let before = fixture.endpoints[0].refused.get() + fixture.endpoints[1].refused.get();
    let error = fixture.open(21).unwrap_err();
    assert_eq!(error.retry, Retry::Ambiguous);
    let after = fixture.endpoints[0].refused.get() + fixture.endpoints[1].refused.get();
    assert_eq!(before, after);
    assert_eq!(fixture.delivery.open_calls(), 20);
}

// C-F3
#[test]
fn the_limits_of_service_and_endpoint_hold_and_are_given_back() {
    let settings = ServiceSettings {
        in_flight_max: 3,
        endpoint_in_flight_max: 2,
        waiting_max: 0,
        ..ServiceSettings::default()
    };
    let alone = fixture(1, settings.clone());
    alone.open(1).unwrap();
    alone.open(2).unwrap();
    let error = alone.open(3).unwrap_err();
    assert_eq!((error.reason, error.retry), (Reason::Limited, Retry::Safe));
    assert!(
        error.detail.contains("endpoints of service im.Echo"),
        "{}",
        error.detail
    );

    let settings = ServiceSettings {
        endpoint_in_flight_max: 0,
        ..settings
    };
    let fixture = fixture(2, settings);
    let ids: Vec<_> = (0..3).map(|id| fixture.open(id).unwrap()).collect();
    let error = fixture.open(3).unwrap_err();
    assert_eq!(error.reason, Reason::Limited);
    assert!(error.pushback.is_some());
    fixture
        .delivery
        .on_request(ids[0], RequestEvent::Cancel(CancelReason::Deadline));
    fixture.open(4).unwrap();
    for endpoint in &fixture.endpoints {
        endpoint.answer_all(Code::NotFound);
    }
    assert_eq!(fixture.loads(), [0, 0]);
    for id in 5..8 {
        fixture.open(id).unwrap();
    }
    assert_eq!(
        (
            fixture.calls("expired"),
            fixture.calls("app_error"),
            fixture.calls("shed")
        ),
        (1, 3, 1)
    );
}

// C-F2
#[test]
fn calls_above_the_limit_wait_in_order_and_their_callers_may_leave() {
    on_shard(async {
        let settings = ServiceSettings {
            endpoint_in_flight_max: 2,
            waiting_max: 4,
            ..ServiceSettings::default()
        };
        let fixture = fixture(1, settings);
        let shutdown = CancellationToken::new();
        let run = fixture.delivery.clone().run(shutdown.clone());
        let run = fixture.delivery.tracker.spawn_local(run);
        let mut ids: Vec<_> = (1..=6)
            .map(|id| {
                let mut early = request("/im.Echo/Say");
                early.body.end = id != 4;
                fixture.delivery.open(Box::new(early), fixture.caller.call(id)).unwrap()
            })
            .collect();
        let error = fixture.open(7).unwrap_err();
        assert_eq!((error.reason, error.retry), (Reason::Limited, Retry::Safe));
        assert!(error.pushback.is_some());
        // Call 3 is given up, the rest of call 4 comes while it waits.
        let cancel = RequestEvent::Cancel(CancelReason::Deadline);
        fixture.delivery.on_request(ids.remove(2), cancel);
        let rest = crate::model::RequestBody {
            chunk: bytes::Bytes::from_static(b" pong"),
            end: true,
        };
        fixture.delivery.on_request(ids[2], RequestEvent::Body(rest));
        ids.push(fixture.open(8).unwrap());
        let endpoint = &fixture.endpoints[0];
        for seen in [4, 6] {
            endpoint.answer_all(Code::Ok);
            wait_for("the next two", || endpoint.opened.borrow().len() == seen).await;
            assert_eq!(endpoint.in_flight(), 2, "the limit holds");
        }
        let bodies: Vec<_> = endpoint
            .opened
            .borrow()
            .iter()
            .map(|(_, request)| request.body.chunk.clone())
            .collect();
        // The line of calls with a body to come takes turns with the other.
        assert_eq!(bodies, ["ping", "ping", "ping pong", "ping", "ping", "ping"]);
        assert_eq!(fixture.calls("expired"), 1);
        // What still waits when the shard ends is told.
        endpoint.ready.set(true);
        let late = fixture.open(9).unwrap();
        shutdown.cancel();
        run.await.unwrap();
        let ended = fixture.caller.endings();
        assert!(ended.contains(&(9, "draining".to_owned())), "{ended:?}");
        fixture.delivery.on_request(late, RequestEvent::Credit(1));
        endpoint.answer_all(Code::Ok);
        assert_eq!(
            (fixture.calls("ok"), fixture.calls("failed"), fixture.calls("shed")),
            (6, 1, 1)
        );
        assert_eq!(fixture.delivery.open_calls(), 0);
    });
}

// Y1
#[test]
fn events_of_ended_calls_are_ignored_and_nothing_counts_twice() {
    let fixture = fixture(1, ServiceSettings::default());
    let id = fixture.open(1).unwrap();
    let inner = fixture.endpoints[0].opened.borrow()[0].0;
    fixture.delivery.on_request(id, RequestEvent::Credit(1));
    fixture.endpoints[0].reply(inner, ReplyEvent::Credit(2));
    fixture.endpoints[0].reply(inner, answer(Code::Ok));
    fixture.delivery.on_reply(id, failure(Reason::ServiceLost));
    fixture
        .delivery
        .on_request(id, RequestEvent::Cancel(CancelReason::Caller));
    assert_eq!(fixture.caller.endings(), [(1, "Ok".to_owned())]);
    assert_eq!(fixture.caller.events.borrow().len(), 2);
    assert_eq!(fixture.endpoints[0].events.borrow().len(), 1);
    assert_eq!(
        (fixture.calls("ok"), fixture.calls("failed"), fixture.calls("cancelled")),
        (1, 0, 0)
    );
    assert_eq!(fixture.delivery.open_calls(), 0);
}

// C-E1: registered over the framed socket
#[test]
fn a_dropped_registration_takes_no_more_calls_and_limits_hold() {
    let mut fixture = fixture(
        2,
        ServiceSettings {
            registered_max: 2,
            ..ServiceSettings::default()
        },
    );
    let more = Scripted::new();
    let register = |name: &str, delivery: &Delivery| {
        let endpoint = more.clone();
        delivery.register(&Name::new(name).unwrap(), endpoint)
    };
    assert_eq!(
        register("im.Echo", &fixture.delivery).unwrap_err(),
        RegisterError::Full {
            service: name(),
            limit: 2
        }
    );
    assert!(matches!(
        register("im.Ech", &fixture.delivery),
        Err(RegisterError::Unknown(_))
    ));
    fixture.open(0).unwrap();
    drop(fixture.registrations.remove(0));
    for id in 1..10 {
        fixture.open(id).unwrap();
    }
    assert!(fixture.loads()[0] <= 1);
    fixture.endpoints[0].answer_all(Code::Ok);
    let _again = register("im.Echo", &fixture.delivery).unwrap();
}

// C-L1
#[test]
fn a_draining_relay_refuses_new_calls_safely_and_ends_old_ones() {
    let fixture = fixture(1, ServiceSettings::default());
    fixture.open(1).unwrap();
    fixture.delivery.drain();
    let error = fixture.open(2).unwrap_err();
    assert_eq!((error.reason, error.retry), (Reason::Draining, Retry::Safe));
    fixture.endpoints[0].answer_all(Code::Ok);
    assert_eq!(fixture.caller.endings(), [(1, "Ok".to_owned())]);
}

// C-E1
#[test]
fn a_service_registered_on_one_shard_is_called_from_another_until_it_goes() {
    let directory = SharedDirectory::new(2);
    let metrics = Metrics::register(&Series::new()).unwrap();
    let services = Services::from([(name(), ServiceSettings::default())]);
    let delivery = move |shard| {
        let tracker = TaskTracker::new();
        let delivery = Delivery::new(Parts {
            settings: Settings::default(),
            services: services.clone(),
            shard,
            directory: Arc::clone(&directory),
            metrics: metrics.clone(),
            transports: transports(&Series::new()),
            tracker: tracker.clone(),
        });
        tracker.spawn_local(Rc::clone(&delivery).run(CancellationToken::new()));
        delivery
    };
    let there = delivery.clone();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let owner = std::thread::spawn(move || {
        on_shard(async move {
            let delivery = there(1);
            let endpoint = Scripted::new();
            let registration = delivery.register(&name(), endpoint.clone()).unwrap();
            wait_for("100 calls", || {
                endpoint.answer_all(Code::Ok);
                endpoint.opened.borrow().len() == 100
            })
            .await;
            drop(registration);
            wait_for("the caller has seen it go", || is_done.try_recv().is_ok()).await;
        });
    });
    on_shard(async move {
        let delivery = delivery(0);
        let caller = Recorder::new();
        wait_for("the service is there", || {
            delivery.is_available("im.Echo") == Some(true)
        })
        .await;
        for id in 0..100 {
            delivery
                .open(Box::new(request("/im.Echo/Say")), caller.call(id))
                .unwrap();
        }
        wait_for("all are answered", || caller.endings().len() == 100).await;
        wait_for("the service is gone", || {
            delivery.is_available("im.Echo") == Some(false)
        })
        .await;
        done.send(()).unwrap();
    });
    owner.join().unwrap();
}
