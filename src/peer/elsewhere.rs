//! Links that exist on another shard only.
//!
//! Each shard dials its own links, so normally none is missing. But a unit that must not be dialled
//! (`dial = false`, C-L5) opens connections where the kernel puts them; calls of the other shards then
//! cross a bridge to a shard that has one.
//!
//! # Invariants
//! - E1. A call crosses at most one bridge: the far side uses the links of its own shard only.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slotmap::{DefaultKey, Key, KeyData, SlotMap};

use super::Peers;
use crate::crossing::{Far, Near, bridge};
use crate::model::{
    CallId, Callee, Caller, CallerRef, Endpoint, Reason, Refused, RelayError, ReplyEvent, Request, RequestEvent, Retry,
    UnitId,
};

/// Which shard has links to which unit, and the bridges between the shards. Shared by all.
pub struct Elsewhere {
    state: Mutex<State>,
    shards: usize,
}

struct State {
    /// Links by unit, one number per shard.
    links: HashMap<UnitId, Vec<usize>>,
    nears: HashMap<(usize, usize), Near>,
    fars: HashMap<(usize, usize), Far>,
}

/// The ends of bridges that belong to one shard.
pub(super) struct Ends {
    /// To the other shards, by their number.
    pub(super) nears: Vec<(usize, Near)>,
    /// From the other shards.
    pub(super) fars: Vec<Far>,
}

impl Elsewhere {
    /// For so many shards, with so many calls at a time on each bridge.
    pub fn new(shards: usize, calls_max: usize) -> Arc<Self> {
        let mut state = State {
            links: HashMap::new(),
            nears: HashMap::new(),
            fars: HashMap::new(),
        };
        for from in 0..shards {
            for to in (0..shards).filter(|to| *to != from) {
                let (near, far) = bridge(calls_max);
                state.nears.insert((from, to), near);
                state.fars.insert((from, to), far);
            }
        }
        Arc::new(Self {
            state: Mutex::new(state),
            shards,
        })
    }

    /// The ends that belong to a shard; given out once.
    pub(super) fn ends(&self, shard: usize) -> Ends {
        let mut state = self.state();
        let others = || (0..self.shards).filter(move |other| *other != shard);
        let nears = others()
            .filter_map(|to| Some((to, state.nears.remove(&(shard, to))?)))
            .collect();
        let fars = others().filter_map(|from| state.fars.remove(&(from, shard))).collect();
        Ends { nears, fars }
    }

    /// A shard has so many links to a unit now.
    pub(super) fn on_links(&self, shard: usize, unit: &UnitId, links: usize) {
        let mut state = self.state();
        let counts = state.links.entry(unit.clone()).or_insert_with(|| vec![0; self.shards]);
        if let Some(count) = counts.get_mut(shard) {
            *count = links;
        }
    }

    /// Another shard that has a link to the unit. Takes a lock: only calls without a link of their own
    /// shard come here.
    pub(super) fn shard_for(&self, unit: &UnitId, own: usize) -> Option<usize> {
        let state = self.state();
        let counts = state.links.get(unit)?;
        (0..self.shards).find(|shard| *shard != own && counts.get(*shard).is_some_and(|count| *count > 0))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The far end's endpoint: opens calls of another shard on the links of this one.
pub(super) struct Gate {
    peers: Weak<Peers>,
    calls: RefCell<SlotMap<DefaultKey, Crossed>>,
    me: Weak<Self>,
}

struct Crossed {
    caller: CallerRef,
    link: Option<(Rc<dyn Callee>, CallId)>,
}

impl Gate {
    pub(super) fn new(peers: &Rc<Peers>) -> Rc<Self> {
        let peers = Rc::downgrade(peers);
        Rc::new_cyclic(|me| Self {
            peers,
            calls: RefCell::default(),
            me: me.clone(),
        })
    }

    fn link_for(&self, request: &Request) -> Result<Rc<dyn Callee>, RelayError> {
        let gone = || RelayError::new(Reason::Draining, Retry::Safe, "the relay is shutting down");
        let peers = self.peers.upgrade().ok_or_else(gone)?;
        let unit = request.facts.destination.as_ref().ok_or_else(gone)?;
        peers.here(unit)
    }
}

impl Callee for Gate {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let link = match self.link_for(&request) {
            Ok(link) => link,
            Err(error) => {
                return Err(Refused {
                    error: Box::new(error),
                    request,
                });
            }
        };
        let key = self.calls.borrow_mut().insert(Crossed { caller, link: None });
        let id = CallId(key.data().as_ffi());
        let Some(me) = self.me.upgrade() else { return Ok(id) };
        match link.open(request, CallerRef { port: me, id }) {
            Ok(link_id) => {
                if let Some(call) = self.calls.borrow_mut().get_mut(key) {
                    call.link = Some((link, link_id));
                }
                Ok(id)
            }
            Err(refused) => {
                self.calls.borrow_mut().remove(key);
                Err(refused)
            }
        }
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        let key = KeyData::from_ffi(id.0).into();
        let link = if matches!(event, RequestEvent::Cancel(_)) {
            self.calls.borrow_mut().remove(key).and_then(|call| call.link)
        } else {
            self.calls.borrow().get(key).and_then(|call| call.link.clone())
        };
        if let Some((link, link_id)) = link {
            link.on_request(link_id, event);
        }
    }
}

impl Caller for Gate {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        let key = KeyData::from_ffi(id.0).into();
        let ends = match &event {
            ReplyEvent::Part(part) => part.end.is_some(),
            ReplyEvent::Failed(_) => true,
            ReplyEvent::Credit(_) => false,
        };
        let caller = if ends {
            self.calls.borrow_mut().remove(key).map(|call| call.caller)
        } else {
            self.calls.borrow().get(key).map(|call| call.caller.clone())
        };
        if let Some(caller) = caller {
            caller.send(event);
        }
    }
}

impl Endpoint for Gate {
    fn in_flight(&self) -> usize {
        self.calls.borrow().len()
    }

    fn is_ready(&self) -> bool {
        self.peers.strong_count() > 0
    }
}
