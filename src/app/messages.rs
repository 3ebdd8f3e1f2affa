//! Messages on one shard: the stories and edges, and the way of the queue's outputs to them.
//!
//! # Invariants
//! - M1. Each output of the queue has one taker here; what is for nobody any more vanishes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Shared, queue_thread};
use crate::crossing::Receiver;
use crate::delivery::Delivery;
use crate::inbound::{self, Consumers, Notice, Notices, Push, PushParts, ToldFn};
use crate::ingress::messages as edge;
use crate::model::{Callee, Endpoint, RelayError, ServiceName, Subscriptions, UnitId};
use crate::outbound::{
    CarrierParts, Carriers, Catalog, Published, Publisher, PublisherParts, PublisherRef, Publishers, Tell,
};
use crate::peer::{Lane, LaneHandler, LaneLink, LinkPeer};
use crate::queue::api::Output;
use crate::queue::lanes::LaneIds;
use crate::settings::Settings;
use crate::telemetry::kept::KeptSeries;

/// All that a shard does with messages.
pub(super) struct Messages {
    own: UnitId,
    carriers: Rc<Carriers>,
    taken: Rc<inbound::Messages>,
    publishers: Rc<Publishers>,
    consumers: Rc<Consumers>,
    push: Rc<Push>,
    edge: Rc<edge::Messages>,
    has_edge: bool,
}

impl Messages {
    /// The stories of shard `index`; `drain` says when the relay takes no new work.
    pub(super) fn new(shared: &Shared, index: usize, delivery: &Rc<Delivery>, drain: &CancellationToken) -> Rc<Self> {
        let settings = &shared.settings;
        let number = queue_thread::shard_number(index);
        let ids = Rc::new(LaneIds::new(number));
        let carriers = Carriers::new(CarrierParts {
            ids: ids.clone(),
            queue: shared.queue.handle.clone(),
            claims: shared.queue.claims.clone(),
        });
        let taken = inbound::Messages::new(inbound::MessageParts {
            ids,
            queue: shared.queue.handle.clone(),
            units: units(settings),
            lane_bytes_max: settings.queue.lane_bytes_max.as_usize(),
        });
        let publishers = Publishers::new(PublisherParts {
            place: shared.place.clone(),
            shard: number,
            routing: shared.routing.clone(),
            queue: shared.queue.handle.clone(),
            catalog: catalog(settings, &shared.place.unit),
            claims: shared.routes.as_ref().map(|routes| routes.claims.clone()),
        });
        let consumers = Consumers::new(shared.queue.handle.clone(), number);
        let push = Push::new(PushParts {
            place: shared.place.clone(),
            consumers: consumers.clone(),
            delivery: delivery.clone(),
            shard: (index, shared.status.shards()),
            topics: Arc::new(settings.topics.clone()),
        });
        let edge = edge::Messages::new(edge::Parts {
            place: shared.place.clone(),
            publishers: publishers.clone(),
            consumers: consumers.clone(),
            timeout: settings.calls.timeout,
            drain: drain.clone(),
        });
        let services: Vec<ServiceName> = edge_services(settings).collect();
        let has_edge = !services.is_empty();
        for service in services {
            let endpoint: Rc<dyn Endpoint> = edge.clone();
            delivery.attach(&service, endpoint);
        }
        Rc::new(Self {
            own: shared.place.unit.clone(),
            carriers,
            taken,
            publishers,
            consumers,
            push,
            edge,
            has_edge,
        })
    }

    /// Brings the queue's outputs to those they are for, until there are no more; runs the edges meanwhile.
    pub(super) async fn run(&self, outputs: Receiver<Output>) {
        let dispatch = async {
            let mut batch = VecDeque::new();
            while outputs.take(&mut batch).await {
                for output in batch.drain(..) {
                    self.on_output(output);
                }
            }
        };
        tokio::join!(dispatch, self.publishers.watch(), self.push.run(), self.edge.run());
    }

    fn on_output(&self, output: Output) {
        match output {
            Output::ToReceiver { lane, frame } => self.carriers.on_frame(lane, frame),
            Output::ToSender { lane, frame } => self.taken.on_frame(lane, frame),
            Output::CloseLane { lane, why } => {
                let _ = self.carriers.close_lane(lane, &why) || self.taken.close_lane(lane, &why);
            }
            Output::Published { ticket, result } => self.publishers.on_published(ticket, result),
            Output::Subscribed { ticket, result } => self.consumers.on_subscribed(ticket, result),
            Output::Deliver(deliver) => self.consumers.on_deliver(deliver),
            Output::Overdue { consumer, delivery, .. } => self.consumers.on_overdue(consumer, delivery),
            // Shards ask nothing.
            Output::Answer(..) | Output::Undelivered { .. } => {}
        }
    }

