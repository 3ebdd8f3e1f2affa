//! Tokens as bytes and as text. Says nothing about who may have written them.

use std::fmt;
use std::num::NonZeroU16;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, BufMut};

use super::{Lifetime, Refused};
use crate::routing::record::{Epoch, Rev};

/// What a token says about its key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Token {
    /// Who owns the key.
    pub target: TokenTarget,
    /// Epoch of the owner.
    pub epoch: Epoch,
    /// The revision at which that was so, in the incarnation of `epoch`; not before it.
    pub as_of: Rev,
    /// When it was issued, in seconds since 1970.
    pub issued_at: u64,
    /// How long it is good for.
    pub lifetime: Lifetime,
    /// How its issuer came to know.
    pub flags: Flags,
}

/// Who owns the key of a token.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TokenTarget {
    /// The unit with this number in the [`Book`](crate::routing::record::Book).
    Unit(NonZeroU16),
    /// Whoever owns the key that keys of this dimension follow.
    Follow,
}

/// How the issuer of a token came to know the owner.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flags {
    /// From a claim.
    pub claim: bool,
    /// By the deterministic fallback: nobody has confirmed it yet.
    pub provisional: bool,
    /// The client belongs to the canary lane.
    pub canary: bool,
}

impl Token {
    /// Since which revision the token is evidence, in the incarnation it was issued in.
    pub fn evidence_as_of(&self) -> Epoch {
        Epoch::new(self.epoch.incarnation(), self.as_of)
    }

    /// Whether a client that has `other` for the same key keeps this one instead.
    pub fn replaces(&self, other: &Self) -> bool {
        (self.epoch, self.as_of) > (other.epoch, other.as_of)
    }

    pub(super) fn is_consistent(&self) -> bool {
        self.epoch.rev() <= self.as_of && self.as_of <= Rev::MAX
    }
}

/// A token as clients carry it.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Text([u8; Text::BYTES]);

impl Text {
    /// Length in characters.
    pub const BYTES: usize = 56;

    /// The characters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The characters as text.
    pub fn as_str(&self) -> &str {
        // Base64 is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    /// Not which: it says where a customer lives (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[token]")
    }
}

/// Everything before the MAC.
pub(super) type Signed = [u8; SIGNED_BYTES];
pub(super) type Mac = [u8; 16];

/// What says which key a token was signed with.
pub(super) struct Header {
    pub(super) kid: u8,
    pub(super) geo: u16,
}

pub(super) fn encode(header: &Header, token: &Token) -> Signed {
    let (unit, follow) = match token.target {
        TokenTarget::Unit(unit) => (unit.get(), false),
        TokenTarget::Follow => (0, true),
    };
    let Flags {
        claim,
        provisional,
        canary,
    } = token.flags;
    let flags = [
        (follow, FOLLOW),
        (claim, CLAIM),
        (provisional, PROVISIONAL),
        (canary, CANARY),
    ];
    let mut signed = [0; SIGNED_BYTES];
    let mut out = signed.as_mut_slice();
    out.put_u8(VERSION << 4 | KIND_MAC);
    out.put_u8(header.kid);
    out.put_u16(header.geo);
    out.put_u16(unit);
    out.put_u64(token.epoch.0);
    out.put_uint(token.as_of.0, 6);
    out.put_u32(u32::try_from(token.issued_at).unwrap_or(u32::MAX));
    out.put_u8(token.lifetime.number());
    out.put_u8(flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit));
    signed
}

/// The header, and the rest if this relay knows what it means.
pub(super) fn decode(signed: &Signed) -> Result<(Header, u64, Result<Token, Refused>), Refused> {
    let mut input = signed.as_slice();
    let first = input.get_u8();
    check_first(first)?;
    let header = Header {
        kid: input.get_u8(),
        geo: input.get_u16(),
    };
    let unit = input.get_u16();
    let epoch = Epoch(input.get_u64());
    let as_of = Rev(input.get_uint(6));
    let issued_at = u64::from(input.get_u32());
    let lifetime = Lifetime::from_number(input.get_u8());
    let flags = input.get_u8();
    let has = |bit| flags & bit != 0;
    let target = match (NonZeroU16::new(unit), has(FOLLOW)) {
        (Some(unit), false) => Some(TokenTarget::Unit(unit)),
        (None, true) => Some(TokenTarget::Follow),
        _ => None,
    };
    let token = match (target, lifetime) {
        (Some(target), Some(lifetime)) if flags & !(FOLLOW | CLAIM | PROVISIONAL | CANARY) == 0 => Some(Token {
            target,
            epoch,
            as_of,
            issued_at,
            lifetime,
            flags: Flags {
                claim: has(CLAIM),
                provisional: has(PROVISIONAL),
                canary: has(CANARY),
            },
        }),
        _ => None,
    };
    let token = token.filter(Token::is_consistent).ok_or(Refused::Contents);
    Ok((header, issued_at, token))
}

pub(super) fn to_text(signed: &Signed, mac: &Mac) -> Text {
    let mut bytes = [0; TOKEN_BYTES];
    let mut out = bytes.as_mut_slice();
    out.put_slice(signed);
    out.put_slice(mac);
    let mut text = [0; Text::BYTES];
    // 42 bytes are 56 characters, so there is always room.
    let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
    Text(text)
}

pub(super) fn from_text(text: &[u8]) -> Result<(Signed, Mac), Refused> {
    if text.len() != Text::BYTES {
        return Err(why_of_another_length(text));
    }
    let mut bytes = [0; TOKEN_BYTES];
    match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
        Ok(TOKEN_BYTES) => {}
        _ => return Err(Refused::Encoding),
    }
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(signed), Some(mac)) => Ok((*signed, *mac)),
        _ => Err(Refused::Length),
    }
}

/// Other versions and kinds may have other lengths; the first characters say whether it is one of them.
fn why_of_another_length(text: &[u8]) -> Refused {
    let mut first = [0; 3];
    let decoded = text
        .get(..4)
        .map(|start| URL_SAFE_NO_PAD.decode_slice(start, &mut first));
    match (decoded, first) {
        (Some(Ok(_)), [first, ..]) => check_first(first).err().unwrap_or(Refused::Length),
        (Some(Err(_)), _) => Refused::Encoding,
        (None, _) => Refused::Length,
    }
}

fn check_first(first: u8) -> Result<(), Refused> {
    if first >> 4 != VERSION {
        return Err(Refused::Version);
    }
    if first & 0x0f != KIND_MAC {
        return Err(Refused::Kind);
    }
    Ok(())
}

const SIGNED_BYTES: usize = 26;
const TOKEN_BYTES: usize = 42;
const VERSION: u8 = 1;
const KIND_MAC: u8 = 1;
const FOLLOW: u8 = 1;
const CLAIM: u8 = 1 << 1;
const PROVISIONAL: u8 = 1 << 2;
const CANARY: u8 = 1 << 3;
