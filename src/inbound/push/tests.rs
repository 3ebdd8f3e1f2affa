//! Calls that were kept for this unit and are refused, with a service, a queue and a store of notices whose every move a test makes.

use super::*;
use crate::crossing::testing::{Service, answer, on_shard, request, wait_for};
use crate::model::{Code, Key, Message, MessageId, Reason, Retry, UnixMillis};
use crate::queue::Inlet;
use crate::queue::api::Input;
use crate::telemetry::Registry;
use crate::wire::kept::KeptCall;

/// Notices on their way to the disk.
#[derive(Default)]
struct Disk(RefCell<Vec<(Notice, ToldFn)>>);

impl Notices for Disk {
    fn tell(&self, notice: Notice, told: ToldFn) {
        self.0.borrow_mut().push((notice, told));
    }
}

/// The pushers of unit `b`.
struct Owner {
    push: Rc<Push>,
    consumers: Rc<Consumers>,
    inlet: std::sync::Arc<Inlet>,
    service: Rc<Service>,
    disk: Rc<Disk>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Owner {
    fn new() -> Self {
        let (queue, inlet) = queue::Handle::new(1 << 20);
        let consumers = Consumers::new(queue, 0);
        let topics = Topics::from([(CALLS_TOPIC.to_owned(), queue::calls_topic())]);
        let push = Push::new(PushParts {
            place: Place {
                unit: name("b"),
                relay: name("b-1"),
            },
            consumers: consumers.clone(),
            delivery: Service::new(),
            shard: (0, 1),
            topics: std::sync::Arc::new(topics),
        });
        let (service, disk) = (Service::new(), Rc::new(Disk::default()));
        let series = KeptSeries::register(Registry::new().unwrap().series()).unwrap();
        push.replay_to(service.clone(), disk.clone(), series);
        Self {
            push,
            consumers,
            inlet,
            service,
            disk,
        }
    }

    /// What the queue is told since it was asked last.
    fn told(&self) -> Vec<Input> {
        let mut inputs = Vec::new();
        self.inlet.take(&mut inputs, Duration::ZERO);
        inputs
    }

    fn settlements(&self) -> Vec<Settlement> {
        let settled = self.told().into_iter().filter_map(|input| match input {
            Input::Settle { outcome, .. } => Some(outcome),
            _ => None,
        });
        settled.collect()
    }

    /// A call comes that unit `a` has kept, and its service answers this.
    fn comes(&self, consumer: ConsumerId, rejected_to: &str, status: Code) {
        let key = Key {
            dimension: "uid".into(),
            key: "1".into(),
        };
        let mut call = KeptCall::of(&request("/im.Room/Post"), &name("uid"), true);
        call.rejected_to = rejected_to.to_owned();
        self.consumers.on_deliver(Box::new(Deliver {
            shard: 0,
            consumer,
            delivery: DeliveryId { seq: 1, stamp: 1 },
            attempts: 0,
            group: queue::calls_group(),
            visibility_timeout: Duration::from_secs(30),
            message: Message {
                id: MessageId {
                    unit: name("a"),
                    relay: name("a-1"),
                    epoch: 1,
                    number: 7,
                },
                topic: name(CALLS_TOPIC),
                attributes: call.attributes(&key, b"order-9").unwrap(),
                key: Some(key),
                accepted_at: UnixMillis(1),
                deadline: None,
                visited: Vec::new(),
                redrives: 0,
                routed: 0,
                body: call.to_bytes(),
            },
        }));
        let id = self.service.opened.borrow().last().unwrap().0;
        self.service.reply(id, answer(status));
    }
}

// U4: no end of the call before its unit is told on disk; and if that cannot be, it is made again, or says so.
#[test]
fn a_refused_call_is_settled_when_its_unit_is_told() {
    let owner = Owner::new();
    on_shard(async {
        let test = async {
            let subscribed = owner.told().into_iter().find_map(|input| match input {
                Input::Subscribe(subscribe) => Some(subscribe.consumer),
                _ => None,
            });
            let consumer = subscribed.expect("it takes the topic of kept calls");
            let error = |retry| Err(Box::new(RelayError::new(Reason::UnknownUnit, retry, "test")));
            for (result, expected) in [
                (Ok(()), "Terminate"),
                (error(Retry::Safe), "Nack"),
                (error(Retry::Never), "Terminate"),
            ] {
                let failed = result.is_err();
                owner.comes(consumer, "im.rejected", Code::FailedPrecondition);
                wait_for("a notice", || !owner.disk.0.borrow().is_empty()).await;
                let (notice, told) = owner.disk.0.borrow_mut().pop().unwrap();
                assert_eq!((notice.unit, notice.topic), (name("a"), name("im.rejected")));
                assert!(owner.settlements().is_empty(), "its notice is not on disk yet");
                assert_eq!(owner.push.open_calls(), 1);
                told(result);
                let settled = format!("{:?}", owner.settlements());
                assert!(settled.starts_with(&format!("[{expected}")), "{settled}");
                assert_eq!(settled.contains("was not told"), failed, "{settled}");
                assert_eq!(owner.push.open_calls(), 0);
            }
            // Nobody wants to know, and there is nothing to tell.
            for (rejected_to, status, expected) in [
                ("", Code::FailedPrecondition, "Terminate"),
                ("im.rejected", Code::Ok, "Ack"),
                ("im.rejected", Code::AlreadyExists, "Ack"),
                ("im.rejected", Code::Unavailable, "Nack"),
            ] {
                owner.comes(consumer, rejected_to, status);
                wait_for("its end", || owner.push.open_calls() == 0).await;
                let settled = format!("{:?}", owner.settlements());
                assert!(settled.starts_with(&format!("[{expected}")), "{status:?}: {settled}");
                assert!(owner.disk.0.borrow().is_empty(), "{status:?}");
            }
        };
        tokio::select! {
            () = owner.push.run() => {}
            () = test => {}
        }
    });
}
