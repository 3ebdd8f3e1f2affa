//! Random operations against a model that knows what each group should have.

mod operations;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::world::{Logged, World, message, name, setup, topic};
use crate::model::{GapReason, GroupName, Message, Seq};
use crate::queue::api::{ConsumerId, Deliver, Output, Settlement};
use crate::queue::effects::{DeadWish, Effects, Told, Write};
use crate::queue::record::{DeadSource, Kept, Pausable, Pause, Record};
use crate::queue::{Exhausted, GroupSettings, OnExpiry, Overflow, RetrySettings, TopicSettings};

/// What one group should know.
#[derive(Clone, Debug, Default)]
struct Group {
    /// Numbers it is to have.
    has: BTreeSet<Seq>,
    /// How they ended; `None`: acknowledged.
    ended: BTreeMap<Seq, Option<GapReason>>,
    failed: BTreeMap<Seq, u32>,
}

type Groups = BTreeMap<GroupName, Group>;

struct Model {
    world: World,
    groups: Groups,
    heir: Option<GroupName>,
    /// Groups and heir as the snapshot has them.
    kept: (Groups, Option<GroupName>),
    /// How many records of attempts came into the log behind the snapshot though it knows what they say.
    kept_attempts: usize,
    stored: BTreeMap<Seq, Message>,
    damaged: BTreeSet<Seq>,
    /// For one group only.
    narrow: BTreeSet<Seq>,
    dying: BTreeSet<(GroupName, Seq)>,
    consumers: BTreeMap<ConsumerId, (GroupName, usize)>,
    /// With consumers now.
    flying: Vec<Deliver>,
    /// Settled, overdue, or their consumer is gone.
    old: Vec<Deliver>,
    /// Ends that must be in the next records: otherwise a message was handed out before its turn.
    claims: BTreeSet<(GroupName, Seq)>,
    /// When a failed message may come again at the earliest.
    not_before: BTreeMap<(GroupName, Seq), u64>,
    written: usize,
    next_consumer: u64,
}

fn told_seq(told: &Told) -> Seq {
    match told {
        Told::Done { seq, .. } | Told::GivenUp { seq, .. } => *seq,
        other => panic!("{other:?}"),
    }
}

impl Model {
    fn new(settings: TopicSettings, parked_max: usize) -> Self {
        let world = World::with(setup(settings, parked_max));
        Self {
            world,
            groups: Groups::new(),
            heir: None,
            kept: (Groups::new(), None),
            kept_attempts: 0,
            stored: BTreeMap::new(),
            damaged: BTreeSet::new(),
            narrow: BTreeSet::new(),
            dying: BTreeSet::new(),
            consumers: BTreeMap::new(),
            flying: Vec::new(),
            old: Vec::new(),
            claims: BTreeSet::new(),
            not_before: BTreeMap::new(),
            written: 0,
            next_consumer: 1,
        }
    }

    fn settings(&self) -> &TopicSettings {
        &self.world.setup.topics["t*"]
    }

    /// What was under way for the group that stands for none is for its heir.
    fn name_of(&self, group: &GroupName) -> GroupName {
        match &self.heir {
            Some(heir) if *group == name("-") && !self.groups.contains_key(group) => heir.clone(),
            _ => group.clone(),
        }
    }

    fn group(&mut self, group: &GroupName) -> &mut Group {
        let group = self.name_of(group);
        self.groups.get_mut(&group).unwrap()
    }

    fn end(&mut self, group: &GroupName, seq: Seq, reason: Option<GapReason>) {
        self.claims.remove(&(group.clone(), seq));
        let state = self.group(group);
        assert!(state.has.contains(&seq), "{group} never had {seq}");
        let before = state.ended.insert(seq, reason);
        assert_eq!(before, None, "{seq} ended twice in {group}, then {reason:?}");
        state.failed.remove(&seq);
    }

    /// Looks at all that came out since the last look.
    fn look(&mut self) {
        let writes: Vec<_> = self
            .world
            .writing
            .iter()
            .skip(self.written - self.world.left)
            .map(copy)
            .collect();
        self.written = self.world.left + self.world.writing.len();
        for write in writes {
            match write {
                Some(Logged::Dead(wish)) => self.look_at_wish(&wish),
                Some(Logged::Record(record)) => self.look_at_record(record, true),
                None => {}
            }
        }
        for overdue in std::mem::take(&mut self.world.overdue) {
            let Output::Overdue { consumer, delivery, .. } = overdue else {
                panic!()
            };
            let at = self
                .flying
                .iter()
                .position(|it| it.consumer == consumer && it.delivery == delivery);
            let deliver = self.flying.remove(at.expect("it is with that consumer"));
            self.fail(&deliver, None);
            self.old.push(deliver);
        }
        for told in std::mem::take(&mut self.world.told) {
            let acknowledged = |group: &Group| group.ended.get(&told_seq(&told)) == Some(&None);
            match told {
                Told::Done { seq, .. } => {
                    assert!(self.world.inbox.is_done(&topic(), seq));
                    assert!(self.groups.values().any(acknowledged));
                }
                Told::GivenUp { .. } => assert!(!self.groups.values().all(acknowledged)),
                other => panic!("{other:?}"),
            }
        }
        for deliver in std::mem::take(&mut self.world.deliveries) {
            self.look_at_delivery(deliver);
        }
        self.look_at_early_ones();
    }

