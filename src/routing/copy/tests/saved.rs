//! Files.

use super::*;

proptest! {
    #[test]
    fn a_damaged_file_is_refused(steps in prop::collection::vec(step(), 1..10), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let bytes = replayed(&batches(&steps)).save();
        let at = at.index(bytes.len());
        prop_assert!(Routes::load(&bytes[..at]).is_err());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        prop_assert!(Routes::load(&flipped).is_err());
        let mut longer = bytes;
        longer.push(0);
        prop_assert!(Routes::load(&longer).is_err());
    }

    // Nothing in a file makes it take more memory than the file has, or stop.
    #[test]
    fn garbage_with_a_good_sum_is_refused(mut rest in prop::collection::vec(any::<u8>(), 0..300), overrides in 0_u64..4, pasts in 0_u64..4) {
        let mut bytes = b"strait-routes\n\x02\0\0\0".to_vec();
        let body = u64::try_from(rest.len()).unwrap().saturating_sub((overrides + pasts) * 24);
        bytes.extend(overrides.to_le_bytes());
        bytes.extend(pasts.to_le_bytes());
        bytes.extend(body.to_le_bytes());
        bytes.extend(crc32c::crc32c(&rest).to_le_bytes());
        bytes.append(&mut rest);
        prop_assert!(Routes::load(&bytes).is_err());
    }
}

#[test]
fn a_file_of_another_version_is_foreign() {
    let mut bytes = replayed(&batches(&[])).save();
    bytes[14] = 1;
    assert!(matches!(Routes::load(&bytes), Err(SavedError::Foreign)));
    assert!(matches!(Routes::load(b"something else"), Err(SavedError::Foreign)));
}
