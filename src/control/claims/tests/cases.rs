use super::*;

fn office() -> Office {
    Office::new(Limits::default())
}

fn away() -> Answer {
    Answer::Failed(StoreError::Away("test".to_owned()))
}

// B1
#[test]
fn one_question_serves_all_who_ask_meanwhile() {
    let mut office = office();
    for waiter in 0..3 {
        assert_eq!(office.read(waiter, "k"), None);
    }
    let (id, batch) = office.sent();
    assert_eq!(batch, Batch::LookUp(vec![(name("im.conversation"), "k".into())]));
    assert_eq!(office.read(3, "k"), None);
    assert_eq!(office.after(10), [], "it is under way");
    let told = office.answered(id, Answer::Found(vec![Some(claim("k", 9))]));
    assert_eq!(told, [0, 1, 2, 3].map(|waiter| (waiter, lost("k", 9))));
    assert_eq!(office.read(4, "k"), Some(lost("k", 9)), "and is known from now on");
    assert_eq!(office.desk.waiters(), 0);
}

#[test]
fn questions_are_gathered_for_a_millisecond_or_a_full_batch() {
    let mut office = office();
    for waiter in 0..130 {
        office.write(waiter, &waiter.to_string(), 1);
    }
    let sizes = |outputs: Vec<Output>| -> Vec<usize> {
        let size = |output| match output {
            Output::Send(_, Batch::Claim(claims)) => claims.len(),
            other => panic!("{other:?}"),
        };
        outputs.into_iter().map(size).collect()
    };
    assert_eq!(office.desk.wake_at(), Some(office.now), "a full batch waits for nobody");
    assert_eq!(sizes(office.after(0)), [128]);
    assert_eq!(office.desk.wake_at(), Some(office.now + ms(1)));
    assert_eq!(sizes(office.after(1)), [2]);
}

// R-I5
#[test]
fn who_was_first_wins_and_the_others_learn_who() {
    let mut office = office();
    office.write(1, "k", 11);
    office.write(2, "k", 22);
    office.write(3, "k", 11);
    let (id, batch) = office.sent();
    assert_eq!(batch, Batch::Claim(vec![claim("k", 11)]));
    let told = office.answered(id, Answer::Claimed(vec![claim("k", 11)]));
    assert_eq!(told, [(1, won("k", 11)), (2, lost("k", 11)), (3, won("k", 11))]);
    assert_eq!(office.write(4, "k", 11), Some(won("k", 11)), "a retry of the winner");
    assert_eq!(office.write(5, "k", 33), Some(lost("k", 11)));
}

// B3
#[test]
fn that_a_key_is_free_is_remembered_for_readers_only() {
    let mut office = office();
    office.read(1, "k");
    let (id, _) = office.sent();
    assert_eq!(office.answered(id, Answer::Found(vec![None])), [(1, Outcome::Free)]);
    assert_eq!(office.read(2, "k"), Some(Outcome::Free));
    assert_eq!(office.write(3, "k", 1), None, "a claim asks the store");
    assert_eq!(office.read(4, "k"), None, "and from then on readers wait for it");
    let (id, _) = office.sent();
    let told = office.answered(id, Answer::Claimed(vec![claim("k", 1)]));
    assert_eq!(told, [(3, won("k", 1)), (4, lost("k", 1))]);
}

#[test]
fn a_free_key_is_asked_for_again_after_a_second_more_or_less() {
    for (dice, expected) in [(0, 800), (200, 1000), (400, 1200), (401, 800)] {
        let mut office = office();
        office.read(1, "k");
        let (id, _) = office.sent();
        let mut out = Vec::new();
        let answer = Answer::Found(vec![None]);
        office.desk.answered(id, answer, office.now, dice, &mut out);
        office.now += ms(expected - 1);
        assert_eq!(office.read(2, "k"), Some(Outcome::Free), "{dice}");
        office.now += ms(1);
        assert_eq!(office.read(3, "k"), None, "{dice}");
    }
}

// B2: catches a late "nobody" that hides what this relay has claimed since.
#[test]
fn a_late_answer_that_nobody_has_it_is_not_believed() {
    let mut office = office();
    office.read(1, "k");
    let (look_up, _) = office.sent();
    office.write(2, "k", 1);
    let (claiming, _) = office.sent();
    assert_eq!(office.answered(look_up, Answer::Found(vec![None])), []);
    let told = office.answered(claiming, Answer::Claimed(vec![claim("k", 1)]));
    assert_eq!(told, [(1, lost("k", 1)), (2, won("k", 1))]);
    assert_eq!(office.answered(look_up, Answer::Found(vec![None])), []);
    assert_eq!(office.read(3, "k"), Some(lost("k", 1)));
}

