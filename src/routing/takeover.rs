//! Which of several units has a key: weighted rendezvous. Each key goes to the same unit as long as that is in the list.

use super::KeyHash;

/// The position of the winner among weights; `None` if all are zero. `unit` gives a number that never changes for each.
pub fn rendezvous(hash: KeyHash, candidates: impl IntoIterator<Item = (u64, u16)>) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for (index, (unit, weight)) in candidates.into_iter().enumerate() {
        if weight == 0 {
            continue;
        }
        let score = score(hash, unit, weight);
        if best.is_none_or(|(other, _)| score > other) {
            best = Some((score, index));
        }
    }
    best.map(|(_, index)| index)
}

/// Higher wins. `-weight / ln(h)` with `h` even in 0..1 gives each unit its share of the sum of weights.
fn score(hash: KeyHash, unit: u64, weight: u16) -> f64 {
    let folded = u64::try_from((hash.0 >> 64) ^ (hash.0 & u128::from(u64::MAX))).unwrap_or_default();
    let mixed = mix(folded ^ mix(unit.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    // 53 bits, never 0 or 1.
    #[expect(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "53 bits fit into a f64 as they are"
    )]
    let even = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(weight) / even.ln()
}

/// The finalizer of `MurmurHash3`.
fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::key_hash;

    fn keys() -> impl Iterator<Item = KeyHash> {
        (0..100_000_u32).map(|key| key_hash(1, b"uid", &key.to_le_bytes()))
    }

    // R-I18
    #[test]
    fn shares_follow_the_weights_and_only_the_keys_of_who_left_move() {
        let units = [(1, 1), (2, 2), (3, 5), (4, 0)];
        let mut counts = [0_u32; 4];
        for key in keys() {
            let winner = rendezvous(key, units).unwrap();
            counts[winner] += 1;
            let without = units.map(|(unit, weight)| (unit, if unit == 3 { 0 } else { weight }));
            let second = rendezvous(key, without).unwrap();
            assert!(winner == 2 || second == winner);
        }
        for (count, share) in counts.into_iter().zip([12_500_u32, 25_000, 62_500, 0]) {
            assert!(count.abs_diff(share) * 20 <= share.max(1), "{counts:?}");
        }
        assert_eq!(rendezvous(KeyHash(1), [(1, 0)]), None);
    }
}
