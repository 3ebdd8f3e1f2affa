//! The keys of a Geo: issues tokens, and opens those that were presented.

use std::fmt;

use blake3::Hasher;
use zeroize::Zeroizing;

use super::layout::{self, Header, Mac, Signed};
use super::lifetime::{DAY, DAYS_BACK};
use super::secrets::{MASTER_BYTES, Master, Secrets};
use super::{Refused, Text, Token};
use crate::model::Name;

/// The keys of a Geo, derived for each day from master secrets, so that nothing is distributed daily.
///
/// It is right for ever; [`renewed`](Self::renewed) once a day only spares it the derivation at each look-up.
pub struct Ring {
    geo: u16,
    masters: Vec<Keys>,
    /// Signs until the one that is to sign was known long enough.
    interim: Option<usize>,
}

struct Keys {
    master: Master,
    /// When this relay first saw it, in seconds since 1970; 0 if it was there from the beginning.
    since: u64,
    days: Vec<(u64, DayKey)>,
}

type DayKey = Zeroizing<[u8; 32]>;

impl Ring {
    /// Keys of the Geo with this number. The one that signs does so at once: nobody knows since when it was in the file.
    pub fn new(secrets: Secrets, geo: u16, now: u64) -> Self {
        let masters = secrets.0.into_iter();
        Self {
            geo,
            masters: masters.map(|master| Keys::new(master, 0, geo, now)).collect(),
            interim: None,
        }
    }

    /// The ring after the file was read again, or on another day.
    ///
    /// A key that is to sign only verifies until this relay has known it for a day, so that all relays have it before the first
    /// token of it comes. Meanwhile the one that signed before goes on, if the file still has it; if not, the new one signs at
    /// once: the old one was removed in haste.
    #[must_use]
    pub fn renewed(&self, secrets: Secrets, now: u64) -> Self {
        let is_signer = |master: &Master| {
            let signer = self.signer(now);
            signer.is_some_and(|keys| keys.master.secret == master.secret)
        };
        let interim = secrets.0.iter().position(is_signer);
        let masters = secrets.0.into_iter().map(|master| {
            let known = self.masters.iter().find(|keys| keys.master.secret == master.secret);
            let since = known.map_or(now, |keys| keys.since);
            Keys::new(master, since, self.geo, now)
        });
        Self {
            geo: self.geo,
            masters: masters.collect(),
            interim,
        }
    }

    /// A token for a key of a dimension, issued at `token.issued_at`. `None` if the token contradicts itself.
    pub fn issue(&self, dimension: &Name, key: &[u8], token: &Token) -> Option<Text> {
        if !token.is_consistent() {
            return None;
        }
        let day = token.issued_at / DAY;
        let header = Header {
            kid: kid(day),
            geo: self.geo,
        };
        let signed = layout::encode(&header, token);
        let day_key = self.signer(token.issued_at)?.day(day, self.geo);
        let mac = mac_of(&day_key, &signed, dimension, key);
        let mac: &Mac = mac.as_bytes().first_chunk()?;
        Some(layout::to_text(&signed, mac))
    }

    /// What a text says about a key, if it was signed for it (T1) and its time is not over. Whether it is still right is
    /// another question: with its target and [`Token::evidence_as_of`].
    ///
    /// # Errors
    /// [`Refused`]; then the call goes on without it (T2).
    pub fn open(&self, text: &[u8], dimension: &Name, key: &[u8], now: u64) -> Result<Token, Refused> {
        let (signed, mac) = layout::from_text(text)?;
        let (header, issued_at, token) = layout::decode(&signed)?;
        if header.geo != self.geo {
            return Err(Refused::Geo);
        }
        let day = issued_at / DAY;
        if kid(day) != header.kid || !days(now).contains(&day) {
            return Err(Refused::Day);
        }
        let is_ours = self.masters.iter().any(|keys| {
            let expected = mac_of(&keys.day(day, self.geo), &signed, dimension, key);
            is_same(&expected, mac)
        });
        if !is_ours {
            return Err(Refused::Mac);
        }
        let token = token?;
        if token.is_expired(now) {
            return Err(Refused::Expired);
        }
        Ok(token)
    }

    fn signer(&self, now: u64) -> Option<&Keys> {
        let signer = self.masters.iter().find(|keys| keys.master.signs)?;
        let is_ready = signer.since == 0 || now >= signer.since.saturating_add(DAY);
        let interim = self.interim.and_then(|at| self.masters.get(at));
        Some(interim.filter(|_| !is_ready).unwrap_or(signer))
    }
}

impl fmt::Debug for Ring {
    /// How many (T3).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring(geo {}, {} keys)", self.geo, self.masters.len())
    }
}

impl Keys {
    fn new(master: Master, since: u64, geo: u16, now: u64) -> Self {
        let days = days(now).map(|day| (day, derive(&master.secret, geo, day))).collect();
        Self { master, since, days }
    }

    fn day(&self, day: u64, geo: u16) -> DayKey {
        let known = self.days.iter().find(|(known, _)| *known == day);
        known.map_or_else(|| derive(&self.master.secret, geo, day), |(_, key)| key.clone())
    }
}

/// Days whose keys are accepted: tomorrow, for relays whose clock is ahead, and back to the longest hard lifetime.
fn days(now: u64) -> std::ops::RangeInclusive<u64> {
    let today = now / DAY;
    today.saturating_sub(DAYS_BACK)..=today.saturating_add(1)
}

fn kid(day: u64) -> u8 {
    u8::try_from(day % 256).unwrap_or_default()
}

fn derive(master: &[u8; MASTER_BYTES], geo: u16, day: u64) -> DayKey {
    let day = u32::try_from(day).unwrap_or(u32::MAX);
    let mut hasher = Hasher::new_derive_key(CONTEXT);
    hasher.update(master);
    hasher.update(&geo.to_be_bytes());
    hasher.update(&day.to_be_bytes());
    Zeroizing::new(*hasher.finalize().as_bytes())
}

fn mac_of(day_key: &[u8; 32], signed: &Signed, dimension: &Name, key: &[u8]) -> blake3::Hash {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut hasher = Hasher::new_keyed(day_key);
    hasher.update(PREFIX);
    hasher.update(signed);
    hasher.update(dimension.as_str().as_bytes());
    hasher.update(&length.to_be_bytes());
    hasher.update(key);
    hasher.finalize()
}

/// Whether the first half of a hash is this one, in constant time (T3): hashes are compared so, and the other half is equal.
fn is_same(expected: &blake3::Hash, mac: Mac) -> bool {
    let mut given = *expected.as_bytes();
    if let Some(half) = given.first_chunk_mut() {
        *half = mac;
    }
    *expected == given
}

const CONTEXT: &str = "strait 2026 route token day key";
const PREFIX: &[u8] = b"rt1";
