use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::routing::record::Rev;
use crate::routing::{KeyHash, Known, Provisional};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn unit(text: &str) -> Target {
    Target::Unit(name(text))
}

fn key(number: u8) -> ClaimKey {
    (name("cid"), number.to_string().as_str().into())
}

fn choice(number: u8, target: &str) -> Choice {
    let (dimension, key) = key(number);
    Choice {
        dimension,
        key,
        target: unit(target),
        epoch: Epoch::new(0, Rev(7)),
        op: OpId(u128::from(number) << 64 | 5),
        at: 1000,
        conflict: None,
    }
}

/// Choices that are written as soon as they can be.
fn written(max: usize, choices: &[Choice]) -> Choices {
    let mut all = Choices::new(max, []);
    for choice in choices {
        assert!(all.add(choice.clone()));
    }
    assert_eq!(all.take_writes().len(), choices.len());
    assert_eq!(all.on_written(), choices);
    all
}

/// A folder of one test.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("strait-provisional-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

// F1
#[test]
fn nothing_goes_by_a_choice_before_it_is_on_disk() {
    let mut all = Choices::new(10, []);
    assert!(all.add(choice(1, "a")));
    assert_eq!(all.durable().count(), 0);
    assert_eq!(all.due(10), [], "it is not claimed either");
    let writes = all.take_writes();
    assert_eq!(writes, [Write::Put(choice(1, "a"))]);
    assert_eq!(all.durable().count(), 0);
    assert!(all.add(choice(2, "b")));
    assert_eq!(all.take_writes(), [], "one transaction at a time");
    assert_eq!(all.on_written(), [choice(1, "a")]);
    assert_eq!(all.durable().count(), 1);
    // What came meanwhile goes together.
    assert!(all.add(choice(3, "c")));
    assert_eq!(all.take_writes().len(), 2);
    // A disk that fails: what it had counts, and nothing is added.
    all.on_write_failed();
    assert_eq!(all.durable().collect::<Vec<_>>(), [&choice(1, "a")]);
    assert!(!all.add(choice(4, "a")) && all.is_broken());
    assert_eq!(all.take_writes(), []);
}

// F1: a key is put somewhere again while the disk is forgetting where it was.
#[test]
fn a_choice_is_not_on_disk_because_an_earlier_one_of_its_key_was_removed() {
    let mut all = written(10, &[choice(1, "a")]);
    all.due(1);
    assert_eq!(
        all.settle(&key(1), (&unit("a"), Epoch::default()), 0),
        Some(Settled::Confirmed)
    );
    assert_eq!(all.take_writes(), [Write::Remove(key(1))]);
    assert!(all.add(choice(1, "b")));
    assert_eq!(all.on_written(), []);
    assert_eq!(all.durable().count(), 0);
    assert_eq!(all.take_writes(), [Write::Put(choice(1, "b"))]);
    assert_eq!(all.on_written(), [choice(1, "b")]);
}

// F4
#[test]
fn a_choice_ends_by_its_claim_and_a_conflict_by_an_operator() {
    let mut all = written(10, &[choice(1, "a"), choice(2, "b")]);
    assert_eq!(all.dismiss(&key(1)), Err(NotDismissed::Pending));
    assert_eq!(all.dismiss(&key(9)), Err(NotDismissed::Unknown));
    assert_eq!(all.due(10).len(), 2);
    // By another relay, for the same unit: that is what counts.
    assert_eq!(
        all.settle(&key(1), (&unit("a"), Epoch::new(0, Rev(9))), 0),
        Some(Settled::Confirmed)
    );
    let claimed = (&unit("c"), Epoch::new(0, Rev(9)));
    assert_eq!(all.settle(&key(2), claimed, 2000), Some(Settled::Conflict));
    assert_eq!(all.settle(&key(2), claimed, 3000), None, "found once");
    let counts = Counts {
        pending: 0,
        conflicts: 1,
    };
    assert_eq!(all.counts(), counts);
    assert_eq!(all.due(10), [], "it is not claimed again");
    let conflict = Conflict {
        target: unit("c"),
        base: Epoch::new(0, Rev(9)),
        at: 2000,
    };
    let kept = Choice {
        conflict: Some(conflict),
        ..choice(2, "b")
    };
    assert_eq!(all.rows(10), std::slice::from_ref(&kept));
    assert_eq!(all.take_writes(), [Write::Remove(key(1)), Write::Put(kept)]);
    all.on_written();
    assert_eq!(all.dismiss(&key(2)), Ok(()));
    assert!(!all.is_written(&key(2)));
    assert_eq!(all.take_writes(), [Write::Remove(key(2))]);
    assert!(!all.is_written(&key(2)));
    all.on_written();
    assert!(all.is_written(&key(2)));
    assert_eq!(all.counts(), Counts::default());
}

