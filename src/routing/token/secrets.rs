//! The file of master secrets (`routing.token_keys_file`).
//!
//! ```text
//! # the one that signs; `sign` may be left out
//! 6ff1c0...64 hexadecimal digits...   sign
//! # accepted as well: the one before, or the next one, a day before it becomes `sign`
//! 0a4be8...                           verify
//! ```

use std::fmt;

use zeroize::Zeroizing;

/// Master secrets of a Geo. They are overwritten when they are dropped.
#[derive(Clone)]
pub struct Secrets(pub(super) Vec<Master>);

/// One line of the file.
#[derive(Clone)]
pub(super) struct Master {
    pub(super) secret: Zeroizing<[u8; MASTER_BYTES]>,
    pub(super) signs: bool,
}

/// A mistake in the file. Never says what stands there.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line} of the file of token keys: {problem}")]
pub struct SecretsError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: SecretsProblem,
}

/// What is wrong with the file of master secrets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsProblem {
    /// A secret has another length, or other characters.
    #[error("a key has 64 hexadecimal digits")]
    Digits,
    /// The same secret twice.
    #[error("this key stands in an earlier line too")]
    Double,
    /// More than a rotation needs.
    #[error("there are more than 4 keys; remove those that no token is signed with any more")]
    Many,
    /// No key that signs.
    #[error("no key signs; one line must end with \"sign\" or with nothing after the key")]
    NoneSigns,
    /// More than one key that signs.
    #[error("an earlier key signs already; write \"verify\" behind one of the two")]
    SeveralSign,
    /// Something else than `sign` or `verify`.
    #[error("after the key there may be \"sign\" or \"verify\" only")]
    Word,
}

impl Secrets {
    /// Reads the text of the file, which is overwritten afterwards.
    ///
    /// # Errors
    /// [`SecretsError`], for the first mistake.
    #[expect(clippy::needless_pass_by_value, reason = "the text is overwritten here")]
    pub fn parse(text: Zeroizing<String>) -> Result<Self, SecretsError> {
        let mut masters: Vec<Master> = Vec::with_capacity(MASTERS_MAX);
        let mut last = 1;
        for (line, content) in (1..).zip(text.lines()) {
            last = line;
            let content = content.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let master = read(content).and_then(|master| check(&masters, master));
            masters.push(master.map_err(|problem| SecretsError { line, problem })?);
        }
        if !masters.iter().any(|master| master.signs) {
            let problem = SecretsProblem::NoneSigns;
            return Err(SecretsError { line: last, problem });
        }
        Ok(Self(masters))
    }
}

impl fmt::Debug for Secrets {
    /// How many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} keys]", self.0.len())
    }
}

fn read(line: &str) -> Result<Master, SecretsProblem> {
    let mut words = line.split_whitespace();
    let digits = words.next().unwrap_or_default().as_bytes();
    let signs = match (words.next(), words.next()) {
        (None | Some("sign"), None) => true,
        (Some("verify"), None) => false,
        _ => return Err(SecretsProblem::Word),
    };
    let (pairs, []) = digits.as_chunks::<2>() else {
        return Err(SecretsProblem::Digits);
    };
    let mut secret = Zeroizing::new([0; MASTER_BYTES]);
    if pairs.len() != secret.len() {
        return Err(SecretsProblem::Digits);
    }
    for (byte, [high, low]) in secret.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(Master { secret, signs })
}

fn digit(character: u8) -> Result<u8, SecretsProblem> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        b'A'..=b'F' => Ok(character - b'A' + 10),
        _ => Err(SecretsProblem::Digits),
    }
}

fn check(masters: &[Master], master: Master) -> Result<Master, SecretsProblem> {
    if masters.len() == MASTERS_MAX {
        return Err(SecretsProblem::Many);
    }
    if masters.iter().any(|earlier| earlier.secret == master.secret) {
        return Err(SecretsProblem::Double);
    }
    if master.signs && masters.iter().any(|earlier| earlier.signs) {
        return Err(SecretsProblem::SeveralSign);
    }
    Ok(master)
}

pub(super) const MASTER_BYTES: usize = 32;
/// Each is tried for a text that none of them signed.
const MASTERS_MAX: usize = 4;