// B2: a late answer that somebody has it ends the claim at once.
#[test]
fn a_late_answer_that_somebody_has_it_is_as_good_as_any() {
    let mut office = office();
    office.read(1, "k");
    let (look_up, _) = office.sent();
    office.write(2, "k", 1);
    let told = office.answered(look_up, Answer::Found(vec![Some(claim("k", 9))]));
    assert_eq!(told, [(1, lost("k", 9)), (2, lost("k", 9))]);
    assert_eq!(office.after(1), [], "nothing is left to claim");
}

// B4
#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_operation() {
    let mut office = office();
    office.write(1, "k", 11);
    let (first, batch) = office.sent();
    assert_eq!(office.after(999), []);
    assert_eq!(office.after(1), [], "a pause of 50 ms follows");
    let again = office.after(50);
    let [Output::Send(second, repeated)] = again.as_slice() else {
        panic!("{again:?}");
    };
    assert_eq!(*repeated, batch);
    // The first answer comes after all; the second one changes nothing.
    assert_eq!(
        office.answered(first, Answer::Claimed(vec![claim("k", 11)])),
        [(1, won("k", 11))]
    );
    assert_eq!(office.answered(*second, Answer::Claimed(vec![claim("k", 11)])), []);
    assert_eq!(office.after(5000), []);
    assert_eq!(office.desk.wake_at(), None);
}

#[test]
fn a_store_that_fails_gets_longer_pauses_and_an_answer_ends_them() {
    let mut office = office();
    office.read(1, "k");
    let (mut id, _) = office.sent();
    for pause in [50, 100, 200, 400] {
        assert_eq!(office.answered(id, away()), []);
        assert_eq!(office.after(pause - 1), [], "{pause}");
        (id, _) = office.sent();
    }
    office.answered(id, Answer::Found(vec![None]));
    office.read(2, "l");
    (id, _) = office.sent();
    assert_eq!(office.answered(id, away()), []);
    assert_eq!(office.after(49), []);
    office.sent();
}

#[test]
fn batches_that_fail_together_are_one_failure() {
    let mut office = office();
    let batches: Vec<_> = (0..3)
        .map(|waiter| {
            office.read(waiter, &waiter.to_string());
            office.sent()
        })
        .collect();
    for (id, _) in batches {
        office.answered(id, away());
    }
    assert_eq!(office.after(49), []);
    office.sent();
}

// B2: the reader who asked then has left; what it would have heard is old by now.
#[test]
fn an_answer_to_an_earlier_question_is_not_that_of_a_later_one() {
    let mut office = office();
    assert_eq!(read_briefly(&mut office, 1), None);
    let (first, _) = office.sent();
    office.after(9);
    office.read(2, "k");
    let (second, _) = office.sent();
    assert_eq!(office.answered(first, Answer::Found(vec![None])), []);
    assert_eq!(office.answered(second, Answer::Found(vec![None])), [(2, Outcome::Free)]);
}

// B1: catches a key that stands in the queue twice, after its first reader has left.
#[test]
fn a_key_is_sent_once_although_a_reader_left_meanwhile() {
    let mut office = office();
    office.read(1, "x");
    let (id, _) = office.sent();
    office.answered(id, away());
    assert_eq!(read_briefly(&mut office, 2), None);
    office.after(10);
    office.read(3, "k");
    assert_eq!(office.after(39), []);
    let (_, batch) = office.sent();
    let keys = ["x", "k"].map(|key| (name("im.conversation"), key.into()));
    assert_eq!(batch, Batch::LookUp(keys.to_vec()));
}

// B5: catches a question that is asked for ever for nobody.
#[test]
fn a_question_that_nobody_waits_for_is_not_asked_again() {
    let mut office = office();
    assert_eq!(read_briefly(&mut office, 1), None);
    office.sent();
    office.after(9);
    office.after(1000);
    assert_eq!(office.desk.wake_at(), None);
}

/// Reads key `k` with a patience of 10 ms.
fn read_briefly(office: &mut Office, waiter: u64) -> Option<Outcome> {
    let ask = Ask::Read(name("im.conversation"), "k".into());
    office.desk.ask(ask, Waiter(waiter), office.now + ms(10), office.now)
}

// B5
#[test]
fn nobody_waits_past_their_time_and_not_too_many_wait() {
    let mut office = Office::new(Limits {
        waiters_max: 2,
        ..Limits::default()
    });
    assert_eq!((office.read(1, "k"), office.read(2, "k")), (None, None));
    assert_eq!(office.read(3, "k"), Some(Outcome::Full));
    office.after(1);
    let told: Vec<_> = office
        .after(4999)
        .into_iter()
        .filter(|output| matches!(output, Output::Tell(..)))
        .map(told)
        .collect();
    assert_eq!(told, [(1, Outcome::Away), (2, Outcome::Away)]);
    let late = office
        .desk
        .ask(Ask::Read(name("d"), "k".into()), Waiter(4), office.now, office.now);
    assert_eq!(late, Some(Outcome::Away));
}

