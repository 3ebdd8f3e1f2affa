//! Calls that are tried again, against a unit whose every move a test makes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::admission::{RetryBudgets, RetrySettings};
use crate::calls::CallPolicies;
use crate::crossing::testing::{Recorder, Service, answer, on_shard, request, wait_for};
use crate::model::{
    CallId, CancelReason, Code, Ending, Metadata, MetadataBuilder, Name, Part, Place, Reason, ReplyBody, ReplyEvent,
    Request, RequestEvent, Retry,
};
use crate::routing::{self, RouteTable};
use crate::telemetry::Registry;
use crate::telemetry::calls::CallSeries;

/// The story of a relay of unit `a`, and unit `b`.
struct Fixture {
    rpc: Rc<Rpc>,
    b: Rc<B>,
    caller: Rc<Recorder>,
    budgets: std::sync::Arc<RetryBudgets>,
    series: Registry,
}

/// Unit `b`: one way to it, which can be away.
struct B {
    service: Rc<Service>,
    away: Cell<bool>,
}

impl Ways for B {
    fn to(&self, _: &UnitId) -> Result<Rc<dyn Callee>, RelayError> {
        if self.away.get() {
            return Err(RelayError::new(Reason::UnitAway, Retry::Never, "test"));
        }
        Ok(self.service.clone())
    }
}

fn unit(name: &str) -> UnitId {
    Name::new(name).unwrap()
}

fn fixture() -> Fixture {
    let (a, b) = (unit("a"), unit("b"));
    let series = Registry::new().unwrap();
    let budgets = RetryBudgets::new([a.clone(), b.clone()], 1, RetrySettings::default());
    let table = RouteTable::build(&routing::Settings::default(), &a, [&b]).unwrap();
    let unit_b = Rc::new(B {
        service: Service::new(),
        away: Cell::new(false),
    });
    let rpc = Rpc::new(Parts {
        place: Place {
            unit: a,
            relay: unit("a-1"),
        },
        routing: routing::Handle::new(table),
        peers: unit_b.clone(),
        local: Service::new(),
        policies: Rc::new(CallPolicies::default()),
        budgets: budgets.on_shard(0),
        metrics: CallSeries::register(series.series()).unwrap().on_shard(),
        first_request_id: 1,
    });
    let caller = Recorder::new();
    Fixture {
        rpc,
        b: unit_b,
        caller,
        budgets,
        series,
    }
}

/// A call to unit `b` that may be executed twice.
fn idempotent() -> Request {
    let mut request = request("/im.Echo/Say");
    request.hints.unit = Some(unit("b"));
    request.hints.idempotent = true;
    request
}

/// A reply that is nothing but a status, in trailers or, trailers-only, with its head.
fn status(code: Code, fields: &[(&str, &str)], head: bool) -> ReplyEvent {
    let mut block = MetadataBuilder::new();
    for (name, value) in fields {
        block.push(name.as_bytes(), value.as_bytes()).unwrap();
    }
    let (in_head, trailers) = if head {
        (block.build(), Metadata::default())
    } else {
        (Metadata::default(), block.build())
    };
    ReplyEvent::Part(Part {
        head: Some((200, in_head)),
        body: ReplyBody::default(),
        end: Some(Ending {
            status: code,
            trailers,
            ..Ending::default()
        }),
    })
}

impl Fixture {
    /// Opens calls number `from..to`, each with its number as the authority.
    fn open(&self, calls: std::ops::Range<u64>) -> Vec<CallId> {
        let open = |number: u64| {
            let mut request = idempotent();
            request.authority = number.to_string().into();
            self.rpc.open(request, self.caller.call(number)).unwrap()
        };
        calls.map(open).collect()
    }

    /// Ends attempts that unit `b` got, by the order in which they came.
    fn fail(&self, attempts: std::ops::Range<usize>, reason: Reason, retry: Retry) {
        for attempt in attempts {
            self.reply(
                attempt,
                ReplyEvent::Failed(Box::new(RelayError::new(reason, retry, "test"))),
            );
        }
    }

    fn reply(&self, attempt: usize, event: ReplyEvent) {
        let id = self.b.service.opened.borrow()[attempt].0;
        self.b.service.reply(id, event);
    }

    /// Number of the call and attempts before, of all attempts unit `b` got.
    fn attempts(&self) -> Vec<(u64, u8)> {
        let opened = self.b.service.opened.borrow();
        let attempts = opened.iter().map(|(_, request)| {
            let number = String::from_utf8_lossy(&request.authority).parse().unwrap();
            (number, request.facts.attempt)
        });
        attempts.collect()
    }