// F5
#[test]
fn what_has_no_room_is_refused_until_there_is_some() {
    let mut all = written(2, &[choice(1, "a"), choice(2, "a")]);
    assert!(all.is_full() && !all.add(choice(3, "a")));
    all.due(10);
    all.settle(&key(1), (&unit("b"), Epoch::default()), 0);
    assert!(all.is_full(), "conflicts count too");
    all.settle(&key(2), (&unit("a"), Epoch::default()), 0);
    assert!(all.add(choice(3, "a")));
}

#[test]
fn all_have_their_turn_to_be_claimed() {
    let choices: Vec<_> = (0..7).map(|number| choice(number, "a")).collect();
    let mut all = written(10, &choices);
    let mut seen = BTreeMap::new();
    for _ in 0..20 {
        for due in all.due(3) {
            *seen.entry(due.claim_key()).or_insert(0) += 1;
            all.on_unanswered(&due.claim_key());
        }
    }
    assert!(seen.len() == 7 && seen.values().all(|count| *count > 4), "{seen:?}");
    let rest = [all.due(10), all.due(10)].concat();
    assert_eq!(rest.len(), 7);
    assert_eq!(all.due(10), [], "each is being claimed");
    assert_eq!(all.ask(&key(1)), None);
    all.on_unanswered(&key(1));
    assert_eq!(all.ask(&key(1)), Some(choice(1, "a")));
}

// F1, F3: a relay that starts anew has the same choices, with the same operation numbers, and the same conflicts.
#[test]
fn the_file_has_what_was_written_after_a_restart() {
    let path = folder("restart").join("provisional.redb");
    let (file, found) = ProvisionalFile::open(&path).unwrap();
    assert_eq!(found, []);
    let mut all = Choices::new(10, found);
    for number in 1..=3 {
        all.add(choice(number, "a"));
    }
    file.write(&all.take_writes()).unwrap();
    all.on_written();
    let asked = all.due(10);
    all.settle(&key(1), (&unit("a"), Epoch::default()), 0);
    all.settle(&key(2), (&unit("b"), Epoch::new(0, Rev(8))), 77);
    file.write(&all.take_writes()).unwrap();
    all.on_written();
    let rows = all.rows(10);
    drop(file);
    let (_file, found) = ProvisionalFile::open(&path).unwrap();
    let mut again = Choices::new(10, found);
    assert_eq!(again.rows(10), rows);
    assert_eq!(again.counts(), all.counts());
    assert_eq!(again.due(10), asked[2..], "F3: claimed with the same number");
    let second = ProvisionalFile::open(&path).err().expect("one process has it");
    assert!(second.to_string().contains("another relay"), "{second}");
}

