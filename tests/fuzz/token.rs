//! Fields of route tokens, and files of the keys they are signed with.

use strait::model::{ANY_KEY, Key, Name, RouteHints};
use strait::routing::record::{Book, Change, DimensionSpec, Epoch, Placement, Record, RecordId, Rev, Snapshot};
use strait::routing::token::{Brought, CheckOutcome, PRESENTED_MAX, Ring, Secrets, With, presented};
use strait::routing::{RouteError, RouteTable, Routes, Source};
use zeroize::Zeroizing;

/// Bytes as a field that a caller wrote: what opens for one key can be issued again, to the same text, and opens for no
/// other key. The same bytes as a file of keys: what is accepted never holds more than four.
pub fn token(data: &[u8]) {
    let ring = ring("5a".repeat(32)).expect("a key");
    let mut entries = 0;
    for entry in presented([data]).inspect(|_| entries += 1).flatten() {
        assert!(!entry.dimension.is_empty() && !entry.text.contains(&b','));
        let Ok(dimension) = Name::new(entry.dimension) else {
            continue;
        };
        let Ok(token) = ring.open(entry.text, &dimension, KEY, NOW) else {
            continue;
        };
        let again = ring.issue(&dimension, KEY, &token).expect("it was issued before");
        assert_eq!(again.as_bytes(), entry.text, "two texts are the same token");
        assert!(ring.open(entry.text, &dimension, b"another key", NOW).is_err());
    }
    assert!(entries <= PRESENTED_MAX + 1);
    let _ = ring_of(data);
}

/// Bytes as the field of a call whose key nobody has decided about: whatever stands there, the call is resolved as by a token
/// of this relay for this key, or as without one; nothing else comes of it.
pub fn token_evidence(data: &[u8]) {
    let ring = ring("5a".repeat(32)).expect("a key");
    let name = |text| Name::new(text).expect("a name");
    let dimension = DimensionSpec {
        placement: Placement::Claim(Vec::new()),
        ..DimensionSpec::new(name("im.conversation"))
    };
    let book = Book {
        units: vec![name("a"), name("b")],
        dimensions: vec![dimension],
        rules: Vec::new(),
        ..Book::default()
    };
    let routes = Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(1000)),
        seed: 7,
        changes: vec![Change {
            rev: Rev(1),
            id: RecordId::Book,
            record: Some(Record::Book(book)),
        }],
    });
    let routes = std::sync::Arc::new(routes);
    let settings = strait::routing::Settings::default();
    let table = RouteTable::build(&settings, &name("a"), []).expect("no rules");
    let table = table.with_routes(std::sync::Arc::clone(&routes));
    let hints = RouteHints {
        keys: vec![Key {
            dimension: "im.conversation".into(),
            key: KEY.into(),
        }],
        ..RouteHints::default()
    };
    let with = With {
        ring: &ring,
        routes: &routes,
        field: data,
        now: NOW,
        lost: Epoch::default(),
    };
    let brought = Brought::new(&(), Some(with));
    let here = name("a");
    let resolved = table.resolve(&hints, &ANY_KEY, &here, &brought);
    let check = brought.checked();
    match resolved {
        Ok(decision) => {
            assert_eq!(decision.source, Source::Token);
            assert_eq!(check.map(|check| check.outcome), Some(CheckOutcome::Current));
        }
        Err(RouteError::Unclaimed { .. }) => {
            assert!(check.is_none_or(|check| check.outcome != CheckOutcome::Current));
        }
        // Of a token that this relay has signed itself.
        Err(_) => assert!(check.is_some_and(|check| check.token.is_some())),
    }
}

fn ring_of(data: &[u8]) -> Option<Ring> {
    ring(String::from_utf8(data.to_vec()).ok()?)
}

fn ring(file: String) -> Option<Ring> {
    let secrets = Secrets::parse(Zeroizing::new(file)).ok()?;
    Some(Ring::new(secrets, 1, NOW))
}

const NOW: u64 = 1_795_651_200;
const KEY: &[u8] = b"cid:1:42";
