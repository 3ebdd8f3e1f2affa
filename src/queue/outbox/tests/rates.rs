//! Rates and shares on a virtual clock.

use std::time::Duration;

use proptest::prelude::*;

use super::super::pace::{Pace, float, whole};
use super::link::Link;
use super::world::{World, loose, name, setup};
use crate::model::ByteSize;
use crate::queue::lanes::{LaneKind, ToSender};
use crate::queue::operator::LimitValues;
use crate::queue::{ReplayLimits, Setup, UnitReplay};

fn limited(messages: f64, bytes: u64, burst: u32) -> Setup {
    let mut setup = setup(loose());
    let limits = ReplayLimits {
        messages_per_second: messages,
        bytes_per_second: ByteSize::bytes(bytes),
        burst,
    };
    let unit = UnitReplay {
        limits,
        ..UnitReplay::default()
    };
    setup.replay.units.insert(name("there"), unit);
    setup
}

/// A world with a backlog, and lanes that are up.
fn behind(setup: Setup, messages: usize, size: usize) -> World {
    let mut world = World::new(setup);
    for _ in 0..messages {
        let message = world.message("t0", Some("a"), size, None);
        world.publish(message);
    }
    world.commit(usize::MAX);
    world.lane_up(LaneKind::Live);
    world.lane_up(LaneKind::Backlog);
    world
}

/// So many seconds ago.
fn since(world: &World, seconds: u64) -> Duration {
    world.now.mono.saturating_sub(Duration::from_secs(seconds))
}

const MIB: usize = 1 << 20;

#[test]
fn the_backlog_stays_within_105_percent_of_its_limit_over_any_10_s_at_the_peer() {
    // M-D2, with a path that stops now and then.
    for (rate, delay) in [(20.0, 1), (200.0, 100), (5000.0, 1)] {
        let mut world = behind(limited(rate, 0, 0), whole(rate * 40.0).try_into().unwrap(), 100);
        let mut link = Link::new(20 * MIB, delay);
        for pause in [0, 900, 0, 300, 2000, 0, 0, 0] {
            link.blocked_until = world.now.mono + Duration::from_millis(pause);
            link.run(&mut world, Duration::from_millis(3500));
        }
        let most = link.most(Duration::from_secs(10)).0;
        assert!(most <= whole(rate * 10.5).try_into().unwrap(), "{most} of {rate}");
        let calm = link.between(LaneKind::Backlog, since(&world, 3), world.now.mono).0;
        assert!(float(calm) >= rate * 2.8, "{calm} of {rate}");
    }
}

#[test]
fn bytes_are_limited_too_and_a_message_larger_than_the_burst_passes() {
    // M-D2: debt, not deadlock.
    let mut world = behind(limited(0.0, 100_000, 0), 30, 50_000);
    let mut link = Link::new(20 * MIB, 1);
    link.run(&mut world, Duration::from_secs(12));
    let bytes = link.most(Duration::from_secs(10)).1;
    assert!(bytes <= 1_050_000, "{bytes}");
    assert!(link.arrivals.len() >= 23, "{}", link.arrivals.len());
}

#[test]
fn a_limit_changed_at_run_time_is_in_force_at_once() {
    // M-D2.
    let mut world = behind(limited(1000.0, 0, 0), 20_000, 100);
    let mut link = Link::new(20 * MIB, 1);
    link.run(&mut world, Duration::from_secs(3));
    let limits = |rate| LimitValues {
        messages_per_second: rate,
        ..LimitValues::default()
    };
    for rate in [100.0, 2000.0] {
        world.outbox.limit(None, Some(limits(rate)));
        let changed = world.now.mono;
        link.run(&mut world, Duration::from_secs(3));
        let count = link
            .between(
                LaneKind::Backlog,
                changed + Duration::from_secs(1),
                changed + Duration::from_secs(3),
            )
            .0;
        assert!((float(count) / 2.0 / rate - 1.0).abs() < 0.06, "{count} for {rate}");
    }
    world.outbox.limit(None, None);
    let changed = world.now.mono;
    link.run(&mut world, Duration::from_secs(2));
    let count = link
        .between(LaneKind::Backlog, changed, changed + Duration::from_secs(2))
        .0;
    assert!((1900..=2100).contains(&count), "the settings count again: {count}");
}