/// What happens to choices.
#[derive(Clone, Debug)]
enum Event {
    Choose(u8, &'static str),
    Write,
    Claimed(u8, &'static str),
    Dismiss(u8),
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    let number = 0..5_u8;
    let unit = prop::sample::select(vec!["a", "b"]);
    prop_oneof![
        4 => (number.clone(), unit.clone()).prop_map(|(number, unit)| Event::Choose(number, unit)),
        4 => Just(Event::Write),
        3 => (number.clone(), unit).prop_map(|(number, unit)| Event::Claimed(number, unit)),
        1 => number.prop_map(Event::Dismiss),
        1 => Just(Event::Crash),
    ]
}

proptest! {
    // F1, F3, F4: whenever the process dies, all that was in use and is not settled is there again, and nothing has changed its mind.
    #[test]
    fn what_was_in_use_is_there_again_after_a_crash(events in prop::collection::vec(event(), 1..80)) {
        let mut disk: BTreeMap<ClaimKey, Choice> = BTreeMap::new();
        let mut all = Choices::new(4, []);
        let mut used: BTreeMap<ClaimKey, Choice> = BTreeMap::new();
        let mut numbers = 0;
        for event in events {
            match event {
                Event::Choose(number, target) => {
                    numbers += 1;
                    all.add(Choice { op: OpId(numbers), ..choice(number, target) });
                }
                Event::Write => {
                    for write in all.take_writes() {
                        match write {
                            Write::Put(choice) => disk.insert(choice.claim_key(), choice),
                            Write::Remove(key) => disk.remove(&key),
                        };
                    }
                    for choice in all.on_written() {
                        used.insert(choice.claim_key(), choice);
                    }
                }
                Event::Claimed(number, target) => match all.settle(&key(number), (&unit(target), Epoch::default()), 0) {
                    Some(Settled::Confirmed) => prop_assert_eq!(used.remove(&key(number)).unwrap().target, unit(target)),
                    Some(Settled::Conflict) => prop_assert_ne!(&used[&key(number)].target, &unit(target)),
                    None => {}
                },
                Event::Dismiss(number) => {
                    if all.dismiss(&key(number)).is_ok() {
                        used.remove(&key(number));
                    }
                }
                Event::Crash => all = Choices::new(4, disk.values().cloned()),
            }
            prop_assert!(all.counts().pending + all.counts().conflicts <= 4);
            for (key, choice) in &used {
                let kept = all.get(key).expect("what is in use is not lost");
                prop_assert_eq!((&kept.target, kept.op), (&choice.target, choice.op));
                prop_assert!(disk.contains_key(key));
            }
            // What a crash left that had ended is claimed again, or dismissed again; it is in use until then.
            for choice in all.durable() {
                used.entry(choice.claim_key()).or_insert_with(|| choice.clone());
            }
        }
    }
}

// F2
#[test]
fn choices_count_only_while_the_store_is_away_and_a_claim_wins() {
    let chosen = Chosen::default();
    let hash = KeyHash(1);
    chosen.insert(hash, &choice(1, "a"));
    assert_eq!(chosen.find(hash), Provisional::Nothing);
    assert!(chosen.set(true, false) && !chosen.set(true, false));
    let known = |target: &str, base, as_of| {
        Provisional::Chosen(Known {
            target: unit(target),
            base: Epoch::new(0, Rev(base)),
            as_of: Epoch::new(0, Rev(as_of)),
        })
    };
    assert_eq!(chosen.find(hash), known("a", 0, 7));
    assert_eq!(chosen.find(KeyHash(2)), Provisional::Nothing);
    assert!(chosen.set(true, true));
    assert_eq!(chosen.find(KeyHash(2)), Provisional::Full);
    let conflict = Conflict {
        target: unit("b"),
        base: Epoch::new(0, Rev(9)),
        at: 0,
    };
    let lost = Choice {
        conflict: Some(conflict),
        ..choice(1, "a")
    };
    chosen.insert(hash, &lost);
    assert_eq!(
        chosen.find(hash),
        known("b", 9, 9),
        "what the claim says, also in the next outage"
    );
    assert!(chosen.set(false, true));
    assert_eq!(chosen.find(hash), Provisional::Nothing);
    assert_eq!(chosen.find(KeyHash(2)), Provisional::Nothing);
}
