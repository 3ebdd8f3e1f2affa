//! What a power cut leaves.

use std::sync::{Arc, Mutex};

use super::{Bytes, Files, MemoryStorage, Operation, index, put};

impl MemoryStorage {
    /// What is there after the power went out now. Sectors are of so many bytes.
    #[must_use]
    pub fn crashed(&self, dice: &mut fastrand::Rng, sector: usize) -> Self {
        let files = self.files();
        let mut names = files.synced_names.clone();
        // Mostly all up to some change survive, as with a journal; but nothing that was not synced is sure.
        let until = dice.usize(..=files.renamed.len());
        let any = dice.u8(..4) == 0;
        for (at, operation) in files.renamed.iter().enumerate() {
            let survives = if any { dice.bool() } else { at < until };
            match operation {
                _ if !survives => {}
                Operation::Create(name, file) => {
                    names.insert(name.clone(), *file);
                }
                Operation::Remove(name) => {
                    names.remove(name);
                }
                Operation::Rename(from, to, file) => {
                    if names.get(from) == Some(file) {
                        names.remove(from);
                    }
                    names.insert(to.clone(), *file);
                }
                _ => {}
            }
        }
        let left = names.values().filter_map(|number| {
            let file = files.by_number.get(number)?;
            let bytes = file.crashed(dice, sector);
            let file = Bytes {
                shown: bytes.clone(),
                synced: bytes,
                written: Vec::new(),
            };
            Some((*number, file))
        });
        let left = left.collect();
        Self(Arc::new(Mutex::new(Files {
            by_number: left,
            synced_names: names.clone(),
            names,
            next: files.next,
            ..Files::default()
        })))
    }
}

impl Bytes {
    fn crashed(&self, dice: &mut fastrand::Rng, sector: usize) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        // None, all, or any of what was not synced.
        let share = dice.choice([0, 100, 50, 90, 10]).unwrap_or_default();
        let mut len = bytes.len();
        for operation in &self.written {
            match operation {
                Operation::Write(_, offset, written) => {
                    let mut at = index(*offset);
                    let mut rest = written.as_slice();
                    while !rest.is_empty() {
                        let (part, later) = rest.split_at(rest.len().min(sector - at % sector));
                        if dice.u8(..100) < share {
                            put(&mut bytes, at, part);
                        }
                        at += part.len();
                        rest = later;
                    }
                    if dice.u8(..100) < share {
                        len = len.max(at);
                    }
                }
                Operation::SetLen(_, to) if dice.u8(..100) < share => {
                    len = index(*to);
                    bytes.truncate(len);
                }
                _ => {}
            }
        }
        // A length without its bytes shows zeros; bytes beyond the length are not there.
        bytes.resize(len, 0);
        bytes
    }
}
