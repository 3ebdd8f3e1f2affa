//! What copies promise over any history.

use super::*;
use crate::routing::evidence::{Found, Known};

/// Rooms were claimed by unit b when the book was published.
struct Claimed {
    as_of: Epoch,
}

impl Evidence for Claimed {
    fn claim(&self, _: &Name, _: &[u8], _: KeyHash) -> Found {
        Found::Known(Known {
            target: Target::Unit(name("b")),
            base: Epoch::new(3, Rev(1)),
            as_of: self.as_of,
        })
    }
}

fn claimed(routes: &Routes) -> Claimed {
    Claimed { as_of: routes.epoch() }
}

proptest! {
    // R-I4: the epoch of a key never goes back, and rises when the owner changes.
    #[test]
    fn epochs_of_keys_only_rise(steps in prop::collection::vec(step(), 1..50)) {
        let mut routes = empty();
        let mut before: Vec<Option<(UnitId, Epoch, Standing)>> = questions().map(|_| None).collect();
        for batch in batches(&steps) {
            routes = routes.apply(&batch).unwrap();
            for (was, is) in before.iter_mut().zip(all(&routes, &claimed(&routes))) {
                let Ok(is) = is else { continue };
                if let Some((owner, epoch, _)) = &*was {
                    prop_assert!(is.1 >= *epoch, "{was:?} {is:?}");
                    prop_assert!(*owner == is.0 || is.1 > *epoch, "{was:?} {is:?}");
                }
                *was = Some(is);
            }
        }
    }

    // R-I6, R-I13: by batches, by a snapshot, by both or from a file, a copy is the same.
    #[test]
    fn copies_of_one_revision_are_alike_however_they_got_there(
        steps in prop::collection::vec(step(), 1..50), cut in any::<prop::sample::Index>(),
    ) {
        let batches = batches(&steps);
        let (early, late) = batches.split_at(1 + cut.index(batches.len()));
        let by_batches = replayed(&batches);
        let by_snapshot = Routes::from_snapshot(&snapshot(&batches));
        let by_both = late.iter().fold(Routes::from_snapshot(&snapshot(early)), |routes, batch| {
            routes.apply(batch).unwrap()
        });
        let whole = Batch {
            prev: Rev(0),
            rev: by_batches.rev(),
            changes: batches.iter().flat_map(|batch| batch.changes.clone()).rev().collect::<Vec<_>>(),
        };
        // Of one record the last change only, in any order.
        let mut seen = BTreeSet::new();
        let whole = Batch {
            changes: whole.changes.into_iter().filter(|change| seen.insert(change.id.clone())).collect(),
            ..whole
        };
        let by_one = empty().apply(&whole).unwrap();
        let by_file = Routes::load(&by_batches.save()).unwrap();
        let moving = |routes: &Routes| {
            let mut moving: Vec<_> = routes.moving().map(|node| (node.id.clone(), node.rev)).collect();
            moving.sort();
            moving
        };
        for other in [by_snapshot, by_both, by_one, by_file] {
            prop_assert_eq!(other.epoch(), by_batches.epoch());
            prop_assert_eq!(other.digest(), by_batches.digest());
            prop_assert_eq!(all(&other, &claimed(&other)), all(&by_batches, &claimed(&by_batches)));
            prop_assert_eq!(pasts(&other, &claimed(&other)), pasts(&by_batches, &claimed(&by_batches)));
            prop_assert_eq!(moving(&other), moving(&by_batches));
            prop_assert!(other.moves().eq(by_batches.moves()));
            prop_assert!(other.finished_moves().eq(by_batches.finished_moves()));
            prop_assert_eq!(other.counts, by_batches.counts);
            prop_assert_eq!(other.overrides_len(), by_batches.overrides_len());
        }
        // What moves is what the records say.
        let expected = snapshot(&batches).changes.into_iter().filter(|change| {
            matches!(&change.record, Some(Record::Node(node)) if node.state.work().is_some())
        });
        prop_assert_eq!(by_batches.moving().count(), expected.count());
        prop_assert_eq!(by_batches.moving.len(), by_batches.moving().count());
    }

    // R-I13
    #[test]
    fn a_batch_that_does_not_begin_where_the_copy_stands_changes_nothing(
        steps in prop::collection::vec(step(), 2..20), at in any::<prop::sample::Index>(), next in any::<prop::sample::Index>(),
    ) {
        let batches = batches(&steps);
        let routes = replayed(&batches[..at.index(batches.len())]);
        let batch = &batches[next.index(batches.len())];
        match routes.apply(batch) {
            Ok(after) => prop_assert_eq!((batch.prev, after.rev()), (routes.rev(), batch.rev)),
            Err(gap) => {
                prop_assert_eq!(gap, Gap { at: routes.rev(), prev: batch.prev });
                prop_assert_ne!(gap.at, gap.prev);
            }
        }
    }

    // C1: what is asked of a copy is answered alike after others were made of it.
    #[test]
    fn a_copy_never_changes(steps in prop::collection::vec(step(), 2..30), at in any::<prop::sample::Index>()) {
        let batches = batches(&steps);
        let (early, late) = batches.split_at(1 + at.index(batches.len() - 1));
        let routes = replayed(early);
        let before = (all(&routes, &claimed(&routes)), routes.digest(), routes.moving().count());
        let after = late.iter().fold(routes.clone(), |routes, batch| routes.apply(batch).unwrap());
        prop_assert!(after.rev() > routes.rev());
        prop_assert_eq!(before, (all(&routes, &claimed(&routes)), routes.digest(), routes.moving().count()));
    }

    // C3: two copies that differ in one record have different digests.
    #[test]
    fn a_lost_change_shows_in_the_digest(steps in prop::collection::vec(step(), 1..30), at in any::<prop::sample::Index>()) {
        let whole = snapshot(&batches(&steps));
        let mut lossy = whole.clone();
        lossy.changes.remove(at.index(whole.changes.len()));
        prop_assert_ne!(Routes::from_snapshot(&whole).digest(), Routes::from_snapshot(&lossy).digest());
    }

    // What is written is found: with the revision a compare needs, whatever the copy keeps of it.
    #[test]
    fn a_view_of_a_node_says_what_was_decided_last(steps in prop::collection::vec(step(), 1..40)) {
        let batches = batches(&steps);
        let routes = replayed(&batches);
        for change in snapshot(&batches).changes {
            if let Some(Record::Node(node)) = change.record {
                let view = routes.view(&node.id).unwrap();
                prop_assert_eq!(view.rev(), change.rev);
                prop_assert_eq!(view.state(), &node.state);
                let unit = match &node.target {
                    Target::Unit(unit) if node.state != State::Tombstone => Some(unit),
                    _ => None,
                };
                prop_assert_eq!(view.unit(), unit);
            }
        }
    }
}

#[test]
fn a_book_that_drops_a_unit_leaves_the_numbers_of_the_others() {
    // The store refuses such a book; a copy that took it all the same must not give keys to others.
    let steps = [Step::Put(key_id("cid", 1), Target::Unit(name("c")), State::Active)];
    let routes = replayed(&batches(&steps));
    let mut book = book();
    book.units.remove(0);
    let batch = Batch {
        prev: routes.rev(),
        rev: routes.rev().next(),
        changes: vec![Change {
            rev: routes.rev().next(),
            id: RecordId::Book,
            record: Some(Record::Book(book)),
        }],
    };
    let after = routes.apply(&batch).unwrap();
    for routes in [&after, &Routes::load(&after.save()).unwrap()] {
        assert_eq!(resolve(routes, &[key("cid", 1)]).unwrap().0, name("c"));
    }
}
