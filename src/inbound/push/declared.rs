//! Which pushers the settings declare for this shard. Pure.

use std::hash::{Hash, Hasher};

use slotmap::DefaultKey;
use xxhash_rust::xxh3::Xxh3;

use crate::model::{GroupName, Name, ServiceName, Topic};
use crate::queue::Topics;

/// A group that is pushed to a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Wanted {
    pub(super) topic: Topic,
    pub(super) group: GroupName,
    pub(super) service: ServiceName,
    pub(super) method: Name,
    pub(super) in_flight_max: usize,
}

/// Pushers there are.
#[derive(Default)]
pub(super) struct Declared(Vec<(Wanted, DefaultKey)>);

impl Declared {
    /// Other topics are in force: which lines end, and which begin on shard `shard.0` of `shard.1`.
    pub(super) fn change(&mut self, topics: &Topics, shard: (usize, usize)) -> (Vec<DefaultKey>, Vec<Wanted>) {
        let mut new = wanted(topics, shard);
        let mut gone = Vec::new();
        self.0.retain(|(push, line)| {
            let at = new.iter().position(|wanted| wanted == push);
            if let Some(at) = at {
                new.swap_remove(at);
            } else {
                gone.push(*line);
            }
            at.is_some()
        });
        (gone, new)
    }

    pub(super) fn began(&mut self, push: Wanted, line: DefaultKey) {
        self.0.push((push, line));
    }
}

fn wanted(topics: &Topics, (shard, shards): (usize, usize)) -> Vec<Wanted> {
    let mut found = Vec::new();
    for (topic, settings) in topics {
        // A pattern stands for topics nobody has named yet: settings with a pusher there are refused.
        let Ok(topic) = Name::new(topic) else { continue };
        for (group, of) in &settings.groups {
            let Some(push) = &of.push else { continue };
            if shard_of(&topic, group, shards) == shard {
                found.push(Wanted {
                    topic: topic.clone(),
                    group: group.clone(),
                    service: push.service.clone(),
                    method: push.method.clone(),
                    in_flight_max: push.in_flight_max,
                });
            }
        }
    }
    found
}

/// Whether this shard pushes to a group.
pub(super) fn is_ours(topic: &Topic, group: &GroupName, (shard, shards): (usize, usize)) -> bool {
    shard_of(topic, group, shards) == shard
}

/// The shard that pushes to a group (U3).
fn shard_of(topic: &Topic, group: &GroupName, shards: usize) -> usize {
    let mut hash = Xxh3::new();
    topic.as_str().hash(&mut hash);
    group.as_str().hash(&mut hash);
    let shards = u64::try_from(shards.max(1)).unwrap_or(1);
    usize::try_from(hash.finish() % shards).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{GroupSettings, Push, TopicSettings};

    fn topics(groups: &[(&str, &str)]) -> Topics {
        let mut settings = TopicSettings::default();
        for (group, service) in groups {
            let push = Push {
                service: Name::new(service).unwrap(),
                method: Name::new("Receive").unwrap(),
                in_flight_max: 4,
            };
            let group = Name::new(group).unwrap();
            settings.groups.insert(group, GroupSettings { push: Some(push) });
        }
        Topics::from([("t".to_owned(), settings)])
    }

    // U3, M-B4
    #[test]
    fn each_group_is_pushed_by_exactly_one_shard() {
        let names: Vec<String> = (0..50).map(|number| format!("g{number}")).collect();
        let groups: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "im.Sink")).collect();
        let topics = topics(&groups);
        let mut all: Vec<_> = (0..4).flat_map(|shard| wanted(&topics, (shard, 4))).collect();
        all.sort_by_key(|push| push.group.clone());
        all.dedup();
        assert_eq!(all.len(), 50);
        let busiest = (0..4).map(|shard| wanted(&topics, (shard, 4)).len()).max();
        assert!(busiest < Some(30), "they are spread");
    }

    // M-H4
    #[test]
    fn a_reload_keeps_pushers_that_stay_and_exchanges_those_that_changed() {
        let mut declared = Declared::default();
        let mut keys = slotmap::SlotMap::new();
        let (gone, new) = declared.change(&topics(&[("a", "im.A"), ("b", "im.B")]), (0, 1));
        assert_eq!((gone.len(), new.len()), (0, 2));
        for push in new {
            declared.began(push, keys.insert(()));
        }
        let (gone, new) = declared.change(&topics(&[("a", "im.A"), ("b", "im.C")]), (0, 1));
        assert_eq!((gone.len(), new.len()), (1, 1));
        assert_eq!(new[0].service.as_str(), "im.C");
    }
}