// B5: callers with little patience do not fill the queue while the store is away.
#[test]
fn keys_of_callers_that_left_are_bounded_too() {
    let mut office = Office::new(Limits {
        waiters_max: 4,
        ..Limits::default()
    });
    let mut full = 0;
    for number in 0..100_u64 {
        let ask = Ask::Read(name("d"), number.to_string().as_str().into());
        let outcome = office.desk.ask(ask, Waiter(number), office.now + ms(2), office.now);
        full += u32::from(outcome == Some(Outcome::Full));
        office.after(1);
        office.after(1);
    }
    assert!(full >= 80, "{full}");
}

#[test]
fn a_refusal_of_the_store_is_told_at_once() {
    let mut office = office();
    office.write(1, "k", 11);
    let (id, _) = office.sent();
    let denied = StoreError::Denied("not yours".to_owned());
    let text = denied.to_string();
    assert_eq!(
        office.answered(id, Answer::Failed(denied)),
        [(1, Outcome::Denied(text))]
    );
    assert_eq!(office.after(10_000), []);
}

#[test]
fn what_is_known_is_bounded() {
    let mut office = office();
    for number in 0..1000_u64 {
        let key = number.to_string();
        office.write(number, &key, 1);
        let (id, _) = office.sent();
        office.answered(id, Answer::Claimed(vec![claim(&key, 1)]));
    }
    assert!(office.desk.known().len() <= 100);
    assert!(!office.desk.known().is_empty());
}

#[test]
fn what_is_free_is_bounded() {
    let mut office = Office::new(Limits {
        free_max: 10,
        ..Limits::default()
    });
    let mut remembered = 0;
    for number in 0..50_u64 {
        let key = number.to_string();
        office.read(number, &key);
        nobody_has_them(&mut office);
        remembered += u32::from(office.read(1000 + number, &key) == Some(Outcome::Free));
    }
    assert_eq!(remembered, 10);
    office.now += ms(2000);
    office.read(1, "x");
    nobody_has_them(&mut office);
    assert_eq!(office.read(2, "x"), Some(Outcome::Free), "there is room again");
}

fn nobody_has_them(office: &mut Office) {
    let (id, batch) = office.sent();
    let Batch::LookUp(keys) = batch else {
        panic!("{batch:?}")
    };
    office.answered(id, Answer::Found(vec![None; keys.len()]));
}

// B6, R-3.12: a key that went elsewhere without the store is claimed for nobody else, and whoever waits is told.
#[test]
fn what_is_withdrawn_is_not_asked_for_again() {
    let mut office = Office::new(Limits::default());
    office.write(1, "k", 1);
    let (id, _) = office.sent();
    office.answered(id, Answer::Failed(StoreError::Away("test".to_owned())));
    let key = (name("im.conversation"), "k".into());
    office.desk.withdraw(&key, &mut office.out);
    assert_eq!(told(office.out.remove(0)), (1, Outcome::Away));
    assert_eq!(office.after(1000), []);
    // It may be claimed for where it went.
    office.write(2, "k", 2);
    let (id, batch) = office.sent();
    assert_eq!(batch, Batch::Claim(vec![claim("k", 2)]));
    // What was sent before may have been done all the same; then that is who has it.
    let said = office.answered(id, Answer::Claimed(vec![claim("k", 1)]));
    assert_eq!(said, [(2, lost("k", 1))]);
}

// away is a store that does not answer for as long as was said, be it that it refuses connections or hangs; not one that
// says no.
#[test]
fn the_store_is_away_when_it_has_not_answered_for_long_enough() {
    let away = || Answer::Failed(StoreError::Away("test".to_owned()));
    for hangs in [false, true] {
        let mut office = Office::new(Limits {
            away_after: ms(3000),
            ..Limits::default()
        });
        let start = office.now;
        let mut waiter = 0;
        let mut sent: Vec<BatchId> = Vec::new();
        while office.now < start + ms(4500) {
            waiter += 1;
            office.write(waiter, "k", 1);
            let is_away = office.desk.is_away(office.now, office.now);
            let silent = office.now.saturating_sub(start);
            // Whoever hangs is noticed a second later.
            let noticed = ms(if hangs { 1000 } else { 0 });
            assert!(!is_away || silent >= ms(3000) + noticed, "{silent:?}");
            assert!(is_away || silent <= ms(3100) + noticed, "{silent:?}");
            for output in office.after(10) {
                if let Output::Send(id, _) = output {
                    sent.push(id);
                }
            }
            if !hangs {
                for id in sent.drain(..) {
                    office.desk.answered(id, away(), office.now, 0, &mut office.out);
                }
                office.out.clear();
            }
        }
        // Silent for longer by what the feed says.
        assert!(office.desk.is_away(start, office.now));
        let denied = Answer::Failed(StoreError::Denied("test".to_owned()));
        office
            .desk
            .answered(BatchId(9999), denied, office.now, 0, &mut office.out);
        assert!(!office.desk.is_away(start, office.now), "it says no, so it is there");
    }
}
