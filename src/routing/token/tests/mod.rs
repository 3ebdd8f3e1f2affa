mod fields;
mod open;
mod rotation;
mod secrets;

use std::num::NonZeroU16;

use zeroize::Zeroizing;

use super::*;
use crate::model::Name;
use crate::routing::record::{Epoch, Rev};

/// Some day in 2026, some hours after midnight.
const NOW: u64 = 20_783 * DAY + 30_000;
const DAY: u64 = 86_400;
const HOUR: u64 = 3600;
const GEO: u16 = 7;
const KEY: &[u8] = b"cid:1:42";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn dimension() -> Name {
    name("im.conversation")
}

/// Lines of a secret of one repeated byte, and what it does.
fn secrets(lines: &[(u8, &str)]) -> Secrets {
    let lines: Vec<String> = lines
        .iter()
        .map(|(byte, word)| format!("{} {word}", format!("{byte:02x}").repeat(32)))
        .collect();
    let lines = lines.join(
        "
",
    );
    Secrets::parse(Zeroizing::new(lines)).unwrap()
}

fn ring() -> Ring {
    Ring::new(secrets(&[(0x11, "sign")]), GEO, NOW)
}

fn token() -> Token {
    Token {
        target: TokenTarget::Unit(NonZeroU16::new(3).unwrap()),
        epoch: Epoch::new(2, Rev(1000)),
        as_of: Rev(1004),
        issued_at: NOW,
        lifetime: Lifetime::Usual,
        flags: Flags {
            claim: true,
            ..Flags::default()
        },
    }
}

fn issue(ring: &Ring, token: &Token) -> Text {
    ring.issue(&dimension(), KEY, token).unwrap()
}

fn open(ring: &Ring, text: &Text, now: u64) -> Result<Token, Refused> {
    ring.open(text.as_bytes(), &dimension(), KEY, now)
}
