//! How many calls need the route store, with tokens and without: a count, not a time (S6: more than 95 % of look-ups saved).
//!
//! A million claimed keys, used by Zipf's law (the n-th hottest 1/n as often as the hottest). Calls come in at one of four relays and go to the
//! relay of the unit that owns the key; each remembers the claims it has looked up. Clients keep tokens as the Rust client does.
//! `sticky` clients serve customers of their own: each has 2,000 keys, and uses those by the same law.

use fastrand::Rng;
use quick_cache::sync::Cache;
use strait::model::Hottest;

const KEYS: u32 = 1_000_000;
const RELAYS: u32 = 4;
const CLIENTS: usize = 64;
const TOKENS: usize = 500;
const CALLS: u32 = 2_000_000;
const OWN_KEYS: u32 = 2_000;

/// Prints the table.
pub fn print() {
    println!(
        "share of calls that need the store, of the last half of {CALLS} calls by {CLIENTS} clients at {RELAYS} relays"
    );
    println!("claims remembered   clients   without tokens   with tokens");
    for known in [10_000, 100_000, 1_000_000] {
        for sticky in [false, true] {
            let [without, with] = [false, true].map(|tokens| share(known, sticky, tokens));
            let clients = if sticky { "sticky" } else { "any" };
            println!(
                "{known:>17}   {clients:<7}   {:>12.2} %   {:>9.2} %",
                100.0 * without,
                100.0 * with
            );
        }
    }
}

/// The share of calls for which some relay had to ask the store.
fn share(known: usize, sticky: bool, tokens: bool) -> f64 {
    let mut dice = Rng::with_seed(7);
    let relays: Vec<Cache<u32, ()>> = (0..RELAYS).map(|_| Cache::new(known)).collect();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Hottest::<u32, ()>::new(TOKENS)).collect();
    let (mut asked, mut counted) = (0_u32, 0_u32);
    for call in 0..CALLS {
        let client = dice.usize(..CLIENTS);
        let key = if sticky {
            let own = zipf(&mut dice, OWN_KEYS);
            spread(u64::try_from(client).unwrap() << 32 | u64::from(own))
        } else {
            zipf(&mut dice, KEYS)
        };
        let here = u32::try_from(client).unwrap() % RELAYS;
        let owner = spread(u64::from(key)) % RELAYS;
        let mut asks = false;
        if !tokens || clients[client].used(&key).is_none() {
            asks = relay(&relays, here).get(&key).is_none();
            relay(&relays, here).insert(key, ());
            if tokens {
                clients[client].insert(key, ());
            }
        }
        // The owner's relay gets the token too, the client's or that of the first relay.
        if !tokens && owner != here {
            asks |= relay(&relays, owner).get(&key).is_none();
            relay(&relays, owner).insert(key, ());
        }
        if call >= CALLS / 2 {
            counted += 1;
            asked += u32::from(asks);
        }
    }
    f64::from(asked) / f64::from(counted)
}

fn relay(relays: &[Cache<u32, ()>], number: u32) -> &Cache<u32, ()> {
    &relays[usize::try_from(number).unwrap()]
}

/// A rank from 0 up to below `count`, the n-th with a weight of 1/n: by the inverse of the sum's integral.
#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded rank"
)]
fn zipf(dice: &mut Rng, count: u32) -> u32 {
    let rank = f64::from(count).powf(dice.f64());
    (rank as u32).clamp(1, count) - 1
}

/// A key far from its neighbours.
#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the high half of a product"
)]
fn spread(number: u64) -> u32 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) as u32) % KEYS
}