    /// Takes what local services publish; `None` if the API is a service of the settings.
    pub(super) fn edge(&self) -> Option<Rc<dyn Callee>> {
        let edge: Rc<dyn Callee> = self.edge.clone();
        self.has_edge.then_some(edge)
    }

    /// Takes registrations of local services that want messages.
    pub(super) fn subscriptions(&self) -> Rc<dyn Subscriptions> {
        self.push.clone()
    }

    /// Stores messages that the relay itself has.
    pub(super) fn publishers(&self) -> Rc<Publishers> {
        self.publishers.clone()
    }

    /// From now on calls that were kept for this unit are made, by `callee`.
    pub(super) fn replay_to(&self, callee: Rc<dyn Callee>, series: KeptSeries) {
        self.push
            .replay_to(callee, Teller::new(self.publishers.clone()), series);
    }

    /// Other settings are in force (M-H4).
    pub(super) fn reload(&self, settings: &Settings) {
        self.taken
            .reload(units(settings), settings.queue.lane_bytes_max.as_usize());
        self.publishers.reload(catalog(settings, &self.own));
        self.push.reload(Arc::new(settings.topics.clone()));
    }

    /// No further messages to services (C-L1).
    pub(super) fn drain(&self) {
        self.publishers.drain();
        self.push.drain();
    }

    /// Messages at services.
    pub(super) fn open_pushes(&self) -> usize {
        self.push.open_calls()
    }

    /// Ends all lanes; the queue has heard of it then.
    pub(super) async fn close_lanes(&self) {
        tokio::join!(self.carriers.close(), self.taken.close());
    }
}

impl LaneHandler for Messages {
    fn on_links(&self, unit: &UnitId, links: Vec<LaneLink>) {
        self.carriers.on_links(unit, links);
    }

    fn on_lane(&self, peer: &LinkPeer, lane: Lane) {
        self.taken.on_lane(peer, lane);
    }
}

/// Tells units what became of calls that they kept: by messages.
struct Teller {
    publishers: Rc<Publishers>,
    waits: RefCell<HashMap<u64, ToldFn>>,
    last: Cell<u64>,
    me: Weak<Self>,
}

impl Teller {
    fn new(publishers: Rc<Publishers>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            publishers,
            waits: RefCell::default(),
            last: Cell::new(0),
            me: me.clone(),
        })
    }

    fn end(&self, id: u64, result: Result<(), Box<RelayError>>) {
        let told = self.waits.borrow_mut().remove(&id);
        if let Some(told) = told {
            told(result);
        }
    }
}

impl Notices for Teller {
    fn tell(&self, notice: Notice, told: ToldFn) {
        let Some(port) = self.me.upgrade() else { return };
        let id = self.last.get() + 1;
        self.last.set(id);
        self.waits.borrow_mut().insert(id, told);
        let tell = Tell {
            unit: notice.unit,
            topic: notice.topic,
            key: notice.key,
            attributes: notice.attributes,
            body: notice.text.into(),
        };
        let back = PublisherRef { port, id, index: 0 };
        if let Err(error) = self.publishers.tell(tell, back) {
            self.end(id, Err(error));
        }
    }
}

impl Publisher for Teller {
    fn on_published(&self, id: u64, _: u64, end: Published) {
        self.end(id, end.error.map_or(Ok(()), Err));
    }
}

/// The API for messages, unless the settings give its name to a service.
fn edge_services(settings: &Settings) -> impl Iterator<Item = ServiceName> + use<'_> {
    let name = ServiceName::new(crate::wire::messages::SERVICE).ok();
    name.into_iter().filter(|name| !settings.services.contains_key(name))
}

/// Units whose messages may be taken at all.
fn units(settings: &Settings) -> BTreeSet<UnitId> {
    settings.units.keys().cloned().collect()
}

fn catalog(settings: &Settings, own: &UnitId) -> Catalog {
    Catalog::new(
        Arc::new(settings.topics.clone()),
        own.clone(),
        settings.units.keys().cloned(),
        settings.queue.message_bytes_max.as_usize(),
    )
}
