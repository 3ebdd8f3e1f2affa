//! The hash that shares keys out by percent. Written down so that any language can repeat it.
//!
//! ```text
//! h = 0xcbf29ce484222325                          FNV-1a, 64 bits, over the bytes of the key
//! for b in key: h = (h xor b) * 0x100000001b3
//! h = h xor (h >> 33); h = h * 0xff51afd7ed558ccd    finalizer of MurmurHash3
//! h = h xor (h >> 33); h = h * 0xc4ceb9fe1a85ec53
//! h = h xor (h >> 33)
//! bucket = h >> 52                                the top 12 bits
//! ```

/// Number of buckets of a dimension.
pub const BUCKETS: u16 = 4096;

/// The bucket of a key, below [`BUCKETS`]. Never changes (R4).
pub fn bucket(key: &[u8]) -> u16 {
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    // Twelve bits always fit.
    u16::try_from(hash >> 52).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_a_key_never_changes() {
        // R4. Computed once with an independent implementation of the text above.
        for (key, expected) in [
            ("", VECTORS[0]),
            ("1000", VECTORS[1]),
            ("cid:1:42", VECTORS[2]),
            ("user-7", VECTORS[3]),
        ] {
            assert_eq!(bucket(key.as_bytes()), expected, "{key}");
        }
    }

    const VECTORS: [u16; 4] = [3837, 1526, 3231, 95];

    #[test]
    fn sequential_keys_spread_evenly() {
        // Catches a hash whose top bits hardly depend on the last bytes (bare FNV-1a is one).
        let mut counts = vec![0_u32; usize::from(BUCKETS)];
        for key in 0..409_600_u32 {
            counts[usize::from(bucket(key.to_string().as_bytes()))] += 1;
        }
        let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*low > 50 && *high < 160, "100 expected in each, found {low}..{high}");
    }
}