    async fn until_attempts(&self, count: usize) {
        wait_for("attempts", || self.b.service.opened.borrow().len() >= count).await;
    }

    async fn until_endings(&self, count: usize) -> Vec<(u64, String)> {
        wait_for("endings", || self.caller.endings().len() >= count).await;
        self.caller.endings()
    }

    fn counted(&self, outcome: &str) -> u64 {
        let line = format!("strait_call_retries_total{{dst_unit=\"b\",outcome=\"{outcome}\",src_unit=\"a\"}} ");
        let text = String::from_utf8(self.series.to_text().unwrap()).unwrap();
        text.lines()
            .find_map(|found| found.strip_prefix(&line)?.parse().ok())
            .unwrap_or(0)
    }

    /// Nothing waits, nothing is counted, all permits are there.
    async fn is_as_new(&self) {
        assert_eq!(self.rpc.open_calls(), 0);
        let budget = self.rpc.parts.budgets.of(&unit("b")).unwrap();
        assert_eq!(budget.active(), 0, "calls that ended are counted as active");
        wait_for("all permits", || {
            let permits = [budget.take(), budget.take(), budget.take(), budget.take()];
            permits.map(|permit| permit.is_some()) == [true, true, true, false]
        })
        .await;
        assert_eq!(self.rpc.retries.alarms(), 0);
    }
}

fn test(run: impl AsyncFnOnce(&Fixture)) {
    let fixture = fixture();
    on_shard(async {
        tokio::select! {
            () = fixture.rpc.watch() => {}
            () = run(&fixture) => {}
        }
    });
}

// C-T1, C-T2, C-T3: the service could see which attempt it is; the fifth is the last, and its failure is the answer.
#[test]
fn a_call_has_five_attempts_that_are_numbered() {
    test(async |fixture| {
        fixture.open(0..1);
        for attempt in 0..5 {
            fixture.until_attempts(attempt + 1).await;
            fixture.fail(attempt..attempt + 1, Reason::ServiceLost, Retry::Ambiguous);
        }
        assert_eq!(fixture.until_endings(1).await, [(0, "service_lost".to_owned())]);
        assert_eq!(fixture.attempts(), [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]);
        assert_eq!((fixture.counted("sent"), fixture.counted("attempts_spent")), (4, 1));
        fixture.is_as_new().await;
    });
}

// C-L3, C-T3: what a link takes along all at once is sent again within the budget, first come first served.
#[test]
fn calls_lost_with_a_link_wait_for_a_permit_in_the_order_in_which_they_failed() {
    test(async |fixture| {
        fixture.open(0..40);
        fixture.fail(0..40, Reason::LinkLost, Retry::Ambiguous);
        let mut answered = 40;
        while answered < 80 {
            fixture.until_attempts(answered + 1).await;
            let sent = fixture.b.service.opened.borrow().len();
            let under_way = sent - answered;
            assert!(under_way <= 7, "{under_way} retries at a time, of 39 active calls");
            for attempt in answered..sent {
                fixture.reply(attempt, answer(Code::Ok));
            }
            answered = sent;
        }
        let endings = fixture.until_endings(40).await;
        assert!(endings.iter().all(|(_, ending)| ending == "Ok"), "{endings:?}");
        // The first few hold permits through pauses of their own; from then on the line decides.
        let order: Vec<u64> = fixture.attempts()[47..].iter().map(|(call, _)| *call).collect();
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(fixture.counted("sent"), 40);
        assert!(fixture.counted("waited") >= 33);
        fixture.is_as_new().await;
    });
}

// C-T3: a service that fails its calls does not get them all again.
#[test]
fn calls_that_a_service_broke_do_not_wait_for_a_permit() {
    test(async |fixture| {
        fixture.open(0..40);
        fixture.fail(0..40, Reason::ServiceLost, Retry::Ambiguous);
        let refused = fixture.caller.endings();
        assert!((33..=37).contains(&refused.len()), "{refused:?}");
        assert!(
            refused.iter().all(|(_, ending)| ending == "service_lost"),
            "{refused:?}"
        );
        let retried = 40 - refused.len();
        fixture.until_attempts(40 + retried).await;
        fixture.b.service.answer_all(Code::Ok);
        fixture.until_endings(40).await;
        assert_eq!(usize::try_from(fixture.counted("no_budget")).unwrap(), refused.len());
        fixture.is_as_new().await;
    });
}