    /// What was handed out in the place of others is in its turn by what is written now.
    fn look_at_early_ones(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        let mut fx = Effects::default();
        self.world.inbox.save(&mut fx);
        self.world.absorb(fx);
        let writes: Vec<_> = self
            .world
            .writing
            .iter()
            .skip(self.written - self.world.left)
            .map(copy)
            .collect();
        self.written = self.world.left + self.world.writing.len();
        for write in writes.into_iter().flatten() {
            let Logged::Record(record) = write else { panic!() };
            let undone = matches!(
                &record,
                Record::Settled {
                    reason: Some(GapReason::Dropped | GapReason::Purged),
                    ..
                }
            );
            assert!(!undone, "handed out before {record:?} is on disk (M-C1)");
            self.look_at_record(record, true);
        }
        assert!(
            self.claims.is_empty(),
            "handed out before their turn: {:?}",
            self.claims
        );
    }

    fn look_at_wish(&mut self, wish: &DeadWish) {
        let DeadSource::Group(group, seq) = wish.at.clone() else {
            panic!()
        };
        assert_eq!(wish.message, self.stored[&seq]);
        let attempts = self.settings().retry.attempts;
        match wish.reason.as_str() {
            "attempts" => assert!(wish.attempts >= attempts),
            "expired" => assert!(self.stored[&seq].is_expired(self.world.now.wall)),
            "terminated" => assert!(wish.attempts > 0),
            "rest_of_key" => assert_eq!(self.settings().exhausted, Exhausted::DlqRestOfKey),
            other => panic!("{other}"),
        }
        assert!(
            !self.group(&group).ended.contains_key(&seq),
            "{seq} is given up though it had ended"
        );
        let group = self.name_of(&group);
        assert!(self.dying.insert((group, seq)), "given up twice");
    }

    /// `now`: it was just decided; else it is read after a restart.
    fn look_at_record(&mut self, record: Record, now: bool) {
        match record {
            Record::Settled {
                group, seqs, reason, ..
            } => {
                for seq in seqs.into_iter().flat_map(|(from, to)| from..=to) {
                    let ended = self.group(&group).ended.get(&seq).copied();
                    match (reason, ended) {
                        (None, ended) if now => assert_eq!(ended, Some(None), "{seq} was not acknowledged"),
                        (_, Some(_)) if !now => {}
                        (Some(GapReason::Corrupted), _) if !self.damaged.contains(&seq) => panic!("{seq} is there"),
                        (reason, _) => self.end(&group, seq, reason),
                    }
                }
            }
            Record::Kept(kept) => {
                if let Kept::Group { group, .. } = *kept {
                    self.add_group(group);
                }
            }
            Record::Attempt { group, seq, failed, .. } if !now => {
                let failures = &mut self.group(&group).failed;
                failures.insert(seq, failed);
                if failed == 0 {
                    failures.remove(&seq);
                }
            }
            _ => {}
        }
    }

    fn add_group(&mut self, group: GroupName) {
        if self.groups.contains_key(&group) {
            return;
        }
        if let Some(nobody) = self.groups.remove(&name("-")) {
            self.dying = std::mem::take(&mut self.dying)
                .into_iter()
                .map(|(_, seq)| (group.clone(), seq))
                .collect();
            self.heir = Some(group.clone());
            self.groups.insert(group, nobody);
            return;
        }
        let mut new = Group::default();
        for (name, other) in &self.groups {
            let ended = |seq: &Seq| other.ended.contains_key(seq) || self.dying.contains(&(name.clone(), *seq));
            new.has.extend(other.has.iter().filter(|seq| !ended(seq)));
        }
        self.groups.insert(group, new);
    }

    fn look_at_delivery(&mut self, deliver: Deliver) {
        let (group, seq) = (deliver.group.clone(), deliver.delivery.seq);
        let message = self.stored[&seq].clone();
        assert_eq!(deliver.message, message);
        assert!(!message.is_expired(self.world.now.wall), "{seq} is expired");
        assert!(!self.dying.contains(&(group.clone(), seq)), "{seq} is given up");
        let ordered = self.settings().ordered;
        let state = self.group(&group).clone();
        assert!(
            state.has.contains(&seq) && !state.ended.contains_key(&seq),
            "{seq} for {group}"
        );
        assert_eq!(
            deliver.attempts,
            state.failed.get(&seq).copied().unwrap_or(0),
            "attempts of {seq}"
        );
        assert!(deliver.attempts < self.settings().retry.attempts);
        if let Some(not_before) = self.not_before.remove(&(group.clone(), seq)) {
            assert!(self.world.now.wall.0 >= not_before, "{seq} comes too early");
        }
        let (home, in_flight_max) = self.consumers[&deliver.consumer].clone();
        assert_eq!(home, group);
        let same = |other: &&Deliver| other.consumer == deliver.consumer;
        assert!(
            self.flying.iter().filter(same).count() < in_flight_max,
            "too many with {:?}",
            deliver.consumer
        );
        for other in self.flying.iter().filter(|other| other.group == group) {
            let same_key = ordered && message.key.is_some() && other.message.key == message.key;
            assert!(
                other.delivery.seq != seq && !same_key,
                "{seq} beside {}",
                other.delivery.seq
            );
        }
        if ordered && message.key.is_some() {
            let before = state
                .has
                .range(..seq)
                .filter(|before| self.stored[before].key == message.key);
            let (open, ended): (Vec<Seq>, Vec<Seq>) =
                before.copied().partition(|before| !state.ended.contains_key(before));
            self.claims
                .extend(open.into_iter().map(|before| (group.clone(), before)));
            let leaving = self.leaving(&group);
            let undone = ended.into_iter().find(|before| leaving.contains(before));
            assert_eq!(undone, None, "a crash would bring it back, behind {seq} (M-C1)");
        }
        self.flying.push(deliver);
    }

