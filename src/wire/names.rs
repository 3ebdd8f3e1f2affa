//! Names as they come on lanes and from the disk: a few, again and again.
//!
//! Checking a name and putting it into memory of its own costs more than all the rest of reading a small message, and a message has
//! five of them. So each thread remembers those it has read of late.

use std::cell::RefCell;

use crate::model::{Name, NameError};

/// Names of late, each in a place that its bytes choose.
struct Recent([Option<Name>; PLACES]);

thread_local! {
    static RECENT: RefCell<Recent> = const { RefCell::new(Recent([const { None }; PLACES])) };
}

/// The name that these bytes are.
///
/// # Errors
/// As [`Name::new`].
pub fn read(bytes: &[u8]) -> Result<Name, NameError> {
    RECENT.with_borrow_mut(|recent| recent.read(bytes))
}

impl Recent {
    fn read(&mut self, bytes: &[u8]) -> Result<Name, NameError> {
        let Some(place) = self.0.get_mut(place_of(bytes)) else {
            return named(bytes);
        };
        if let Some(name) = place
            && name.as_str().as_bytes() == bytes
        {
            return Ok(name.clone());
        }
        let name = named(bytes)?;
        *place = Some(name.clone());
        Ok(name)
    }
}

fn named(bytes: &[u8]) -> Result<Name, NameError> {
    // What is no text has a character that no name has.
    let text = std::str::from_utf8(bytes).map_err(|_| NameError::Character(char::REPLACEMENT_CHARACTER))?;
    Name::new(text)
}

/// Names that differ in their last bytes only, such as numbered ones, have places of their own.
fn place_of(bytes: &[u8]) -> usize {
    let last = bytes.iter().rev().take(LOOKED_AT);
    let mixed = last.fold(bytes.len(), |mixed, byte| mixed.wrapping_mul(31) ^ usize::from(*byte));
    mixed % PLACES
}

/// Names that one thread remembers.
const PLACES: usize = 64;
/// Bytes that choose the place.
const LOOKED_AT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_the_name_that_was_asked_for() {
        for round in 0..3 {
            for number in 0..1000 {
                let text = format!("topic-{}", number * round % 777);
                assert_eq!(read(text.as_bytes()).unwrap().as_str(), text);
            }
            for wrong in [&b""[..], b"a/b", b"\xff", &[b'x'; 256]] {
                assert!(read(wrong).is_err());
            }
        }
    }
}
