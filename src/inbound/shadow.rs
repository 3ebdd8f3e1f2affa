//! Shadows that arrive: what the owner of a key that moves has served, for the local service of the other unit (R-3.9 S1, S7).
//!
//! # Invariants
//! - S1. A shadow reaches a service only if a relay of the unit that owns its key sent it, and its key moves here, or has moved away
//!   from here, with a mirror; all by this relay's own copy. The unit of the sender is that of its certificate.
//! - S2. It is handed over once, to a local service; nothing of it is forwarded or claimed, and it is no call in the books.
//! - S3. A relay that has not heard yet of what the sender knows refuses for now, before a service has seen it.

use std::time::Duration;

use super::rpc::{Open, Rpc};
use crate::calls::{CallRecord, TimeLimits};
use crate::control::claims::Claims;
use crate::control::shadows::{Received, Shadows};
use crate::model::{
    CallId, CallerRef, Code, Ending, Geo, Part, RELAY, Reason, Refused, RelayError, ReplyEvent, Request, RequestEvent,
    Retry, Source, UnitId, wants_credit,
};
use crate::routing::record::MoveId;
use crate::routing::{Evidence, RouteError, RouteTable};
use crate::telemetry::calls::Direction;
use crate::wire::shadow::{SERVICE, Shadow};

/// What is needed for shadows of other units.
pub struct ShadowParts {
    /// This Geo.
    pub geo: Geo,
    /// Who has keys that nothing else was decided about.
    pub claims: Claims,
    /// Counts them.
    pub shadows: Shadows,
}

/// A shadow at its service; counted when it is dropped.
pub(super) struct Arrived {
    shadows: Shadows,
    outcome: Received,
}

impl Arrived {
    fn new(shadows: &Shadows) -> Self {
        Self {
            shadows: shadows.clone(),
            outcome: Received::Refused,
        }
    }

    /// The service has answered: the sender learns the status, and nothing else.
    pub(super) fn answered(mut self, sender: &CallerRef, part: &Part) {
        let status = part.end.as_ref().map(|end| end.status).unwrap_or_default();
        self.outcome = match status {
            Code::Ok => Received::Delivered,
            _ => Received::AppError,
        };
        drop(self);
        sender.send(ReplyEvent::Part(Part {
            end: Some(Ending {
                status,
                ..Ending::default()
            }),
            ..Part::default()
        }));
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        self.shadows.received(self.outcome);
    }
}

/// Whether a call is for this module.
pub(super) fn is_one(request: &Request) -> bool {
    request.service() == Some(SERVICE)
}

impl Rpc {
    /// Hands a shadow over, if it may come.
    pub(super) fn open_shadow(&self, mut request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let refused = |error: RelayError, request| Refused {
            error: Box::new(error.at(&self.parts.place.unit, &self.parts.place.relay)),
            request,
        };
        let Some(parts) = &self.parts.shadows else {
            let detail = "this relay has no route store, so no key of it moves";
            return Err(refused(RelayError::new(Reason::Policy, Retry::Never, detail), request));
        };
        let mut arrived = Arrived::new(&parts.shadows);
        let inner = match self.unpacked(parts, &request) {
            Ok(inner) => inner,
            Err(error) => return Err(refused(error, request)),
        };
        arrived.outcome = Received::Failed;
        let policies = self.parts.policies.current();
        let limits = TimeLimits::new(policies.of(inner.service()), inner.received, inner.deadline);
        let Some(me) = self.me.upgrade() else {
            let error = RelayError::new(Reason::Draining, Retry::Safe, "the relay is shutting down");
            return Err(refused(error, request));
        };
        let unit = self.parts.place.unit.clone();
        let id = self.calls.insert(Open {
            caller,
            callee_id: CallId(0),
            limits,
            record: CallRecord::new(Direction::Inbound, unit, &mut request),
            admission: None,
            shadow: Some(arrived),
        });
        match self.parts.delivery.open(Box::new(inner), CallerRef { port: me, id }) {
            Ok(callee_id) => {
                self.calls.with(id, |open| open.callee_id = callee_id);
                Ok(id)
            }
            Err(error) => match self.calls.take(id) {
                Some(_) => Err(refused(*error.error, request)),
                None => Ok(id),
            },
        }
    }