// C-L3: the caller of a call that nobody saw does not even notice a pause.
#[test]
fn a_call_that_a_lost_link_had_not_carried_goes_out_at_once() {
    test(async |fixture| {
        fixture.open(0..1);
        fixture.fail(0..1, Reason::LinkLost, Retry::Safe);
        assert_eq!(fixture.attempts(), [(0, 0), (0, 1)]);
        fixture.b.service.answer_all(Code::Ok);
        fixture.is_as_new().await;
    });
}

#[test]
fn when_no_link_is_up_a_call_ends_as_away_and_nothing_goes_out() {
    test(async |fixture| {
        fixture.open(0..9);
        // Some wait already, for their time or for a permit, when the last link goes.
        fixture.fail(0..5, Reason::LinkLost, Retry::Ambiguous);
        fixture.b.away.set(true);
        fixture.fail(5..9, Reason::LinkLost, Retry::Ambiguous);
        let endings = fixture.until_endings(9).await;
        assert!(endings.iter().all(|(_, ending)| ending == "unit_away"), "{endings:?}");
        assert_eq!(fixture.attempts().len(), 9);
        fixture.is_as_new().await;
    });
}

// C-D2: a caller that leaves takes everything along, wherever its call is.
#[test]
fn a_cancelled_call_gives_up_its_permit_or_its_place_in_line() {
    test(async |fixture| {
        let calls = fixture.open(0..6);
        fixture.fail(0..6, Reason::LinkLost, Retry::Ambiguous);
        let cancel = |call: usize| {
            fixture
                .rpc
                .on_request(calls[call], RequestEvent::Cancel(CancelReason::Caller))
        };
        // 0, 1 and 2 have permits and wait for their time, the others wait in line.
        cancel(4);
        cancel(0);
        fixture.until_attempts(9).await;
        let mut again: Vec<u64> = fixture.attempts()[6..].iter().map(|(call, _)| *call).collect();
        again.sort_unstable();
        assert_eq!(again, [1, 2, 3]);
        // One more leaves with its attempt under way: unit b is told.
        cancel(1);
        fixture.b.service.answer_all(Code::Ok);
        fixture.until_attempts(10).await;
        assert_eq!(fixture.attempts()[9].0, 5);
        fixture.b.service.answer_all(Code::Ok);
        let mut ended = fixture.until_endings(3).await;
        ended.sort();
        assert_eq!(ended, [2, 3, 5].map(|call| (call, "Ok".to_owned())));
        assert_eq!(fixture.b.service.events.borrow().len(), 1);
        fixture.is_as_new().await;
    });
}

// C-T3, C-T4: never past the deadline, and then the answer is what happened.
#[test]
fn a_pause_that_would_outlast_the_deadline_ends_the_call_at_once() {
    test(async |fixture| {
        let mut request = idempotent();
        request.deadline = Some(request.received + Duration::from_secs(10));
        fixture.rpc.open(request, fixture.caller.call(7)).unwrap();
        let error = RelayError::new(Reason::Limited, Retry::Safe, "test").pushed_back(Duration::from_secs(20));
        fixture.reply(0, ReplyEvent::Failed(Box::new(error)));
        assert_eq!(fixture.caller.endings(), [(7, "limited".to_owned())]);
        assert_eq!(fixture.counted("deadline"), 1);
        fixture.is_as_new().await;
    });
}

#[test]
fn a_call_waits_for_a_permit_no_longer_than_its_deadline() {
    test(async |fixture| {
        fixture.open(0..3);
        fixture.fail(0..3, Reason::LinkLost, Retry::Safe);
        let mut request = idempotent();
        request.deadline = Some(request.received + Duration::from_millis(40));
        fixture.rpc.open(request, fixture.caller.call(7)).unwrap();
        fixture.fail(6..7, Reason::LinkLost, Retry::Safe);
        assert_eq!(fixture.until_endings(1).await, [(7, "deadline_exceeded".to_owned())]);
        assert_eq!((fixture.counted("waited"), fixture.counted("deadline")), (1, 1));
        assert_eq!(fixture.attempts().len(), 7);
        fixture.b.service.answer_all(Code::Ok);
        fixture.is_as_new().await;
    });
}

