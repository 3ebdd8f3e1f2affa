//! Fields of route tokens, and files of the keys they are signed with.

use strait::model::Name;
use strait::routing::token::{PRESENTED_MAX, Ring, Secrets, presented};
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

fn ring_of(data: &[u8]) -> Option<Ring> {
    ring(String::from_utf8(data.to_vec()).ok()?)
}

fn ring(file: String) -> Option<Ring> {
    let secrets = Secrets::parse(Zeroizing::new(file)).ok()?;
    Some(Ring::new(secrets, 1, NOW))
}

const NOW: u64 = 1_795_651_200;
const KEY: &[u8] = b"cid:1:42";