    /// What was dropped or purged, so that only a record on its way to the disk says so.
    fn leaving(&self, group: &GroupName) -> BTreeSet<Seq> {
        let ends = self.world.writing.iter().filter_map(|write| match write {
            Write::Record(Record::Settled {
                group: of,
                seqs,
                reason: Some(GapReason::Dropped | GapReason::Purged),
                ..
            }) if self.name_of(of) == *group => Some(seqs),
            _ => None,
        });
        ends.flatten().flat_map(|(from, to)| *from..=*to).collect()
    }

    fn fail(&mut self, deliver: &Deliver, delay: Option<Duration>) {
        let seq = deliver.delivery.seq;
        let failed = {
            let failed = self.group(&deliver.group).failed.entry(seq).or_default();
            *failed += 1;
            *failed
        };
        if let Some(delay) = delay.filter(|_| failed < self.settings().retry.attempts) {
            let at = self.world.now.wall.0 + u64::try_from(delay.as_millis()).unwrap();
            self.not_before.insert((deliver.group.clone(), seq), at);
        }
        let retry = &self.settings().retry;
        let bound = retry.longest.min(retry.first * 2_u32.pow(failed - 1));
        let latest = self.world.now.wall.0 + u64::try_from(delay.unwrap_or(bound).as_millis()).unwrap();
        let mut attempts = self.world.writing.iter().rev().filter_map(|write| match write {
            Write::Record(Record::Attempt {
                seq: of,
                failed: number,
                not_before,
                group,
                ..
            }) if *of == seq && *group == deliver.group && *number == failed => Some(not_before.0),
            _ => None,
        });
        if let Some(not_before) = attempts.next() {
            assert!(not_before <= latest, "back-off of {seq}");
        } else {
            assert!(
                failed >= self.settings().retry.attempts,
                "the attempt is not written down"
            );
        }
    }
}

fn copy(write: &Write) -> Option<Logged> {
    match write {
        Write::Reroute(_) | Write::Then(_) => None,
        Write::Dead(wish) => Some(Logged::Dead(wish.clone())),
        Write::Record(record) => Some(Logged::Record(record.clone())),
    }
}

fn settings() -> impl Strategy<Value = (TopicSettings, usize)> {
    let parts = (
        0_u8..3,
        any::<bool>(),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.2),
        1_u32..4,
        any::<bool>(),
    );
    (parts, prop::sample::select(vec![1_usize, 5, 1000])).prop_map(
        |((exhausted, dead, ordered, drop, attempts, declared), parked_max)| {
            let exhausted =
                [Exhausted::DlqAndContinue, Exhausted::BlockKey, Exhausted::DlqRestOfKey][usize::from(exhausted)];
            let groups = if declared { vec![name("g")] } else { Vec::new() };
            let settings = TopicSettings {
                ordered,
                exhausted,
                on_expiry: if dead { OnExpiry::DeadLetter } else { OnExpiry::Drop },
                overflow: if drop {
                    Overflow::DropOldest
                } else {
                    Overflow::RejectNew
                },
                messages_max: if drop { 6 } else { 0 },
                visibility_timeout: Duration::from_secs(5),
                retry: RetrySettings {
                    first: Duration::from_millis(200),
                    longest: Duration::from_secs(2),
                    attempts,
                },
                groups: groups
                    .into_iter()
                    .map(|group| (group, GroupSettings::default()))
                    .collect(),
                ..TopicSettings::default()
            };
            (settings, parked_max)
        },
    )
}

proptest! {
    /// M-B4, M-C1, M-E1 to M-E4, M-G8: see `Model`.
    #[test]
    fn each_message_ends_once_for_each_group_and_in_the_order_of_its_key(
        (settings, parked_max) in settings(),
        steps in proptest::collection::vec((0_u8..54, any::<u16>(), any::<u16>()), 0..250),
    ) {
        let mut model = Model::new(settings, parked_max);
        for step in steps {
            model.operate(step);
        }
        model.audit();
        model.drain();
    }
}