    /// The call of a shadow that may come.
    fn unpacked(&self, parts: &ShadowParts, request: &Request) -> Result<Request, RelayError> {
        let unreadable = || {
            let detail = "this is no shadow as strait.v1.Shadow describes them";
            RelayError::new(Reason::BadInput, Retry::Never, detail)
        };
        // Whoever may not send any learns no more than that.
        let sender = sender(request.facts.source.as_ref(), &parts.geo)?;
        let whole = request.body.end.then(|| Shadow::read(request.body.chunk.clone()));
        let shadow = whole.flatten().ok_or_else(unreadable)?;
        let table = self.parts.routing.table();
        let here = &self.parts.place.unit;
        judge(&table, here, &sender.unit, &shadow, &parts.claims).inspect_err(|error| {
            if error.reason == Reason::RoutesAway {
                parts.claims.ask(&shadow.hints(), &shadow.policy());
            }
        })?;
        let times = (request.received, request.deadline);
        let mut inner = shadow.into_request(times).ok_or_else(unreadable)?;
        let service = inner.service().unwrap_or_default();
        if table.routes().is_some_and(|routes| routes.is_hook_service(service)) {
            return Err(unreadable());
        }
        inner.facts.source.get_or_insert_with(|| Source {
            service: None,
            ..sender.clone()
        });
        inner.facts.request_id = request.facts.request_id;
        Ok(inner)
    }

    /// Some of a reply that nobody wants.
    pub(super) fn swallow(&self, callee_id: CallId, bytes: usize) {
        if wants_credit(bytes, false) {
            self.parts.delivery.on_request(callee_id, RequestEvent::Credit(bytes));
        }
    }
}

/// The relay that sends it, by its certificate. Whoever calls a relay from below it has another service, or none.
fn sender<'a>(source: Option<&'a Source>, geo: &Geo) -> Result<&'a Source, RelayError> {
    let is_relay = |source: &&Source| source.service.as_ref().is_some_and(|service| service.as_str() == RELAY);
    source
        .filter(|source| source.geo == *geo)
        .filter(is_relay)
        .ok_or_else(|| refusal("shadows come from relays of the same Geo only"))
}