// I1, C-L1
#[test]
fn calls_that_wait_when_the_shard_ends_get_the_failure_they_wait_with() {
    test(async |fixture| {
        fixture.open(0..8);
        fixture.fail(0..7, Reason::LinkLost, Retry::Ambiguous);
        fixture.rpc.end_retries();
        let mut endings = fixture.caller.endings();
        endings.sort();
        assert_eq!(
            endings,
            [0, 1, 2, 3, 4, 5, 6].map(|call| (call, "link_lost".to_owned()))
        );
        // From then on nothing waits any more.
        fixture.fail(7..8, Reason::LinkLost, Retry::Ambiguous);
        assert_eq!(fixture.caller.endings().len(), 8);
        assert_eq!((fixture.attempts().len(), fixture.counted("draining")), (8, 8));
        fixture.is_as_new().await;
    });
}

// C-T7: also for calls that wait at that moment.
#[test]
fn retries_are_switched_off_while_calls_wait() {
    test(async |fixture| {
        fixture.open(0..3);
        fixture.fail(0..2, Reason::ServiceLost, Retry::Ambiguous);
        let services = [(unit("im.Echo"), false)].into();
        fixture.budgets.replace_settings(RetrySettings {
            services,
            ..RetrySettings::default()
        });
        fixture.fail(2..3, Reason::ServiceLost, Retry::Ambiguous);
        let endings = fixture.until_endings(3).await;
        assert!(
            endings.iter().all(|(_, ending)| ending == "service_lost"),
            "{endings:?}"
        );
        assert_eq!((fixture.attempts().len(), fixture.counted("switched_off")), (3, 3));
        fixture.is_as_new().await;
    });
}

// C-T1, C-T6: the status counts, in trailers and, trailers-only, in the head.
#[test]
fn an_unavailable_service_is_asked_again_and_its_last_answer_is_the_answer() {
    for in_head in [false, true] {
        test(async |fixture| {
            fixture.open(0..1);
            for attempt in 0..5 {
                fixture.until_attempts(attempt + 1).await;
                assert_eq!(fixture.caller.endings().len(), 0);
                fixture.reply(attempt, status(Code::Unavailable, &[], in_head));
            }
            assert_eq!(fixture.until_endings(1).await, [(0, "Unavailable".to_owned())]);
            assert_eq!(fixture.counted("sent"), 4);
            fixture.is_as_new().await;
        });
    }
}

// C-T1, C-T4, C-T5: what forbids another attempt.
#[test]
fn an_answer_stays_the_answer_where_another_attempt_is_not_wanted() {
    type Bend = fn(&mut Request);
    let check = |bend: Bend, first: Option<Part>, last: ReplyEvent, expected: &str, counted: Option<&str>| {
        test(async |fixture| {
            let mut request = idempotent();
            bend(&mut request);
            fixture.rpc.open(request, fixture.caller.call(0)).unwrap();
            if let Some(part) = first {
                fixture.reply(0, ReplyEvent::Part(part));
            }
            fixture.reply(0, last);
            assert_eq!(fixture.caller.endings(), [(0, expected.to_owned())]);
            if let Some(counted) = counted {
                assert_eq!(fixture.counted(counted), 1, "{counted}");
            }
            assert_eq!(fixture.counted("sent"), 0);
            fixture.is_as_new().await;
        });
    };
    let lost = || ReplyEvent::Failed(Box::new(RelayError::new(Reason::LinkLost, Retry::Ambiguous, "test")));
    let never = [("grpc-retry-pushback-ms", "-1")];
    let some = || Part {
        body: ReplyBody(b"some"[..].into()),
        ..Part::default()
    };
    let plain: Bend = |request| request.hints.idempotent = false;
    let large: Bend = |request| request.body.chunk = vec![0; 20_000].into();
    let same: Bend = |_| {};
    check(plain, None, status(Code::Unavailable, &[], false), "Unavailable", None);
    check(same, None, status(Code::Internal, &[], false), "Internal", None);
    check(
        same,
        None,
        status(Code::Unavailable, &never, false),
        "Unavailable",
        Some("pushed_back"),
    );
    check(
        same,
        None,
        status(Code::Unavailable, &never, true),
        "Unavailable",
        Some("pushed_back"),
    );
    check(
        same,
        Some(some()),
        status(Code::Unavailable, &[], false),
        "Unavailable",
        None,
    );
    check(same, Some(some()), lost(), "link_lost", Some("reply_started"));
    check(large, None, lost(), "link_lost", Some("too_large"));
    check(plain, None, lost(), "link_lost", Some("not_idempotent"));
    check(
        |request| request.body.end = false,
        None,
        lost(),
        "link_lost",
        Some("request_open"),
    );
}
