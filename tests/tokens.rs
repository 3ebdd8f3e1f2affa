//! Route tokens of the specification: what a ring issues is what `tests/golden/tokens/vectors.json` says, and so is what a
//! program in another language computes from the same fields.
//!
//! A changed character is a changed protocol: clients keep tokens for a week. After a change that was meant, write the file
//! again with `BLESS=1 cargo test --test tokens` and review the difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it finds something unexpected"
)]

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use strait::model::Name;
use strait::routing::record::{Epoch, Rev};
use strait::routing::token::{Flags, Lifetime, Ring, Secrets, Token, TokenTarget};
use zeroize::Zeroizing;

/// A token and what it was made from.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    /// 64 hexadecimal digits.
    master: String,
    geo: u16,
    dimension: String,
    /// In hexadecimal.
    key: String,
    /// 0 with the flag `follow`.
    unit: u16,
    incarnation: u16,
    rev: u64,
    as_of: u64,
    issued_at: u64,
    lifetime: String,
    flags: Vec<String>,
    /// Whose key signs.
    day: u64,
    token: String,
}

impl Vector {
    fn ring(&self) -> Ring {
        let secrets = Secrets::parse(Zeroizing::new(self.master.clone())).unwrap();
        Ring::new(secrets, self.geo, self.issued_at)
    }

    fn fields(&self) -> Token {
        let has = |flag: &str| self.flags.iter().any(|found| found == flag);
        let unit = NonZeroU16::new(self.unit);
        assert_eq!(unit.is_none(), has("follow"), "{}", self.name);
        Token {
            target: unit.map_or(TokenTarget::Follow, TokenTarget::Unit),
            epoch: Epoch::new(self.incarnation, Rev(self.rev)),
            as_of: Rev(self.as_of),
            issued_at: self.issued_at,
            lifetime: match self.lifetime.as_str() {
                "usual" => Lifetime::Usual,
                "short" => Lifetime::Short,
                "long" => Lifetime::Long,
                other => panic!("{other}"),
            },
            flags: Flags {
                claim: has("claim"),
                provisional: has("provisional"),
                canary: has("canary"),
            },
        }
    }

    fn dimension(&self) -> Name {
        Name::new(&self.dimension).unwrap()
    }

    fn key(&self) -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&self.key[at..at + 2], 16).unwrap();
        (0..self.key.len()).step_by(2).map(digits).collect()
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens/vectors.json")
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(&std::fs::read_to_string(file()).unwrap()).unwrap()
}

//
#[test]
fn tokens_are_as_specified() {
    let mut vectors = vectors();
    assert!(vectors.len() > 10, "the file was read");
    let bless = std::env::var_os("BLESS").is_some();
    for vector in &mut vectors {
        let issued = vector
            .ring()
            .issue(&vector.dimension(), &vector.key(), &vector.fields());
        let issued = issued.unwrap();
        if bless {
            issued.as_str().clone_into(&mut vector.token);
        }
        assert_eq!(issued.as_str(), vector.token, "{}", vector.name);
        assert_eq!(vector.issued_at / 86_400, vector.day, "{}", vector.name);
    }
    if bless {
        let mut text = serde_json::to_string_pretty(&vectors).unwrap();
        text.push('\n');
        std::fs::write(file(), text).unwrap();
    }
}

//
#[test]
fn tokens_of_the_specification_open_to_their_fields() {
    for vector in vectors() {
        let text = vector.token.as_bytes();
        let opened = vector
            .ring()
            .open(text, &vector.dimension(), &vector.key(), vector.issued_at);
        assert_eq!(opened, Ok(vector.fields()), "{}", vector.name);
    }
}

// Catches a layout that Rust writes and reads alike, but not as it is documented.
#[test]
fn another_implementation_comes_to_the_same_tokens() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/tokens.py");
    let output = Command::new("python3").arg(script).arg(file()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(text.lines().count(), vectors().len());
}
