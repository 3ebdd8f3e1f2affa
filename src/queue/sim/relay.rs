//! A relay: an engine, its log on a disk in memory, and what it has asked of the disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::moves::View;
use super::{Event, Plan, World};
use crate::model::{ByteSize, Geo, Name, Place, UnitId};
use crate::queue::effects::Now;
use crate::queue::engine::Engine;
use crate::queue::log::disk::{Batch, Event as Done, Request};
use crate::queue::log::{AppendError, Log, MemoryStorage, Options};
use crate::queue::{
    CALLS_TOPIC, Exhausted, GroupSettings, Metrics, Neighbours, Overflow, ParkingLimits, Settings, Setup, TopicRule,
    TopicSettings, Topics, calls_topic,
};

pub(super) struct Relay {
    pub unit: UnitId,
    pub setup: Setup,
    /// What it has heard of who owns which key.
    pub view: Arc<View>,
    pub storage: MemoryStorage,
    pub life: Option<Life>,
    pub lives: u64,
    /// Its disk is so many times slower than usual.
    pub slow: u64,
    /// Something on its disk was lost.
    pub damaged: bool,
    wake: Option<u64>,
}

pub(super) struct Life {
    pub number: u64,
    pub engine: Engine,
    pub log: Log<MemoryStorage>,
    appends: VecDeque<Batch>,
    asked: VecDeque<Request>,
    failed_era: Option<u64>,
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn unit(number: usize) -> UnitId {
    name(&format!("unit-{number}"))
}

pub(super) fn geo(number: usize) -> Geo {
    name(if number == 0 { "here" } else { "there" })
}

/// Groups of a topic: those that are declared.
pub(super) fn groups(topic: &str) -> &'static [&'static str] {
    match topic {
        "news" => &["g", "h"],
        CALLS_TOPIC => &["owner"],
        _ => &["g"],
    }
}

/// That of kept calls is there in outages only.
pub(super) fn topics(plan: &Plan) -> &'static [&'static str] {
    let all = &[
        "orders",
        "news",
        "short",
        "small",
        "poison",
        "block",
        "local",
        CALLS_TOPIC,
    ];
    all.get(..if plan.outages { 8 } else { 7 }).unwrap()
}

impl Relay {
    pub(super) fn new(number: usize, plan: &Plan, dice: &mut fastrand::Rng) -> Self {
        let relays = plan.relays;
        let view = View::new(number, relays, number > 0 && number + 1 == relays);
        let geos = (0..relays).map(|number| (unit(number), geo(number)));
        let setup = Setup {
            place: Place {
                unit: unit(number),
                relay: name("relay"),
            },
            geo: geo(number),
            queue: settings(dice),
            replay: crate::queue::ReplaySettings {
                backlog_after: Duration::from_secs(3),
                ..crate::queue::ReplaySettings::default()
            },
            topics: Arc::new(settings_of_topics(relays, topics(plan))),
            neighbours: Neighbours {
                geos: geos.collect(),
                hops_max: 4,
                owners: Some(view.clone()),
                parking: ParkingLimits::default(),
                away: crate::queue::AwayUnits::default(),
            },
        };
        Self {
            unit: unit(number),
            view,
            setup,
            storage: MemoryStorage::default(),
            life: None,
            lives: 0,
            slow: 1,
            damaged: false,
            wake: None,
        }
    }

    pub(super) fn life_number(&self) -> Option<u64> {
        self.life.as_ref().map(|life| life.number)
    }

    /// Whether the wish to be woken then is a new one.
    pub(super) fn woken(&mut self, at: u64) -> bool {
        if self.wake == Some(at) {
            return false;
        }
        self.wake = Some(at);
        true
    }

