//! What a message costs with more keys and with more topics. Each topic and key has had a message before the first round: what it
//! costs to make one is not what a message costs that finds it there.

use std::time::Instant;

use crate::load::{End, Load, publish};
use crate::publish::load;
use crate::rows::{Effort, Figure, block_on, each, probed};
use crate::stage::{Side, Stage, until};
use crate::strait;
use crate::strait_speech::Wish;

const COUNTS: [u32; 3] = [1, 1_000, 100_000];

/// One figure for keys, one for topics.
pub fn growth(stage: &Stage, effort: &Effort) -> [Figure; 2] {
    let with_keys = |load: Load, keys| Load { keys, ..load };
    let with_topics = |load: Load, topics| Load {
        topics,
        keys: 1,
        ..load
    };
    [
        of(stage, effort, "keys", &with_keys),
        of(stage, effort, "topics", &with_topics),
    ]
}

fn of(stage: &Stage, effort: &Effort, what: &str, shape: &dyn Fn(Load, u32) -> Load) -> Figure {
    probed(stage, effort, || {
        // A pair each, so that one's files are not the other's burden.
        let start = |count: &u32| {
            let pair = strait::Pair::start(stage, &format!("{what}-{count}"), "");
            let first = shape(load(64, End::Count(u64::from(*count))), *count);
            let made = block_on(publish(&pair.target(Side::A, Wish::Accepted), &first, Instant::now())).all;
            until("B to know all of them", || pair.stored(Side::B) >= made);
            (*count, pair, made, Vec::new())
        };
        let mut pairs: Vec<_> = COUNTS.iter().map(start).collect();
        for _ in 0..effort.rounds {
            for (count, pair, next, rounds) in &mut pairs {
                let load = shape(load(64, End::After(effort.time)), *count);
                let load = Load { first: *next, ..load };
                let cpu = || Side::BOTH.map(|side| pair.process(side).unwrap().cpu());
                let before = cpu();
                let published = block_on(publish(&pair.target(Side::A, Wish::Accepted), &load, Instant::now()));
                *next += published.all;
                until("B to have all messages", || pair.stored(Side::B) >= *next);
                let [a, b] = cpu();
                let both = each((a + b).saturating_sub(before[0] + before[1]), published.all);
                let mib = |side: Side| pair.process(side).unwrap().rss() as f64 / 1_048_576.0;
                rounds.push(vec![both, published.per_second, mib(Side::A), mib(Side::B)]);
                eprintln!("  {count} {what}: {both:.1} us, {:.0}/s", published.per_second);
            }
        }
        let mut figure = Figure::new(
            format!("cost of a message with more {what}, 1 KiB, 64 in flight, relayed to B"),
            &["A+B us/message", "messages/s", "resident A MiB", "resident B MiB"],
        );
        for (count, _, _, rounds) in &pairs {
            figure.row(format!("{count} {what}"), rounds);
        }
        for count in &COUNTS[1..] {
            figure.ratio(&format!("{count} {what}"), &format!("1 {what}"), 0);
        }
        figure
    })
}
