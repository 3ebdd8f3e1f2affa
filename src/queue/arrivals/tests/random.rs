//! Random senders against what must hold.

use proptest::prelude::*;

use super::*;

/// A sender with numbers 1 to 40, two lanes, and what it believes.
#[derive(Default)]
struct Sender {
    /// Acknowledged, or told as a gap and acknowledged.
    done: BTreeSet<Seq>,
    gaps: BTreeSet<Seq>,
    /// By lane: the next batch, and what each batch held.
    lanes: BTreeMap<LaneId, (u64, BTreeMap<u64, Vec<Seq>>)>,
}

proptest! {
    /// M-B2, A2: each number is stored exactly once per life of the disk, whatever is lost, repeated, late, or busy; what is
    /// acknowledged is on disk.
    #[test]
    fn each_number_is_stored_once(steps in proptest::collection::vec((0_u8..16, any::<u16>()), 0..200)) {
        let (mut world, mut sender) = (World::new(), Sender::default());
        for (what, any) in steps {
            act(&mut world, &mut sender, what, any);
            hear(&world, &mut sender);
        }
        // In the end all goes well.
        world.gate.busy = false;
        world.gate.refused.clear();
        let mut fx = Effects::default();
        world.arrivals.set_busy(None, &mut fx);
        world.absorb(fx);
        world.now.mono += Duration::from_secs(1);
        let lane = open(&mut world, &mut sender);
        for seq in 1..=40 {
            send(&mut world, &mut sender, lane, &[seq]);
        }
        world.poll();
        world.commit(usize::MAX);
        hear(&world, &mut sender);
        prop_assert_eq!(sender.done.len(), 40);
        let mut stored = world.stored();
        stored.sort_unstable();
        let missing: BTreeSet<Seq> = (1..=40).filter(|seq| !stored.contains(seq)).collect();
        prop_assert!(missing.is_subset(&sender.gaps), "lost: {:?}", missing);
        let count = stored.len();
        stored.dedup();
        prop_assert_eq!(count, stored.len(), "stored twice");
    }
}

fn open(world: &mut World, sender: &mut Sender) -> LaneId {
    let base = (1..100).find(|seq| !sender.done.contains(seq)).unwrap();
    let lane = world.open(base);
    sender.lanes.insert(lane, (1, BTreeMap::new()));
    lane
}

fn send(world: &mut World, sender: &mut Sender, lane: LaneId, seqs: &[Seq]) {
    let (next, batches) = sender.lanes.get_mut(&lane).unwrap();
    batches.insert(*next, seqs.to_vec());
    *next += 1;
    let batch = *next - 1;
    match seqs {
        [seq] if sender.gaps.contains(seq) => world.gap(lane, batch, (*seq, *seq)),
        _ => world.send(lane, batch, seqs),
    }
}

fn act(world: &mut World, sender: &mut Sender, what: u8, any: u16) {
    let number = u64::from(any) % 40 + 1;
    let lane = sender
        .lanes
        .keys()
        .nth(usize::from(any) % sender.lanes.len().max(1))
        .copied();
    match (what, lane) {
        (0, _) if sender.lanes.len() < 3 => _ = open(world, sender),
        (1..=4, Some(lane)) => {
            let next = (number..41).take(usize::from(any % 4 + 1));
            let seqs: Vec<_> = next.filter(|seq| !sender.gaps.contains(seq)).collect();
            send(world, sender, lane, &seqs);
        }
        (5, Some(lane)) if any.is_multiple_of(5) => {
            sender.gaps.insert(number);
            send(world, sender, lane, &[number]);
        }
        (6, Some(lane)) => {
            world.arrivals.on_lane_down(lane);
            sender.lanes.remove(&lane);
        }
        (7..=9, _) => world.commit(usize::from(any % 6)),
        (10, _) => world.gate.busy = any.is_multiple_of(2),
        (11, _) => {
            world.now.mono += Duration::from_millis(u64::from(any % 200));
            world.poll();
        }
        (12, _) => {
            let pushback = (any.is_multiple_of(2)).then_some(Duration::from_secs(1));
            let mut fx = Effects::default();
            world.arrivals.set_busy(pushback, &mut fx);
            world.absorb(fx);
            world.poll();
        }
        (13, _) => {
            world.disk_fails();
            sender.lanes.clear();
        }
        (14, _) => world.take_snapshot(),
        (15, _) => {
            world.restart(usize::from(any % 10));
            sender.lanes.clear();
        }
        _ => {}
    }
}

/// The sender believes what it is told; it must be true.
fn hear(world: &World, sender: &mut Sender) {
    let on_disk = &world.arrivals.streams.get(&stream());
    let mut done = Vec::new();
    for (lane, (_, batches)) in &mut sender.lanes {
        let acked = world.acked(*lane);
        let rest = batches.split_off(&(acked + 1));
        done.extend(std::mem::replace(batches, rest).into_values().flatten());
        for frame in &world.said[lane] {
            let ToSender::Opened { frontier, above, .. } = frame else {
                continue;
            };
            done.extend(above.iter().flat_map(|(from, to)| *from..=*to).chain(1..=*frontier));
        }
    }
    for seq in done {
        assert!(
            on_disk.is_some_and(|stream| stream.seen.contains(seq)),
            "{seq} is not on disk"
        );
        sender.done.insert(seq);
    }
}