/// Whether a unit may send this shadow here (S1, S3).
fn judge(
    table: &RouteTable,
    here: &UnitId,
    sender: &UnitId,
    shadow: &Shadow,
    evidence: &impl Evidence,
) -> Result<(), RelayError> {
    let behind = || {
        let detail = "this relay has not heard yet of the move that the shadow belongs to";
        RelayError::new(Reason::RoutesAway, Retry::Safe, detail).pushed_back(PUSHBACK)
    };
    if table.version() < shadow.epoch {
        return Err(behind());
    }
    let routes = table.routes().ok_or_else(behind)?;
    let policy = shadow.policy();
    let resolved = table.resolve_with_trail(&shadow.hints(), &policy, here, evidence);
    let (decision, trail) = resolved.map_err(|error| match error {
        RouteError::Unclaimed { .. } | RouteError::Behind { .. } => behind(),
        error => RelayError::from(error),
    })?;
    if decision.unit != sender {
        return Err(refusal(
            "the key of the shadow belongs to another unit than its sender's",
        ));
    }
    match routes.mirrored(&trail) {
        Some(mirrored) if mirrored.by == MoveId(shadow.r#move) && mirrored.to == here => Ok(()),
        _ => Err(refusal("no move with a mirror brings the key of the shadow here")),
    }
}

fn refusal(detail: &'static str) -> RelayError {
    RelayError::new(Reason::Policy, Retry::Never, detail)
}

/// When a sender that is ahead should come back.
const PUSHBACK: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use crate::routing::Settings;
    use crate::routing::record::{Batch, Epoch, Rev, Snapshot};
    use std::sync::Arc;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// The key `cid=1`, as a record and a move with a mirror to unit b say.
    fn table(node: &serde_json::Value, mirror: bool) -> RouteTable {
        let id = serde_json::json!({ "key": { "dimension": "cid", "key": "1" } });
        let mut record = serde_json::json!({ "id": id, "op": "0".repeat(32) });
        record
            .as_object_mut()
            .unwrap()
            .extend(node.as_object().unwrap().clone());
        let work = serde_json::json!({
            "id": "00000000000000ff", "nodes": [id], "to": "b", "since": 0, "options": { "mirror": mirror },
            "state": "running", "driver": { "unit": "c", "relay": "c-1" }, "next": 0, "moved": 0, "aborted": 0,
            "asked_at": 0, "reason": "",
        });
        let book = serde_json::json!({
            "units": ["a", "b", "c"],
            "dimensions": [{ "name": "cid", "placement": "rules" }],
            "rules": [[1, { "dimension": "cid", "unit": "a", "default": true }]],
        });
        let changes = serde_json::json!([
            { "rev": 1, "id": "book", "record": { "book": book } },
            { "rev": 2, "id": { "move": "00000000000000ff" }, "record": { "move": work } },
            { "rev": 3, "id": { "node": id }, "record": { "node": record } },
        ]);
        let routes = crate::routing::Routes::from_snapshot(&Snapshot {
            epoch: Epoch::new(0, Rev(3)),
            seed: 1,
            changes: serde_json::from_value(changes).unwrap(),
        });
        let progress = Batch {
            prev: Rev(3),
            rev: Rev(3),
            changes: Vec::new(),
        };
        let routes = routes.apply(&progress).unwrap();
        let units = [name("b"), name("c")];
        let table = RouteTable::build(&Settings::default(), &name("a"), units.iter()).unwrap();
        table.with_routes(Arc::new(routes))
    }

    fn shadow(by: u64, epoch: u64) -> Shadow {
        Shadow {
            r#move: by,
            epoch,
            keys: vec![crate::wire::shadow::ShadowKey {
                dimension: "cid".into(),
                key: "1".into(),
            }],
            ..Shadow::default()
        }
    }

    fn told(table: &RouteTable, here: &str, sender: &str, shadow: &Shadow) -> Result<(), Reason> {
        judge(table, &name(here), &name(sender), shadow, &()).map_err(|error| error.reason)
    }

    // S1, S7: only the owner's relays send shadows, only to the unit of a move that has a mirror, as the receiver's copy has it.
    #[test]
    fn only_the_owner_sends_shadows_and_only_to_the_unit_of_its_move() {
        let by = serde_json::json!({ "to": "b", "by": "00000000000000ff" });
        let on_its_way = serde_json::json!({ "target": { "unit": "a" }, "state": { "migrating": by } });
        let frozen = serde_json::json!({ "target": { "unit": "a" }, "state": { "frozen": by } });
        let there = serde_json::json!({ "target": { "unit": "b" }, "state": "active", "previous": "a" });
        let done = serde_json::json!({ "target": { "unit": "b" }, "state": "active" });
        let aborted = serde_json::json!({ "target": { "unit": "a" }, "state": "active" });
        let no = Err(Reason::Policy);
        for (what, node, here, sender, expected) in [
            ("its owner, to the new one", &on_its_way, "b", "a", Ok(())),
            ("also while it is frozen", &frozen, "b", "a", Ok(())),
            ("another unit", &on_its_way, "b", "c", no),
            ("the new owner itself", &on_its_way, "b", "b", no),
            ("its owner, elsewhere", &on_its_way, "c", "a", no),
            ("its owner, to itself", &on_its_way, "a", "a", no),
            ("its old owner, too late", &there, "b", "a", no),
            ("its new owner, to the old one", &there, "a", "b", Ok(())),
            ("another unit, to the old owner", &there, "a", "c", no),
            ("its new owner, after the trail", &done, "a", "b", no),
            ("its owner, after it was given up", &aborted, "b", "a", no),
        ] {
            assert_eq!(
                told(&table(node, true), here, sender, &shadow(255, 3)),
                expected,
                "{what}"
            );
        }
        let known = table(&on_its_way, true);
        assert_eq!(told(&known, "b", "a", &shadow(254, 3)), no, "another move");
        let behind = Err(Reason::RoutesAway);
        assert_eq!(told(&known, "b", "a", &shadow(255, 4)), behind, "known later");
        let without = table(&on_its_way, false);
        assert_eq!(told(&without, "b", "a", &shadow(255, 3)), no, "no mirror was asked for");
    }

    #[test]
    fn whoever_is_no_relay_of_the_geo_sends_no_shadows() {
        let source = |geo: &str, service: Option<&str>| Source {
            geo: name(geo),
            unit: name("a"),
            service: service.map(name),
        };
        let geo = name("g");
        assert!(sender(Some(&source("g", Some(RELAY))), &geo).is_ok());
        for other in [
            None,
            Some(source("g", None)),
            Some(source("g", Some("im.Echo"))),
            Some(source("h", Some(RELAY))),
        ] {
            let refused = sender(other.as_ref(), &geo).unwrap_err();
            assert_eq!((refused.reason, refused.retry), (Reason::Policy, Retry::Never));
        }
    }
}
