//! Calls that are tried again, against a unit whose every move a test makes.

mod attempts;
mod kept;
mod tokens;
mod waits;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::admission::{RetryBudgets, RetrySettings};
use crate::calls::{CallPolicies, ShardPolicies};
use crate::crossing::testing::{Recorder, Service, answer, on_shard, request, wait_for};
use crate::model::{
    CallId, CancelReason, Code, Ending, Metadata, MetadataBuilder, Name, Part, Place, Reason, ReplyBody, ReplyEvent,
    Request, RequestBody, RequestEvent, Retry,
};
use crate::routing::metrics::LookUps;
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

/// No call is due before the test lets the shard run.
const PAUSE: Duration = Duration::from_millis(30);

fn unit(name: &str) -> UnitId {
    Name::new(name).unwrap()
}

fn fixture() -> Fixture {
    let table = RouteTable::build(&routing::Settings::default(), &unit("a"), [&unit("b")]).unwrap();
    fixture_with(table, None, Registry::new().unwrap())
}

fn fixture_with(table: RouteTable, tokens: Option<TokenParts>, series: Registry) -> Fixture {
    fixture_of(series, |parts| {
        parts.routing = routing::Handle::new(table);
        parts.tokens = tokens;
    })
}

/// The story with its usual parts, of which some are others.
fn fixture_of(series: Registry, change: impl FnOnce(&mut Parts)) -> Fixture {
    let table = RouteTable::build(&routing::Settings::default(), &unit("a"), [&unit("b")]).unwrap();
    let (a, b) = (unit("a"), unit("b"));
    let budgets = RetryBudgets::new([a.clone(), b.clone()], 1, RetrySettings::default());
    let unit_b = Rc::new(B {
        service: Service::new(),
        away: Cell::new(false),
    });
    let mut parts = Parts {
        place: Place {
            unit: a,
            relay: unit("a-1"),
        },
        routing: routing::Handle::new(table),
        peers: unit_b.clone(),
        local: Service::new(),
        policies: ShardPolicies::new(CallPolicies::default()),
        parking: ParkingLimits {
            calls: 8,
            bytes: 1 << 20,
            calls_of_key: 4,
        },
        claims: None,
        tokens: None,
        kept: None,
        lookups: LookUps::detached().unwrap(),
        budgets: budgets.on_shard(0),
        metrics: CallSeries::register(series.series()).unwrap().on_shard(),
        first_request_id: 1,
    };
    change(&mut parts);
    let rpc = Rpc::new(parts);
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

impl Fixture {
    /// Opens calls number `from..to`, each with its number as the authority.
    fn open(&self, calls: std::ops::Range<u64>) -> Vec<CallId> {
        let open = |number: u64| {
            let mut request = idempotent();
            request.authority = number.to_string().into();
            self.rpc.open(Box::new(request), self.caller.call(number)).unwrap()
        };
        calls.map(open).collect()
    }

    /// Ends attempts that unit `b` got, by the order in which they came.
    fn fail(&self, attempts: std::ops::Range<usize>, reason: Reason, retry: Retry) {
        for attempt in attempts {
            let error = RelayError::new(reason, retry, "test");
            self.reply(attempt, ReplyEvent::Failed(Box::new(error)));
        }
    }

    /// The same for a lost link that took along what a service may have seen, with a pause that is never nothing.
    fn lose(&self, attempts: std::ops::Range<usize>) {
        for attempt in attempts {
            let error = RelayError::new(Reason::LinkLost, Retry::Ambiguous, "test").pushed_back(PAUSE);
            self.reply(attempt, ReplyEvent::Failed(Box::new(error)));
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