    pub(super) fn start(&mut self, now: Now, seed: u64) {
        let options = Options {
            segment_bytes: 32 * 1024,
            bytes_max: self.setup.queue.bytes_max.as_u64(),
            sync: self.setup.queue.sync,
            seed,
        };
        let Ok((mut log, recovery)) = Log::open(self.storage.clone(), options) else {
            // The disk fails; it is tried again.
            return;
        };
        if std::env::var("SIM_TRACE").is_ok() {
            let state = recovery.state.as_ref().map(Vec::len);
            let (from, lost) = (recovery.replay_from, recovery.state_lost);
            let (damage, torn) = (&recovery.damage, &recovery.torn);
            println!(
                "{:?} {} recovers: state {state:?}, from {from:?}, lost {lost}, damage {damage:?}, torn {torn:?}",
                now.mono, self.unit
            );
        }
        self.damaged |= recovery.state_lost || !recovery.damage.is_empty();
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry, &self.unit).unwrap();
        let parts = (self.setup.clone(), metrics);
        let Ok((engine, _)) = Engine::recover(parts, seed, now, &mut log, &recovery) else {
            return;
        };
        self.lives += 1;
        self.wake = None;
        self.life = Some(Life {
            number: self.lives,
            engine,
            log,
            appends: VecDeque::new(),
            asked: VecDeque::new(),
            failed_era: None,
        });
    }

    /// The power goes out.
    pub(super) fn crash(&mut self, dice: &mut fastrand::Rng) {
        self.life = None;
        self.storage = self.storage.crashed(dice, 512);
    }

    pub(super) fn tidy(&mut self) {
        if let Some(life) = &mut self.life {
            let _ = life.log.upkeep();
        }
    }
}

impl Life {
    pub(super) fn turn(&mut self, now: Now) -> Option<Duration> {
        let wake = self.engine.poll(now);
        if self.engine.wants_checkpoint(now) {
            let log = &self.log;
            self.engine.checkpoint(now, &mut |wanted| log.sparse(wanted));
        }
        wake
    }
}

impl World {
    pub(super) fn start_relay(&mut self, number: usize) {
        let (now, seed) = (self.moment(), self.dice.u64(..));
        let relay = &mut self.relays[number];
        if relay.life.is_some() || self.evacuations.keeps_down(number) {
            return;
        }
        relay.start(now, seed);
        if relay.life.is_none() {
            return self.plan_in(300_000, Event::Restart(number));
        }
        self.subscribe_all(number);
        self.connect_all(number);
        self.hear_again(number);
        self.turn(number);
    }

    /// What the engine has asked of the disk is done in time.
    pub(super) fn ask_disk(&mut self, number: usize) {
        let slow = self.relays[number].slow;
        let Some(life) = &mut self.relays[number].life else {
            return;
        };
        let (mut appends, mut asked) = (0, 0);
        for request in life.engine.take_requests() {
            match request {
                Request::Append(batch) => {
                    life.appends.push_back(batch);
                    appends += 1;
                }
                request => {
                    life.asked.push_back(request);
                    asked += 1;
                }
            }
        }
        let life = life.number;
        for _ in 0..appends {
            let time = self.dice.u64(100..3_000) * slow;
            self.plan_in(time, Event::Appended(number, life));
        }
        for _ in 0..asked {
            let time = self.dice.u64(50..2_000) * slow;
            self.plan_in(time, Event::Asked(number, life));
        }
    }

    pub(super) fn append(&mut self, number: usize, of: u64) {
        let now = self.moment();
        let Some(life) = self.relays[number].life.as_mut().filter(|life| life.number == of) else {
            return;
        };
        let Some(batch) = life.appends.pop_front() else {
            return;
        };
        let late = life.failed_era.is_some_and(|failed| batch.era <= failed);
        let result = if late {
            Err(AppendError::Behind)
        } else {
            life.log.append(&batch.entries, batch.essential)
        };
        if result.is_err() {
            life.failed_era = life.failed_era.max(Some(batch.era));
        }
        let failed = result.is_err();
        let event = Done::Appended {
            number: batch.number,
            result,
            sync: None,
        };
        life.engine.on_disk(now, event);
        if failed {
            self.ledger.on_disk_trouble(number, self.now, self.now);
        }
        self.turn(number);
    }

