//! What goes wrong, and what operators do meanwhile.

use std::fmt::Write;

use super::relay::{groups, name, topics, unit};
use super::{Event, World};
use crate::queue::log::Faults;
use crate::queue::operator::{Answer, Command, Filter, LimitValues, Line, RedriveRequest};
use crate::queue::record::{Pausable, Pause};

/// A trouble that is over some time later.
#[derive(Debug)]
pub(super) enum Trouble {
    Cut(usize, usize),
    Disk(usize),
    Slow(usize),
}

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let relay = self.dice.usize(..self.relays.len());
        let other = (relay + self.dice.usize(1..self.relays.len())) % self.relays.len();
        // Half of what operators do gives way to other troubles.
        let kinds = if self.plan.harsh { 17 } else { 20 };
        match self.dice.u8(..kinds) {
            0..4 => self.crash(relay),
            4 => self.cut(&[(relay, other)]),
            5 | 6 => self.cut(&[(relay, other), (other, relay)]),
            7 => self.break_some_lane(),
            8 => self.give_up_some_lane(),
            9 | 10 => self.disk_fails(relay),
            11 => self.disk_is_full(relay),
            12 => {
                self.relays[relay].slow = self.dice.u64(10..100);
                let time = self.dice.u64(100_000..3_000_000);
                self.ledger.on_disk_trouble(relay, self.now, self.now + time);
                self.plan_in(time, Event::Heal(Trouble::Slow(relay)));
            }
            _ => self.operator_acts(relay, other),
        }
        let longest = if self.plan.harsh { 700_000 } else { 1_500_000 };
        let time = self.dice.u64(50_000..longest);
        self.plan_in(time, Event::Fault);
    }

    pub(super) fn crash(&mut self, relay: usize) {
        if self.relays[relay].life.is_none() {
            return;
        }
        self.note(&(relay, "crash"));
        let mut dice = self.dice.fork();
        self.relays[relay].crash(&mut dice);
        self.ledger.on_crash(relay, self.now);
        self.consumers.homes.retain(|_, (home, ..)| *home != relay);
        self.disconnect_all(relay);
        let time = self.dice.u64(10_000..3_000_000);
        self.plan_in(time, Event::Restart(relay));
    }

    pub(super) fn cut(&mut self, directions: &[(usize, usize)]) {
        for (from, to) in directions {
            self.net.cut.insert((*from, *to));
            let time = self.dice.u64(200_000..8_000_000);
            self.plan_in(time, Event::Heal(Trouble::Cut(*from, *to)));
        }
    }

    fn disk_fails(&mut self, relay: usize) {
        let faults = Faults {
            fail_after: Some(self.dice.u64(..20)),
            keep_failing: self.dice.u8(..3) > 0,
            ..Faults::default()
        };
        self.set_disk(relay, faults);
    }

    fn disk_is_full(&mut self, relay: usize) {
        let used = self.relays[relay].storage.bytes();
        let faults = Faults {
            bytes_max: Some(used + self.dice.u64(..40_000)),
            ..Faults::default()
        };
        self.set_disk(relay, faults);
    }

    fn set_disk(&mut self, relay: usize, faults: Faults) {
        self.note(&(relay, "disk", faults));
        self.relays[relay].storage.set_faults(faults);
        let time = self.dice.u64(10_000..2_000_000);
        self.ledger.on_disk_trouble(relay, self.now, self.now + time);
        self.plan_in(time, Event::Heal(Trouble::Disk(relay)));
    }

    pub(super) fn heal(&mut self, trouble: &Trouble) {
        match *trouble {
            Trouble::Cut(from, to) => _ = self.net.cut.remove(&(from, to)),
            Trouble::Disk(relay) => self.relays[relay].storage.set_faults(Faults::default()),
            Trouble::Slow(relay) => self.relays[relay].slow = 1,
        }
    }

    fn operator_acts(&mut self, relay: usize, other: usize) {
        let topic = *self.dice.choice(topics(&self.plan)).unwrap();
        let what = match self.dice.u8(..3) {
            0 => Pausable::Unit { unit: unit(other) },
            1 => Pausable::Topic { topic: name(topic) },
            _ => Pausable::Group {
                topic: name(topic),
                group: name(groups(topic)[0]),
            },
        };
        let who = String::new();
        let command = match self.dice.u8(..10) {
            0 | 1 => Command::Pause {
                what,
                pause: Pause {
                    reason: "test".to_owned(),
                    until: Some(self.moment().wall.0 + self.dice.u64(100..4_000)),
                },
                who,
            },
            2 => Command::Resume { what, who },
            3 => Command::Limits {
                unit: unit(other),
                topic: self.dice.bool().then(|| name(topic)),
                limits: self.dice.bool().then(|| LimitValues {
                    messages_per_second: self.dice.f64() * 200.0,
                    ..LimitValues::default()
                }),
                who,
            },
            4 | 5 => Command::Redrive {
                request: RedriveRequest {
                    filter: Filter {
                        topic: self.dice.bool().then(|| name(topic)),
                        ..Filter::default()
                    },
                    rate: if self.dice.bool() { 0.0 } else { self.dice.f64() * 100.0 },
                    allow_reorder: self.dice.u8(..4) > 0,
                    limit: self.dice.u64(..20),
                    ..RedriveRequest::default()
                },
                who,
            },
            6 => Command::CancelRedrive {
                task: self.dice.u64(1..10),
                who,
            },
            7 => Command::Unblock {
                topic: name("poison"),
                group: name("g"),
                key: None,
                who,
            },
            8 => Command::Peek {
                line: Line::Inbox {
                    topic: name(topic),
                    group: Some(name("g")),
                },
                filter: Filter::default(),
                limit: 10,
                bodies: false,
            },
            _ => return self.audit(relay),
        };
        if matches!(command, Command::Unblock { .. }) {
            self.ledger.on_unblocked(relay);
        }
        self.operate(relay, command);
    }

    /// The books must be right at any time (M-G8).
    fn audit(&mut self, relay: usize) {
        if self.relays[relay].life.is_some() {
            self.operate(relay, Command::Audit);
        }
    }

    /// All is well from now on.
    pub(super) fn heal_all(&mut self) {
        self.note(&"calm");
        self.calm = true;
        self.net.cut.clear();
        for number in 0..self.relays.len() {
            self.relays[number].slow = 1;
            self.relays[number].storage.set_faults(Faults::default());
            self.start_relay(number);
        }
        for number in 0..self.relays.len() {
            for other in (0..self.relays.len()).filter(|other| *other != number) {
                let calls = topics(&self.plan).get(7);
                let limited = [
                    None,
                    Some("orders"),
                    Some("news"),
                    Some("short"),
                    Some("small"),
                    Some("poison"),
                    Some("block"),
                ];
                for topic in limited.into_iter().chain(calls.map(|topic| Some(*topic))) {
                    self.operate(
                        number,
                        Command::Limits {
                            unit: unit(other),
                            topic: topic.map(name),
                            limits: None,
                            who: String::new(),
                        },
                    );
                }
            }
        }
        self.calm_down();
    }

    /// Whatever waits for an operator goes on.
    pub(super) fn calm_down(&mut self) {
        for number in 0..self.relays.len() {
            let now = self.moment();
            let Some(life) = &self.relays[number].life else {
                continue;
            };
            let blocked: Vec<_> = life
                .engine
                .status(now)
                .groups
                .into_iter()
                .filter(|group| group.blocked_keys > 0)
                .collect();
            for group in blocked {
                self.ledger.on_unblocked(number);
                self.operate(
                    number,
                    Command::Unblock {
                        topic: name(&group.topic),
                        group: name(&group.group),
                        key: None,
                        who: String::new(),
                    },
                );
            }
        }
    }

    /// Whether everything has come to rest.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.restless().is_empty()
    }

    /// What has not come to rest.
    pub(super) fn restless(&mut self) -> String {
        let now = self.moment();
        let mut text = String::new();
        if self.moves_under_way() {
            text.push_str("keys are moving; ");
        }
        for (number, relay) in self.relays.iter().enumerate() {
            let Some(life) = &relay.life else {
                let _ = write!(text, "relay {number} is down; ");
                continue;
            };
            let status = life.engine.status(now);
            for unit in status.units.iter().filter(|unit| unit.live + unit.backlog > 0) {
                let _ = write!(text, "relay {number}: {unit:?}; ");
            }
            for group in status.groups.iter().filter(|group| group.pending > 0) {
                let _ = write!(text, "relay {number}: {group:?}; ");
            }
            if status.disk != "ok" {
                let _ = write!(text, "relay {number}: disk {}; ", status.disk);
            }
        }
        for number in 0..self.relays.len() {
            if self.relays[number].life.is_none() {
                continue;
            }
            let ticket = self.operate(number, Command::Redrives);
            if let Some(Answer::Redrives { tasks }) = self.answers.remove(&ticket).and_then(|mut answers| answers.pop())
            {
                for task in tasks
                    .iter()
                    .filter(|task| task.state == "running" || task.state == "paused")
                {
                    let _ = write!(text, "relay {number}: {task:?}; ");
                }
            }
        }
        text
    }
}
