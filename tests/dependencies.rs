//! What is in `Cargo.lock`: versions with the security fixes we rely on, one TLS provider, no doubles of what matters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it finds something unexpected"
)]

use std::collections::BTreeMap;

/// Lowest version of each crate that has the fixes we rely on.
const MINIMUM: &[(&str, [u64; 3])] = &[
    ("bytes", [1, 11, 1]),
    ("crossbeam-epoch", [0, 9, 20]),
    ("h2", [0, 4, 20]),
    ("prometheus", [0, 14, 0]),
    ("quinn-proto", [0, 11, 19]),
    ("ring", [0, 17, 12]),
    ("rustls", [0, 23, 46]),
    ("rustls-webpki", [0, 103, 16]),
    ("slab", [0, 4, 11]),
    ("time", [0, 3, 47]),
    ("tokio", [1, 44, 2]),
    ("tonic", [0, 14, 9]),
    ("tracing-subscriber", [0, 3, 20]),
];

/// Crates that must not be there: a second TLS provider, and what is unmaintained or unsound.
const BANNED: &[&str] = &[
    "atty",
    "aws-lc-rs",
    "aws-lc-sys",
    "backoff",
    "bincode",
    "brotli",
    "instant",
    "lmdb",
    "native-tls",
    "openssl",
    "openssl-sys",
    "paste",
    "rustls-pemfile",
    "serde_yml",
    "yaml-rust",
];

/// Crates whose types travel between ours, or which are too large or too delicate to have twice.
const SINGLE: &[&str] = &[
    "bytes",
    "h2",
    "http",
    "hyper",
    "prost",
    "quinn",
    "quinn-proto",
    "ring",
    "rustls",
    "rustls-webpki",
    "tokio",
    "tonic",
];

/// Versions of each package of the lock file.
fn locked() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let lock: toml::Table = toml::from_str(&text).unwrap();
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let field = |key: &str| package[key].as_str().unwrap().to_owned();
        packages.entry(field("name")).or_default().push(field("version"));
    }
    assert!(packages.len() > 100, "the lock file was read");
    packages
}

fn numbers(version: &str) -> [u64; 3] {
    let plain = version.split(['-', '+']).next().unwrap();
    let mut parts = plain.split('.').map(|part| part.parse().unwrap());
    std::array::from_fn(|_| parts.next().unwrap())
}

/// What is wrong with a set of packages, in words.
fn faults(packages: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, minimum) in MINIMUM {
        for version in packages.get(*name).into_iter().flatten() {
            // A pre-release of the minimum does not have to have its fixes.
            if numbers(version) < *minimum || version.contains('-') {
                faults.push(format!(
                    "{name} {version} is below {minimum:?}: run cargo update -p {name}"
                ));
            }
        }
    }
    for name in BANNED {
        if packages.contains_key(*name) {
            faults.push(format!("{name} must not be used: cargo tree -i {name} says who does"));
        }
    }
    for name in SINGLE {
        if packages.get(*name).is_some_and(|versions| versions.len() > 1) {
            faults.push(format!("{name} is there more than once: {:?}", packages[*name]));
        }
    }
    faults
}

// Advisories are also checked by tools with a database; this list works offline and names the version to have.
#[test]
fn locked_packages_have_the_fixes_we_rely_on() {
    let faults = faults(&locked());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

// A list that watches packages nobody uses would be always green: what matters most must be in the lock.
#[test]
fn the_packages_that_matter_are_there() {
    let packages = locked();
    for name in ["bytes", "h2", "quinn-proto", "ring", "rustls", "rustls-webpki", "tonic"] {
        assert!(packages.contains_key(name), "{name}");
    }
}

// The check itself finds what it is for.
#[test]
fn old_banned_and_doubled_packages_are_found() {
    let packages = [
        ("quinn-proto", vec!["0.11.18"]),
        ("rustls", vec!["0.23.46", "0.24.0-dev.2"]),
        ("aws-lc-rs", vec!["1.19.0"]),
        ("h2", vec!["0.4.20"]),
    ];
    let packages = packages
        .into_iter()
        .map(|(name, versions)| (name.to_owned(), versions.into_iter().map(str::to_owned).collect()))
        .collect();
    let faults = faults(&packages);
    let found = |part: &str| faults.iter().any(|fault| fault.contains(part));
    assert!(found("quinn-proto 0.11.18") && found("rustls 0.24.0-dev.2") && found("aws-lc-rs must not"));
    assert!(found("rustls is there more than once"));
    assert_eq!(faults.len(), 4, "{faults:?}");
}
