//! The acts of calls: they cross, a unit goes away, it comes back.

use std::time::Duration;

use tokio::time::Instant;

use super::report::{Counts, Crossing, Outage, Return};
use super::traffic::{self, Caller, PATIENCE, Steady, Tallies};
use super::world::{AWAY, Relay, UNITS, Unit};
use super::{DemoError, Stage, scrape};

pub(super) async fn cross(stage: &Stage) -> Crossing {
    let mut crossing = Crossing {
        calls: traffic::calls(&stage.callers, &UNITS, 10, PATIENCE).await,
        ..Crossing::default()
    };
    // The relays add up their counts ten times a second.
    let begun = Instant::now();
    while !crossing.problems().is_empty() && begun.elapsed() < COUNTED_WITHIN {
        tokio::time::sleep(POLL).await;
        let relays = stage.world.relays();
        crossing.outbound = read(relays, |metrics, relay, owner| {
            ended_well(metrics, "outbound", relay, owner)
        })
        .await;
        let inbound = read(relays, |metrics, relay, from| {
            ended_well(metrics, "inbound", from, relay)
        })
        .await;
        crossing.inbound = inbound
            .into_iter()
            .map(|((relay, from), count)| ((from, relay), count))
            .collect();
    }
    crossing
}

pub(super) async fn lose(stage: &mut Stage, staying: &[Caller]) -> Outage {
    stage.world.away_mut().kill();
    let begun = Instant::now();
    let mut outage = Outage::default();
    while begun.elapsed() < NOTICED_WITHIN {
        let round = traffic::calls(staying, &[AWAY], 1, PROBE).await;
        let known = round
            .0
            .values()
            .all(|tally| tally.errors.keys().all(|said| said.starts_with("unit_away;")));
        outage.before.merge(round);
        outage.known_after = begun.elapsed();
        // Each shard of a relay has a link of its own, and finds out by itself.
        if known && links_to_away(stage.world.relays()).await == 0 {
            break;
        }
    }
    let begun = Instant::now();
    outage.refused = traffic::calls(staying, &[AWAY], 10, PATIENCE).await;
    outage.refused_took = begun.elapsed();
    let begun = Instant::now();
    while !outage.problems().is_empty() && begun.elapsed() < COUNTED_WITHIN {
        tokio::time::sleep(POLL).await;
        outage.counted = read(stage.world.relays(), |metrics, relay, owner| {
            let labels = [
                ("direction", "outbound"),
                ("src_unit", relay.name),
                ("dst_unit", owner.name),
                ("reason", "unit_away"),
            ];
            scrape::sum(metrics, "strait_call_errors_total", &labels)
        })
        .await;
    }
    outage
}

pub(super) async fn bring_back(stage: &mut Stage, staying: &[Caller], steady: Steady) -> Result<Return, DemoError> {
    let begun = Instant::now();
    let relay = stage.world.away_mut();
    relay.spawn()?;
    relay.until_ready().await?;
    let mut back = Return::default();
    while begun.elapsed() < NOTICED_WITHIN {
        let round: Tallies = traffic::calls(staying, &[AWAY], 1, PROBE).await;
        back.after = begun.elapsed();
        let total = round.total();
        if total.answered == total.calls {
            break;
        }
    }
    back.calls = traffic::calls(&stage.callers, &UNITS, 5, PATIENCE).await;
    back.others = steady.stop().await;
    Ok(back)
}

/// Links that relays still have to the unit that went away.
async fn links_to_away(relays: &[Relay]) -> u64 {
    let up = |metrics: &str, relay: Unit, owner: Unit| {
        if owner != AWAY {
            return 0;
        }
        let labels = [("src_unit", relay.name), ("dst_unit", owner.name)];
        scrape::sum(metrics, "strait_peer_links_up", &labels)
    };
    read(relays, up).await.into_values().sum()
}

/// Reads one figure of each relay about each unit.
pub(super) async fn read(relays: &[Relay], figure: impl Fn(&str, Unit, Unit) -> u64) -> Counts {
    let mut counts = Counts::new();
    for relay in relays {
        let metrics = relay.metrics().await;
        for other in UNITS {
            counts.insert((relay.unit, other), figure(&metrics, relay.unit, other));
        }
    }
    counts
}

fn ended_well(metrics: &str, direction: &str, from: Unit, owner: Unit) -> u64 {
    let labels = [
        ("direction", direction),
        ("src_unit", from.name),
        ("dst_unit", owner.name),
        ("outcome", "ok"),
    ];
    scrape::sum(metrics, "strait_calls_total", &labels)
}

const POLL: Duration = Duration::from_millis(50);
/// How long a call waits while it is not known whether the unit is there.
const PROBE: Duration = Duration::from_millis(300);
/// When it is too late for the counters of the relays to agree.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);
/// When it is too late for an outage or a return to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
