//! Single ways of a key to its unit.

use super::*;
use crate::routing::explain::Recorder;

#[test]
fn a_frozen_bucket_freezes_its_keys_and_a_key_of_its_own_goes_its_own_way() {
    let by = MoveId(9);
    let frozen = State::Frozen { to: name("c"), by };
    let steps = [
        Step::Put(bucket_id(1), Target::Unit(name("b")), frozen),
        Step::Put(key_id("cid", 2), Target::Unit(name("c")), State::Active),
    ];
    let routes = replayed(&batches(&steps));
    let (unit, epoch, standing) = resolve(&routes, &[key("cid", 1)]).unwrap();
    assert_eq!((unit.as_str(), epoch), ("b", Epoch::new(3, Rev(2))));
    assert_eq!(standing, Standing::Frozen { by, rev: Rev(2) });
    let (unit, epoch, standing) = resolve(&routes, &[key("cid", 2)]).unwrap();
    assert_eq!(
        (unit.as_str(), epoch, standing),
        ("c", Epoch::new(3, Rev(3)), Standing::Open)
    );
    assert_eq!(routes.moving().count(), 1);
}

#[test]
fn of_two_freezes_the_newer_one_is_told() {
    // Whatever the numbers of the moves are.
    let frozen = |by| State::Frozen {
        to: name("c"),
        by: MoveId(by),
    };
    let steps = [
        Step::Put(key_id("cid", 1), Target::Follow(name("org")), frozen(99)),
        Step::Put(key_id("org", 1), Target::Unit(name("a")), frozen(5)),
    ];
    let routes = replayed(&batches(&steps));
    let (_, _, standing) = resolve(&routes, &[key("cid", 1), key("org", 1)]).unwrap();
    let newer = Standing::Frozen {
        by: MoveId(5),
        rev: Rev(3),
    };
    assert_eq!(standing, newer);
}

fn group(dimension: &str, number: u8) -> Target {
    Target::Group {
        dimension: name(dimension),
        key: number.to_string().as_str().into(),
    }
}

#[test]
fn keys_lead_to_keys_three_deep_and_never_in_a_circle() {
    let active = |id, target| Step::Put(id, target, State::Active);
    let steps = [
        active(key_id("cid", 1), group("cid", 2)),
        active(key_id("cid", 2), group("cid", 3)),
        active(key_id("cid", 3), Target::Unit(name("c"))),
    ];
    let routes = replayed(&batches(&steps));
    let (unit, epoch, _) = resolve(&routes, &[key("cid", 1)]).unwrap();
    assert_eq!((unit.as_str(), epoch.rev()), ("c", Rev(4)));

    let deeper = [&steps[..2], &[active(key_id("cid", 3), group("cid", 4))]].concat();
    let error = resolve(&replayed(&batches(&deeper)), &[key("cid", 1)]).unwrap_err();
    assert_eq!(error, RouteError::TooDeep { dimension: name("cid") });

    let circle = [&steps[..1], &[active(key_id("cid", 2), group("cid", 1))]].concat();
    let error = resolve(&replayed(&batches(&circle)), &[key("cid", 1)]).unwrap_err();
    assert_eq!(error, RouteError::Circle { dimension: name("cid") });
}

#[test]
fn what_a_call_must_bring_is_said() {
    let steps = [Step::Put(key_id("cid", 1), Target::Follow(name("org")), State::Active)];
    let routes = replayed(&batches(&steps));
    let error = resolve(&routes, &[key("cid", 1)]).unwrap_err();
    assert_eq!(error, RouteError::NoParent { dimension: name("org") });

    let long = |dimension: &'static str| Key {
        dimension: Bytes::from_static(dimension.as_bytes()),
        key: Bytes::from(vec![b'1'; 257]),
    };
    for (keys, found) in [(vec![long("cid")], "cid"), (vec![key("cid", 1), long("org")], "org")] {
        let error = resolve(&routes, &keys).unwrap_err();
        let expected = RouteError::KeyTooLong {
            dimension: name(found),
            bytes_max: 256,
        };
        assert_eq!(error, expected);
    }
    let error = resolve(&routes, &[key("room", 1)]).unwrap_err();
    let unclaimed = RouteError::Unclaimed {
        dimension: name("room"),
        looked_up: false,
    };
    assert_eq!(error, unclaimed);
}

/// What was looked at, and whether it decided.
#[derive(Default)]
struct Seen(Vec<(String, bool, String)>);

impl Recorder for Seen {
    fn step(&mut self, looked_at: &str, matched: bool, why: impl FnOnce() -> String) {
        self.0.push((looked_at.to_owned(), matched, why()));
    }
}

// C-R4
#[test]
fn an_explanation_tells_every_record_on_the_way() {
    let by = MoveId(9);
    let takeover = vec![(name("b"), 1)];
    let steps = [
        Step::Put(key_id("cid", 1), Target::Unit(name("c")), State::Tombstone),
        Step::Put(bucket_id(1), group("org", 1), State::Frozen { to: name("c"), by }),
        Step::Put(
            NodeId::Unit(name("a")),
            Target::Unit(name("a")),
            State::Evacuated { takeover },
        ),
    ];
    let routes = replayed(&batches(&steps));
    let mut seen = Seen::default();
    let found = routes
        .resolve(&hints(&[key("cid", 1)]), &[], &(), &mut seen)
        .unwrap()
        .unwrap();
    assert_eq!(found.unit.as_str(), "b");
    let text = |step: &(String, bool, String)| format!("{} {}: {}", step.0, step.1, step.2);
    let lines: Vec<_> = seen.0.iter().map(text).collect();
    for expected in [
        "key false: what was decided about it was taken back at revision 2",
        "hash true: book.rules[1] gives the key to unit a",
        "bucket true: it belongs to a group of org, since revision 3; move 0000000000000009 has frozen it on its way to unit c",
        "follow true: the key of org decides",
        "key false: nothing was decided about the key alone",
        "default true: book.rules[0] gives the key to unit a",
        "unit true: unit a was evacuated at revision 4; unit b has the key in its place",
        "epoch true: move 0000000000000009 froze it at revision 3: writes wait; epoch 3.4",
    ] {
        let is_told = lines
            .iter()
            .any(|line| line == expected || line.starts_with(&format!("{expected} ")));
        assert!(is_told, "{expected}\n{lines:#?}");
    }
}
