//! Sends shadows: what this unit has served of keys that move, to the other unit of the move (R-3.9 S1, S7).
//!
//! # Invariants
//! - S4. A shadow goes to the unit of its move and nowhere else. It is sent again only if no service has seen it, and not for longer
//!   than [`TRY_FOR`].
//! - S5. It takes no part in retries, budgets and series of calls; callers of the owner have long been answered.
//!
//! # Not here
//! Their order, and how many may wait (`control::shadows`).

use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Ways;
use crate::calls::{Calls, Limited};
use crate::control::shadows::{Due, Sent, Shadows};
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Code, Envelope, Facts, Geo, Metadata, Name, Place, RELAY, Reason,
    RelayError, ReplyEvent, Request, RequestBody, RequestEvent, Retry, RouteHints, Source, wants_credit,
};
use crate::wire::shadow::DELIVER;

/// Sends the shadows of a relay, on one of its shards.
pub struct ShadowStory {
    place: Place,
    geo: Geo,
    ways: Rc<dyn Ways>,
    shadows: Shadows,
    open: Calls<Open>,
    me: Weak<Self>,
}

/// A shadow under way.
struct Open {
    due: Due,
    /// Who has it; nobody while it waits to be sent again.
    callee: Option<(Rc<dyn Callee>, CallId)>,
    /// When to look at it: it is not answered, or to be sent again.
    limit: Instant,
    /// When it is given up.
    until: Instant,
}

impl ShadowStory {
    /// For a relay of this place.
    pub fn new(place: Place, geo: Geo, ways: Rc<dyn Ways>, shadows: Shadows) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            place,
            geo,
            ways,
            shadows,
            open: Calls::default(),
            me: me.clone(),
        })
    }

    /// Sends shadows as they become due; runs as long as the shard.
    pub async fn run(&self) {
        let feed = async {
            loop {
                self.shadows.due().await;
                self.feed();
            }
        };
        tokio::join!(feed, self.open.watch(|id| self.on_limit(id)));
    }

    fn feed(&self) {
        while self.open.len() < UNDER_WAY_MAX
            && let Some(due) = self.shadows.next()
        {
            let until = now() + TRY_FOR;
            let id = self.open.insert(Open {
                due,
                callee: None,
                limit: until,
                until,
            });
            self.send(id);
        }
    }

    /// Sends one that nobody has.
    fn send(&self, id: CallId) {
        let sent = self.open.with(id, |open| {
            open.limit = open.until;
            (open.due.line.to.clone(), open.due.shadow.to_bytes(), open.until)
        });
        let Some((to, body, until)) = sent else { return };
        let Some(me) = self.me.upgrade() else { return };
        let opened = self.ways.to(&to).and_then(|callee| {
            let request = Box::new(self.request(&to, body, until));
            match callee.open(request, CallerRef { port: me, id }) {
                Ok(callee_id) => Ok((callee, callee_id)),
                Err(refused) => Err(*refused.error),
            }
        });
        match opened {
            Ok(callee) => {
                self.open.with(id, |open| open.callee = Some(callee));
                self.open.expect(until);
            }
            Err(error) => self.on_failed(id, &error),
        }
    }

    fn request(&self, to: &Name, body: Bytes, until: Instant) -> Request {
        Request {
            path: Bytes::from_static(DELIVER.as_bytes()),
            authority: Bytes::new(),
            envelope: Envelope::Framed,
            metadata: Metadata::default(),
            hints: RouteHints {
                unit: Some(to.clone()),
                ..RouteHints::default()
            },
            facts: Facts {
                source: Some(Source {
                    geo: self.geo.clone(),
                    unit: self.place.unit.clone(),
                    service: Name::new(RELAY).ok(),
                }),
                visited: vec![self.place.unit.clone()],
                destination: Some(to.clone()),
                ..Facts::default()
            },
            received: now(),
            deadline: Some(until),
            body: RequestBody { chunk: body, end: true },
        }
    }

    /// It was not answered in time, or it is time to send it again.
    fn on_limit(&self, id: CallId) {
        let is_waiting = self
            .open
            .with(id, |open| open.callee.is_none() && open.limit < open.until);
        if is_waiting == Some(true) {
            return self.send(id);
        }
        let callee = self.open.with(id, |open| open.callee.take()).flatten();
        if let Some((callee, callee_id)) = callee {
            callee.on_request(callee_id, RequestEvent::Cancel(CancelReason::Deadline));
        }
        self.end(id, Sent::Failed);
    }

    fn on_failed(&self, id: CallId, error: &RelayError) {
        let again = now() + error.pushback.unwrap_or(PAUSE).max(PAUSE_MIN);
        let is_again = self.open.with(id, |open| {
            open.callee = None;
            // S4: nobody has seen it.
            let may = error.retry == Retry::Safe && again < open.until;
            if may {
                open.limit = again;
            }
            may
        });
        match is_again {
            Some(true) => self.open.expect(again),
            Some(false) => self.end(
                id,
                if is_refusal(error.reason) {
                    Sent::Refused
                } else {
                    Sent::Failed
                },
            ),
            None => {}
        }
    }

    fn end(&self, id: CallId, outcome: Sent) {
        if let Some(open) = self.open.take(id) {
            let due = open.due;
            self.shadows.sent(&due.line, due.answered, outcome, now());
        }
    }
}

impl Caller for ShadowStory {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        let part = match event {
            ReplyEvent::Part(part) => part,
            ReplyEvent::Failed(error) => return self.on_failed(id, &error),
            // The whole of it went with the request.
            ReplyEvent::Credit(_) => return,
        };
        let bytes = part.body.0.len();
        match part.end {
            Some(end) if end.status == Code::Ok => self.end(id, Sent::Delivered),
            Some(_) => self.end(id, Sent::AppError),
            None if wants_credit(bytes, false) => {
                let callee = self.open.with(id, |open| open.callee.clone()).flatten();
                if let Some((callee, callee_id)) = callee {
                    callee.on_request(callee_id, RequestEvent::Credit(bytes));
                }
            }
            None => {}
        }
    }
}

impl Limited for Open {
    fn limit(&self) -> Option<Instant> {
        Some(self.limit)
    }
}

/// Whether the other relay said no, and would again.
fn is_refusal(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Policy | Reason::BadInput | Reason::NoRoute | Reason::UnknownService | Reason::WrongUnit
    )
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Shadows under way at once, each of another key: a unit that hangs must not hold up those for others soon.
const UNDER_WAY_MAX: usize = 512;
/// How long a shadow may take, from its turn on.
const TRY_FOR: Duration = Duration::from_secs(5);
/// Before a shadow that nobody has seen is sent again.
const PAUSE: Duration = Duration::from_millis(100);
/// However soon the other relay asks for it.
const PAUSE_MIN: Duration = Duration::from_millis(10);
