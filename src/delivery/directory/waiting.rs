//! Calls that no endpoint takes now wait until one does, or until their caller gives them up (C-F2).
//!
//! The task of the directory hands them over, never the event that made room: the endpoint of a call that
//! has just ended still counts it at that moment.

use std::rc::Rc;
use std::time::{Duration, Instant};

use slotmap::{DefaultKey, Key};

use super::{Call, Delivery, TICK};
use crate::delivery::service::Service;
use crate::model::{CallId, Reason, Refused, RelayError, ReplyEvent, Request, RequestEvent, Retry};

/// A call in line.
pub(super) struct Wait {
    request: Box<Request>,
    since: Instant,
}

impl Delivery {
    /// Room may be there for calls that wait.
    pub(in crate::delivery) fn on_room(&self) {
        self.room.notify_one();
    }

    /// How soon to look again: other shards tell nobody when they leave a place.
    pub(super) fn tick(&self) -> Duration {
        if self.lines.borrow().is_empty() {
            TICK
        } else {
            LINE_TICK
        }
    }

    /// Puts a call in line that was refused for want of room.
    pub(super) fn wait(&self, key: DefaultKey, service: &Rc<Service>, refused: Refused) -> Result<(), Refused> {
        let mut waiting = service.waiting.borrow_mut();
        if !is_for_room(&refused.error) || waiting.len() >= service.settings().waiting_max {
            return Err(refused);
        }
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(key) else {
            return Err(refused);
        };
        let streams = refused.request.body.is_partial();
        call.waits = Some(Box::new(Wait {
            request: refused.request,
            since: tokio::time::Instant::now().into_std(),
        }));
        if waiting.len() == 0 {
            self.keep_line(service);
            // The task of the directory looks again sooner from now on.
            self.on_room();
        }
        waiting.push(key, streams);
        service.metrics.on_waiting();
        Ok(())
    }

    /// More of a request whose call waits.
    pub(super) fn on_early(&self, id: CallId, event: RequestEvent) {
        let mut calls = self.calls.borrow_mut();
        let wait = calls.get_mut(super::key_of(id)).and_then(|call| call.waits.as_mut());
        if let (Some(wait), RequestEvent::Body(body)) = (wait, event) {
            wait.request.body.append(body);
        }
    }

    /// Hands over as many calls as there is room for.
    pub(super) fn advance(&self) {
        let lines = self.lines.take();
        for service in lines {
            self.advance_line(&service);
            if service.waiting.borrow().len() > 0 {
                self.keep_line(&service);
            }
        }
    }

    /// Once each: a line that emptied and filled again may still be among them.
    fn keep_line(&self, service: &Rc<Service>) {
        let mut lines = self.lines.borrow_mut();
        if !lines.iter().any(|line| Rc::ptr_eq(line, service)) {
            lines.push(Rc::clone(service));
        }
    }

    fn advance_line(&self, service: &Rc<Service>) {
        let now = tokio::time::Instant::now().into_std();
        let mut stuck = [false; 2];
        loop {
            let next = service
                .waiting
                .borrow_mut()
                .next(|streams| stuck.get(usize::from(streams)) == Some(&true));
            let Some((key, streams)) = next else { return };
            let wait = self.calls.borrow_mut().get_mut(key).and_then(|call| call.waits.take());
            let Some(wait) = wait else { continue };
            let Wait { request, since } = *wait;
            let waits = now.saturating_duration_since(since) < PATIENCE;
            match self.offer(key, service, request, waits) {
                Ok(target) => {
                    service.metrics.on_waited();
                    self.hand_over(key, target);
                }
                Err(refused) if is_for_room(&refused.error) => {
                    if let Some(call) = self.calls.borrow_mut().get_mut(key) {
                        let request = refused.request;
                        call.waits = Some(Box::new(Wait { request, since }));
                    }
                    service.waiting.borrow_mut().put_back(key, streams);
                    if let Some(line) = stuck.get_mut(usize::from(streams)) {
                        *line = true;
                    }
                }
                Err(refused) => {
                    service.metrics.on_waited();
                    self.end(CallId(key.data().as_ffi()), ReplyEvent::Failed(refused.error));
                }
            }
        }
    }

    /// The shard ends: nobody will make room.
    pub(super) fn end_waiting(&self) {
        for service in self.lines.take() {
            loop {
                let next = service.waiting.borrow_mut().next(|_| false);
                let Some((key, _)) = next else { break };
                service.metrics.on_waited();
                let error = RelayError::new(Reason::Draining, Retry::Safe, "this relay is shutting down");
                self.end(CallId(key.data().as_ffi()), ReplyEvent::Failed(Box::new(error)));
            }
        }
    }
}

impl Call {
    /// The caller of a call that may wait has given it up.
    pub(super) fn leave_line(&self, key: DefaultKey) {
        if self.waits.is_some() {
            self.service.waiting.borrow_mut().remove(key);
            self.service.metrics.on_waited();
        }
    }
}

/// Whether a call was refused because of those that are under way, and no byte of it was taken.
fn is_for_room(error: &RelayError) -> bool {
    error.reason == Reason::Limited && error.retry == Retry::Safe
}

/// How soon calls in line are looked after without any news.
const LINE_TICK: Duration = Duration::from_millis(10);
/// How long a call with a body to come waits for a connection apart from small calls.
const PATIENCE: Duration = Duration::from_secs(1);
