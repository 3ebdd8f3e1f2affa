//! Which calls a barrier waits for (R-3.9 S4).

use super::*;

fn trail(routes: &Routes, keys: &[Key]) -> Option<Trail> {
    let mut trail = Trail::default();
    let found = routes.resolve(&hints(keys), &[], &(), &mut trail).unwrap();
    found.ok().map(|_| trail)
}

proptest! {
    // P1: what would be refused because of a freeze now, and was admitted before, is waited for, whatever happened between.
    #[test]
    fn no_call_that_a_freeze_concerns_is_missed(steps in prop::collection::vec(step(), 2..40)) {
        let mut early: Vec<(Vec<Key>, Trail)> = Vec::new();
        let mut routes = empty();
        for batch in batches(&steps) {
            let before = routes.rev();
            routes = routes.apply(&batch).unwrap();
            let frozen: Vec<_> = routes.moving().filter(|node| node.state.is_frozen()).cloned().collect();
            for (keys, trail) in &early {
                let Ok((_, _, Standing::Frozen { by, rev })) = resolve(&routes, keys) else { continue };
                let node = frozen.iter().find(|node| node.rev == rev && node.state.work() == Some(by)).unwrap();
                let through = routes.through(&node.id, node.rev);
                // P2
                prop_assert_eq!(through.passes(trail), trail.at() < rev, "{:?} {:?} at {}", keys, node, before);
            }
            early.extend(questions().filter_map(|keys| trail(&routes, &keys).map(|trail| (keys, trail))));
        }
    }
}

#[test]
fn calls_of_other_keys_are_not_waited_for() {
    let frozen = || State::Frozen {
        to: name("c"),
        by: MoveId(1),
    };
    let steps = [
        // Conversation 2 has a record of its own, and so its bucket does not matter to it.
        Step::Put(key_id("cid", 2), Target::Unit(name("a")), State::Active),
        Step::Put(key_id("cid", 3), Target::Follow(name("org")), State::Active),
        Step::Put(bucket_id(1), Target::Unit(name("a")), frozen()),
        Step::Put(bucket_id(2), Target::Unit(name("a")), frozen()),
        Step::Put(key_id("org", 7), Target::Unit(name("a")), frozen()),
        Step::Put(
            NodeId::Rule {
                dimension: name("org"),
                rule: 1,
            },
            Target::Unit(name("a")),
            frozen(),
        ),
    ];
    let all = batches(&steps);
    let (early, late) = (replayed(&all[..3]), replayed(&all));
    let waits = |node: &NodeId, keys: &[Key]| {
        let rev = late.node(node).unwrap().rev;
        late.through(node, rev).passes(&trail(&early, keys).unwrap())
    };
    let rule = NodeId::Rule {
        dimension: name("org"),
        rule: 1,
    };
    let (one, two) = (key("cid", 1), key("cid", 2));
    let follows = |org| [key("cid", 3), key("org", org)];
    assert!(waits(&bucket_id(1), std::slice::from_ref(&one)));
    assert!(!waits(&bucket_id(2), std::slice::from_ref(&one)));
    assert!(!waits(&bucket_id(2), &[two]));
    assert!(waits(&key_id("org", 7), &follows(7)) && !waits(&key_id("org", 7), &follows(8)));
    assert!(waits(&rule, &follows(8)) && !waits(&rule, &[one]));
}
