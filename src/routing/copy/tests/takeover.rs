//! Units whose keys others have (R-I18).

use super::*;

/// Many conversations, each in a bucket of unit a or b.
fn owners(routes: &Routes) -> Vec<UnitId> {
    let keys = (0..2000_u32).map(|number| Key {
        dimension: Bytes::from_static(b"cid"),
        key: Bytes::from(format!("conversation-{number}")),
    });
    keys.map(|key| resolve(routes, &[key]).unwrap().0).collect()
}

fn evacuated(unit: &str, takeover: &[(&str, u16)]) -> Step {
    let takeover = takeover.iter().map(|(unit, weight)| (name(unit), *weight)).collect();
    let own = name(unit);
    Step::Put(
        NodeId::Unit(own.clone()),
        Target::Unit(own),
        State::Evacuated { takeover },
    )
}

#[test]
fn only_the_keys_of_an_evacuated_unit_move_and_they_come_back() {
    let back = Step::Put(NodeId::Unit(name("a")), Target::Unit(name("a")), State::Active);
    let steps = [evacuated("a", &[("b", 3), ("c", 1)]), back];
    let all = batches(&steps);
    let [before, during, after] = [1, 2, 3].map(|count| owners(&replayed(&all[..count])));
    let mut shares = [0, 0];
    for (was, is) in before.iter().zip(&during) {
        if was.as_str() == "b" {
            assert_eq!(is, was);
        } else {
            shares[usize::from(is.as_str() == "c")] += 1;
        }
    }
    assert!(shares[0] > 2 * shares[1] && shares[1] > 150, "{shares:?}");
    assert_eq!(before, after);
}

#[test]
fn a_unit_that_took_over_and_is_evacuated_itself_is_followed() {
    let keys = [key("org", 1)];
    let steps = [evacuated("a", &[("b", 1)]), evacuated("b", &[("c", 1)])];
    let (unit, epoch, _) = resolve(&replayed(&batches(&steps)), &keys).unwrap();
    assert_eq!((unit, epoch.rev()), (name("c"), Rev(3)));
    // Each names the other one.
    let steps = [evacuated("a", &[("b", 1)]), evacuated("b", &[("a", 1)])];
    let nobody = |steps: &[Step], rev| {
        let routes = replayed(&batches(steps));
        let epoch = Epoch::new(routes.epoch().incarnation(), Rev(rev));
        // The one that owns the key is named, though who took over from it has gone, too.
        let unit = name("a");
        assert_eq!(
            resolve(&routes, &keys).unwrap_err(),
            RouteError::NobodyTookOver { unit, epoch }
        );
    };
    nobody(&steps, 3);
    nobody(&[evacuated("a", &[("b", 0)])], 2);
    nobody(&[evacuated("a", &[("b", 1)]), evacuated("b", &[("c", 0)])], 3);
}

#[test]
fn a_unit_that_is_being_fenced_freezes_the_keys_it_has_and_took_over() {
    let by = MoveId(5);
    let fencing = |unit| {
        Step::Put(
            NodeId::Unit(name(unit)),
            Target::Unit(name(unit)),
            State::Fencing { by },
        )
    };
    let frozen = |rev| Standing::Frozen { by, rev };
    let keys = [key("org", 1)];
    let routes = replayed(&batches(&[fencing("a")]));
    assert_eq!(resolve(&routes, &keys).unwrap().2, frozen(Rev(2)));
    assert!(!routes.is_active(&name("a")) && routes.is_active(&name("b")));
    let routes = replayed(&batches(&[evacuated("a", &[("b", 1)]), fencing("b")]));
    assert_eq!(resolve(&routes, &keys).unwrap().2, frozen(Rev(3)));
    let states: Vec<_> = routes
        .units()
        .map(|(unit, state)| (unit.as_str(), state.is_frozen()))
        .collect();
    assert_eq!(states, [("a", false), ("b", true), ("c", false)]);
}
