//! The fuzz targets on the stable compiler: the committed corpus, and seeded mutations of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::format_collect,
    unreachable_pub,
    reason = "a test ends where it finds something unexpected"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "fuzz/targets.rs"]
mod targets;

/// Mutations per target, unless `FUZZ_RUNS` says otherwise.
const RUNS: u64 = 20_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect(name))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// One to four changes: bytes flipped, set to borders, inserted, removed, repeated, or spliced from another input.
fn mutate(dice: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut data = corpus[dice.usize(..corpus.len())].clone();
    for _ in 0..dice.usize(1..5) {
        let at = dice.usize(..=data.len());
        let end = (at + dice.usize(..9)).min(data.len());
        match dice.u8(..7) {
            0 if at < data.len() => data[at] ^= 1 << dice.u8(..8),
            1 if at < data.len() => data[at] = dice.choice([0, 1, 0x7f, 0x80, 0xff]).unwrap(),
            2 => data.insert(at, dice.u8(..)),
            3 => drop(data.drain(at..end)),
            4 => {
                let part = data[at..end].to_vec();
                data.splice(at..at, part);
            }
            5 => data.truncate(at),
            _ => {
                let other = &corpus[dice.usize(..corpus.len())];
                let from = dice.usize(..=other.len());
                data.splice(at.., other[from..].iter().copied());
            }
        }
        data.truncate(1 << 16);
    }
    data
}

fn run(target: &str, function: targets::Target, data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| function(data))).is_err() {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("target {target} failed; add this input to its corpus: {hex}");
    }
}

// W1, W2
#[test]
fn decoders_survive_the_corpus_and_mutations_of_it() {
    let (runs, seed) = (setting("FUZZ_RUNS", RUNS), setting("FUZZ_SEED", 1));
    for (target, function) in targets::TARGETS {
        let corpus = corpus(target);
        for data in &corpus {
            run(target, function, data);
        }
        let mut dice = fastrand::Rng::with_seed(seed);
        for _ in 0..runs {
            run(target, function, &mutate(&mut dice, &corpus));
        }
    }
}

#[test]
fn every_target_has_a_fuzz_binary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (target, _) in targets::TARGETS {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target} is missing in Cargo.toml"
        );
        let binary = std::fs::read_to_string(root.join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(binary.contains(&format!("targets::{target}(")), "{target}");
    }
}