#[test]
fn a_topic_with_a_limit_of_its_own_holds_up_no_other() {
    // M-D2.
    let mut settings = setup(loose());
    let limits = ReplayLimits {
        messages_per_second: 10.0,
        ..ReplayLimits::default()
    };
    let mut unit = UnitReplay::default();
    unit.topics.insert(name("t0"), limits);
    settings.replay.units.insert(name("there"), unit);
    let mut world = World::new(settings);
    for _ in 0..1000 {
        world.put("t0", Some("a"));
        world.put("t1", Some("a"));
    }
    world.lane_up(LaneKind::Live);
    world.lane_up(LaneKind::Backlog);
    Link::new(20 * MIB, 1).run(&mut world, Duration::from_secs(10));
    let of = |topic: &str| {
        world
            .receiver
            .arrivals
            .iter()
            .filter(|(seq, _)| world.accepted[seq].topic == name(topic))
            .count()
    };
    assert_eq!(of("t1"), 1000);
    assert!((95..=105).contains(&of("t0")), "{}", of("t0"));
    world.check_order();
}

#[test]
fn live_messages_stay_fast_while_a_backlog_drains_at_half_of_the_link() {
    // M-D3: 70 % load; p99 within 1.2 x and 5 ms; nothing is lost; at most half of the link.
    for delay in [1, 20] {
        let mut baseline = World::new(setup(loose()));
        baseline.connect();
        let mut link = Link::new(20 * MIB, delay);
        link.run_live(&mut baseline, Duration::from_secs(3), 14 * MIB);
        let alone = link.p99(Duration::ZERO);
        let mut world = behind(setup(loose()), 60_000, 1024);
        let mut link = Link::new(20 * MIB, delay);
        // Light live traffic: what the backlog takes is its own choice.
        link.run_live(&mut world, Duration::from_secs(3), MIB);
        let (from, to) = (since(&world, 2), world.now.mono);
        let bytes = link.between(LaneKind::Backlog, from, to).1;
        assert!(
            (2 * 2 * MIB..=2 * 21 * MIB / 2).contains(&bytes),
            "{bytes} with a delay of {delay}"
        );
        let loaded = world.now.mono;
        link.run_live(&mut world, Duration::from_secs(3), 14 * MIB);
        let p99 = link.p99(loaded);
        assert!(
            p99 <= alone.mul_f64(1.2) + Duration::from_millis(5),
            "{p99:?}, alone {alone:?}"
        );
        assert!(world.outbox.status(world.now).backlog > 0, "it was still draining");
        link.run(&mut world, Duration::from_secs(20));
        assert_eq!(world.receiver.arrivals.len(), world.accepted.len());
    }
}

#[test]
fn alone_a_backlog_gets_the_whole_link() {
    let mut world = behind(setup(loose()), 40_000, 1024);
    let mut link = Link::new(10 * MIB, 20);
    link.run(&mut world, Duration::from_secs(3));
    let bytes = link.between(LaneKind::Backlog, since(&world, 2), world.now.mono).1;
    assert!(bytes >= 19 * MIB, "{bytes}");
}

