use super::*;
use crate::model::{GapReason, Name};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn ticket(number: u64) -> Ticket {
    Ticket { shard: 0, number }
}

fn no_legs(waits: &Waits) -> bool {
    waits.outs.0.values().all(BTreeMap::is_empty)
}

fn wait(waits: &mut Waits, number: u64, level: AckLevel, outs: &[(&str, Seq)], inbox: Option<Seq>) -> VecDeque<Output> {
    let awaited = Awaited {
        id: "a/r/0000000000000001/1".parse().unwrap(),
        buffered: false,
        outs: outs.iter().map(|(unit, seq)| (name(unit), *seq)).collect(),
        inbox: inbox.map(|seq| (name("t"), seq)),
    };
    let waiter = Waiter {
        ticket: ticket(number),
        level,
        duplicate: false,
    };
    let mut outputs = VecDeque::new();
    waits.add(awaited, vec![waiter], &mut outputs);
    outputs
}

fn tell(waits: &mut Waits, told: &Told) -> Vec<(u64, AckLevel)> {
    let mut outputs = VecDeque::new();
    waits.on_told(told, &mut outputs);
    levels(outputs)
}

fn levels(outputs: VecDeque<Output>) -> Vec<(u64, AckLevel)> {
    let level = |output| match output {
        Output::Published {
            ticket,
            result: Ok(progress),
        } => (ticket.number, progress.level),
        other => panic!("{other:?}"),
    };
    outputs.into_iter().map(level).collect()
}

#[test]
fn a_publisher_is_told_when_all_units_have_its_message_and_when_all_groups_are_done() {
    // M-A2, W1
    let mut waits = Waits::default();
    assert!(wait(&mut waits, 1, AckLevel::Delivered, &[("b", 5), ("c", 9)], Some(3)).is_empty());
    assert!(wait(&mut waits, 2, AckLevel::Relayed, &[("b", 6)], None).is_empty());
    let relayed = |unit, from, to| Told::Relayed {
        unit: name(unit),
        seqs: vec![(from, to)],
    };
    assert_eq!(tell(&mut waits, &relayed("b", 1, 6)), [(2, AckLevel::Relayed)]);
    assert_eq!(tell(&mut waits, &relayed("b", 1, 6)), []);
    assert_eq!(tell(&mut waits, &relayed("c", 9, 9)), [(1, AckLevel::Relayed)]);
    let delivered = |unit, seq| Told::Delivered {
        unit: name(unit),
        seqs: vec![seq],
    };
    assert_eq!(tell(&mut waits, &delivered("b", 5)), []);
    assert_eq!(
        tell(
            &mut waits,
            &Told::Done {
                topic: name("t"),
                seq: 3
            }
        ),
        []
    );
    assert_eq!(tell(&mut waits, &delivered("c", 9)), [(1, AckLevel::Delivered)]);
    assert!(waits.by_number.is_empty() && no_legs(&waits) && waits.inboxes.is_empty());
}

#[test]
fn a_message_for_the_own_unit_is_relayed_at_once() {
    let mut waits = Waits::default();
    let outputs = wait(&mut waits, 1, AckLevel::Delivered, &[], Some(3));
    assert_eq!(levels(outputs), [(1, AckLevel::Relayed)]);
}

/// Who was told an error, and which.
fn failed(waits: &mut Waits, told: &Told) -> Vec<(u64, Reason, String)> {
    let mut outputs = VecDeque::new();
    waits.on_told(told, &mut outputs);
    let failed = outputs.into_iter().filter_map(|output| match output {
        Output::Published {
            ticket,
            result: Err(error),
        } => Some((ticket.number, error.reason, error.detail)),
        _ => None,
    });
    failed.collect()
}

#[test]
fn a_publisher_is_told_at_once_that_its_message_comes_no_further() {
    // M-A2, W2
    let gone = |unit, seqs, there, reason: &str| Told::Gone {
        unit: name(unit),
        seqs,
        there,
        why: Why {
            reason: reason.to_owned(),
            detail: "so".to_owned(),
        },
    };
    let mut waits = Waits::default();
    wait(&mut waits, 1, AckLevel::Relayed, &[("b", 5), ("c", 9)], None);
    wait(&mut waits, 2, AckLevel::Delivered, &[("b", 6)], Some(4));
    wait(&mut waits, 3, AckLevel::Delivered, &[("b", 7)], Some(5));
    let told = failed(&mut waits, &gone("b", (1, 5), false, "not_allowed"));
    let text = "the message was accepted with id a/r/0000000000000001/1, has come as far as ACCEPTED and comes no \
                further: not_allowed on its way to unit b; so";
    assert_eq!(told, [(1, Reason::Policy, text.to_owned())]);
    // One that came there has been relayed; the own unit counts as well.
    let told = failed(&mut waits, &gone("b", (6, 6), true, "attempts"));
    let text = "the message was accepted with id a/r/0000000000000001/1, has come as far as RELAYED and comes no \
                further: attempts in unit b; so";
    assert_eq!(told, [(2, Reason::Undelivered, text.to_owned())]);
    let given_up = Told::GivenUp {
        topic: name("t"),
        seq: 5,
        why: Why::of_gap(GapReason::Purged),
    };
    let told = failed(&mut waits, &given_up);
    let text = "the message was accepted with id a/r/0000000000000001/1, has come as far as ACCEPTED and comes no \
                further: purged in unit a";
    assert_eq!(told, [(3, Reason::Undelivered, text.to_owned())]);
    assert!(waits.by_number.is_empty() && no_legs(&waits) && waits.inboxes.is_empty());
    assert!(waits.by_ticket.is_empty());
}

#[test]
fn an_end_in_one_unit_does_not_end_a_wait_for_the_disks_of_others() {
    let mut waits = Waits::default();
    wait(&mut waits, 1, AckLevel::Relayed, &[("b", 5), ("c", 9)], None);
    let gone = Told::Gone {
        unit: name("b"),
        seqs: (5, 5),
        there: true,
        why: Why::of_gap(GapReason::Expired),
    };
    assert!(failed(&mut waits, &gone).is_empty());
    let relayed = Told::Relayed {
        unit: name("c"),
        seqs: vec![(9, 9)],
    };
    assert_eq!(tell(&mut waits, &relayed), [(1, AckLevel::Relayed)]);
}

#[test]
fn nothing_is_left_of_a_wait_that_is_forgotten() {
    // W2
    let mut waits = Waits::default();
    wait(&mut waits, 1, AckLevel::Delivered, &[("b", 5)], Some(3));
    waits.forget(ticket(1));
    waits.forget(ticket(1));
    assert!(waits.by_number.is_empty() && no_legs(&waits) && waits.inboxes.is_empty());
    assert!(waits.by_ticket.is_empty());
}
