//! Publishing until the disk of the other unit has it, against publishing to the local disk alone.

use std::time::Instant;

use crate::load::{End, Load, publish};
use crate::peers::{Pair, Peer};
use crate::publish::{consume_all, load};
use crate::rows::{Effort, Figure, block_on, each, probed};
use crate::stage::{Side, Stage};
use crate::strait_speech::Wish;

/// Messages a second, both ways in turn, on one pair.
pub fn relayed(stage: &Stage, effort: &Effort) -> Figure {
    probed(stage, effort, || {
        let Pair::Strait(pair) = Peer::Strait.start(stage, "relayed") else {
            unreachable!("Strait starts a pair of relays")
        };
        let ways = [(Wish::Local, "local append"), (Wish::Relayed, "relayed")];
        let mut rounds = [Vec::new(), Vec::new()];
        let mut to_b = 0;
        for _ in 0..effort.rounds {
            for ((wish, name), rounds) in ways.iter().zip(&mut rounds) {
                let load = Load {
                    first: to_b,
                    ..load(1024, End::After(effort.time))
                };
                let cpu = || Side::BOTH.map(|side| pair.process(side).unwrap().cpu());
                let before = cpu();
                let published = block_on(publish(&pair.target(Side::A, *wish), &load, Instant::now()));
                let [a, b] = cpu();
                let cpu = (a + b).saturating_sub(before[0] + before[1]);
                to_b += if *wish == Wish::Relayed { published.all } else { 0 };
                let [p50, p99] = published.within;
                let load = each(published.cpu, published.all);
                rounds.push(vec![published.per_second, p50, p99, each(cpu, published.all), load]);
                eprintln!("  {name}: {:.0}/s", published.per_second);
            }
        }
        let mut figure = Figure::new(
            "publish, acknowledged by the disk of B, against the disk of A alone, 1 KiB, 1,024 in flight",
            &[
                "messages/s",
                "ack p50 us",
                "ack p99 us",
                "A+B us/message",
                "CPU load us",
            ],
        );
        for ((_, name), rounds) in ways.iter().zip(&rounds) {
            figure.row(*name, rounds);
        }
        figure.ratio("relayed", "local append", 0);
        let (missing, again) = consume_all(&Pair::Strait(pair), to_b);
        figure.notes.push(format!(
            "{to_b} relayed, {missing} of them missing at the consumer, {again} came twice"
        ));
        figure
    })
}