#[test]
fn the_backlog_gets_its_minimal_share_of_a_link_that_live_messages_fill() {
    // M-D4: the live lane has priority on the wire, and more comes than the link takes.
    let mut world = behind(setup(loose()), 20_000, 1024);
    let mut link = Link::new(10 * MIB, 5);
    link.run_live(&mut world, Duration::from_secs(10), 20 * MIB);
    let (from, to) = (since(&world, 8), world.now.mono);
    let (live, backlog) = (
        link.between(LaneKind::Live, from, to).1,
        link.between(LaneKind::Backlog, from, to).1,
    );
    let share = float(backlog) / float(live + backlog);
    assert!((0.05..0.3).contains(&share), "{share}");
    assert!(live + backlog > 70 * MIB, "the link is used: {live} {backlog}");
    assert!(
        world.outbox.status(world.now).eta_seconds.is_some(),
        "the status shows when it ends"
    );
}

#[test]
fn a_peer_out_of_resources_halves_the_backlog_which_recovers_in_steps() {
    // M-D5.
    let mut world = behind(setup(loose()), 200_000, 1024);
    let mut link = Link::new(10 * MIB, 5);
    link.run(&mut world, Duration::from_secs(3));
    let id = world
        .wires
        .iter()
        .find(|wire| wire.kind == LaneKind::Backlog)
        .unwrap()
        .id;
    let mut rates = Vec::new();
    world.frame(
        id,
        ToSender::Busy {
            pushback: Some(Duration::from_millis(100)),
        },
    );
    world.frame(id, ToSender::Busy { pushback: None });
    for _ in 0..8 {
        link.run(&mut world, Duration::from_secs(1));
        let bytes = link.between(LaneKind::Backlog, since(&world, 1), world.now.mono).1;
        rates.push(float(bytes) / float(10 * MIB));
    }
    // What was under way when the peer said so still arrives.
    assert!((0.4..0.95).contains(&rates[0]), "{rates:?}");
    assert!((0.5..0.7).contains(&rates[1]), "{rates:?}");
    assert!(
        rates[1] < rates[2] && rates[2] < rates[3] && rates[7] > 0.9,
        "{rates:?}"
    );
    for _ in 0..12 {
        world.frame(
            id,
            ToSender::Busy {
                pushback: Some(Duration::from_millis(100)),
            },
        );
        link.run(&mut world, Duration::from_secs(1));
    }
    let bytes = link.between(LaneKind::Backlog, since(&world, 1), world.now.mono).1;
    assert!(bytes > 10_000 && bytes < MIB, "it has a floor: {bytes}");
}

proptest! {
    #[test]
    fn a_pace_never_gives_more_than_its_rate_and_burst(
        rate in 1.0_f64..5000.0, burst in 0_u32..50, steps in prop::collection::vec((0_u64..400_000, 1_usize..2000), 1..300),
    ) {
        // M-D2, P1, P2.
        let limits = LimitValues { messages_per_second: rate, bytes_per_second: 20_000, burst };
        let mut pace = Pace::default();
        let mut now = Duration::ZERO;
        pace.set(now, limits);
        let burst = if burst == 0 { (rate / 20.0).max(1.0) } else { f64::from(burst) };
        let (mut count, mut sum, mut largest) = (0.0, 0.0, 0.0_f64);
        for (micros, bytes) in steps {
            now += Duration::from_micros(micros);
            pace.refill(now);
            while pace.allows(bytes, (0, 0), Duration::ZERO) {
                pace.take(bytes);
                count += 1.0;
                sum += float(bytes);
                largest = largest.max(float(bytes));
            }
            prop_assert!(count <= rate * now.as_secs_f64() + burst + 1e-3);
            let span = if limits.burst == 0 { 0.05 } else { burst / rate };
            prop_assert!(sum <= 20_000.0 * now.as_secs_f64() + (20_000.0 * span).max(largest) + 1e-3);
            // It passes when it is said to, at the latest after some looks: no deadlock.
            let mut looks = 0;
            let mut later = pace.clone();
            let mut at = now;
            while !later.allows(bytes, (0, 0), Duration::ZERO) {
                at = later.ready_at(bytes).unwrap().max(at);
                later.refill(at);
                looks += 1;
                prop_assert!(looks < 10);
            }
        }
    }
}