    pub(super) fn answer_request(&mut self, number: usize, of: u64) {
        let now = self.moment();
        let Some(life) = self.relays[number].life.as_mut().filter(|life| life.number == of) else {
            return;
        };
        let Some(request) = life.asked.pop_front() else {
            return;
        };
        let text = |error: std::io::Error| error.to_string();
        let event = match request {
            Request::Append(_) => return,
            Request::Checkpoint { state, covers } => {
                Done::Checkpointed(life.log.checkpoint(&state, covers).map_err(text))
            }
            Request::Fetch { reader, line, seq } => Done::Fetched {
                reader,
                line,
                seq,
                result: life.log.fetch(line, seq).map_err(text),
            },
            Request::Merge { segments, keep } => Done::Merged(life.log.merge(&segments, keep).map_err(text)),
            Request::Read { reader, scan } => Done::Read {
                reader,
                scan,
                result: life.log.scan(scan).map_err(text),
            },
            Request::Release(done) => Done::Released(life.log.release(done)),
            Request::Space => match life.log.space() {
                Ok(space) => Done::Space(space),
                Err(_) => return,
            },
        };
        life.engine.on_disk(now, event);
        for damage in life.log.take_damage() {
            life.engine.on_disk(now, Done::Damaged(damage));
        }
        self.turn(number);
    }
}

fn settings(dice: &mut fastrand::Rng) -> Settings {
    let mut settings = Settings {
        bytes_max: ByteSize::mib(64),
        live_bytes_max: ByteSize::kib(dice.u64(2..64)),
        lane_bytes_max: ByteSize::kib(dice.u64(2..64)),
        batch_bytes: ByteSize::kib(dice.u64(1..16)),
        backlog_keys_max: dice.usize(2..100),
        parked_max: dice.usize(20..200),
        checkpoint_interval: Duration::from_millis(dice.u64(200..3_000)),
        ..Settings::default()
    };
    settings.dead_letters.redrives_max = 100;
    settings.dedup.window = Duration::from_secs(3600);
    settings
}

fn settings_of_topics(relays: usize, names: &[&str]) -> Topics {
    let groups = |topic: &str| -> BTreeMap<Name, GroupSettings> {
        let names = groups(topic).iter();
        names.map(|group| (name(group), GroupSettings::default())).collect()
    };
    let of = |topic: &str, change: &dyn Fn(&mut TopicSettings)| {
        let mut settings = TopicSettings {
            groups: groups(topic),
            visibility_timeout: Duration::from_secs(2),
            ..TopicSettings::default()
        };
        settings.retry.first = Duration::from_millis(50);
        settings.retry.longest = Duration::from_millis(500);
        settings.retry.attempts = 3;
        change(&mut settings);
        (topic.to_owned(), settings)
    };
    let all: Vec<UnitId> = (0..relays).map(unit).collect();
    [
        of("orders", &|_| {}),
        of("news", &|topic| {
            topic.rule = TopicRule::All;
            topic.mirror = true;
        }),
        of("short", &|topic| {
            topic.rule = TopicRule::Units;
            topic.units = all.clone();
            topic.ordered = false;
            topic.ttl = Duration::from_secs(4);
        }),
        of("small", &|topic| {
            topic.messages_max = 10;
            topic.overflow = Overflow::DropOldest;
        }),
        of("poison", &|topic| topic.exhausted = Exhausted::DlqRestOfKey),
        of("block", &|topic| topic.exhausted = Exhausted::BlockKey),
        of("local", &|topic| topic.rule = TopicRule::Local),
        of(CALLS_TOPIC, &|topic| {
            topic.ttl = Duration::from_secs(8);
            topic.on_expiry = calls_topic().on_expiry;
        }),
    ]
    .into_iter()
    .filter(|(name, _)| names.contains(&name.as_str()))
    .collect()
}
