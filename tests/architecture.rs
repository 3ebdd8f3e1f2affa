//! The shape of the crate: modules use lower layers only, and third-party types stop at one module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it finds something unexpected"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module of `src/` and its layer. A module uses itself and lower layers.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["model"]),
    (1, &["wire", "telemetry", "mailbox", "crossing", "token"]),
    (2, &["calls", "routing", "admission", "peer", "queue", "delivery"]),
    (3, &["control"]),
    (4, &["outbound", "inbound"]),
    (5, &["ingress", "admin", "client"]),
    (6, &["settings"]),
    (7, &["app"]),
    (8, &["cli", "lib", "main"]),
];

/// The layer whose modules may use each other.
const TOP: u8 = 8;

/// The client stands alone: programs that link it must not drag the relay in.
const CLIENT_MAY_USE: &[&str] = &["client", "model", "wire"];

/// Words that may appear only below these paths: libraries whose types stop there, and what is dangerous.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("quinn::", &["peer/"]),
    ("quinn_proto::", &["peer/"]),
    ("rustls::", &["peer/"]),
    ("webpki::", &["peer/"]),
    ("rcgen::", &["peer/"]),
    ("x509_parser::", &["peer/"]),
    ("config::", &["settings/"]),
    ("libnghttp2_sys", &["wire/http2"]),
    ("unsafe {", &["wire/http2"]),
    ("unsafe fn", &["wire/http2"]),
    ("unsafe impl", &["wire/http2"]),
    ("unsafe extern", &["wire/http2"]),
    ("prost::", &["wire/"]),
    ("redb::", &["control/embedded/", "control/provisional/file.rs"]),
    ("axum::", &["admin/", "delivery/http1/tests.rs"]),
    ("hyper::", &["admin/messages.rs", "cli/ask.rs", "delivery/http1/"]),
    ("rustix::", &["cli/ask.rs", "control/clock.rs", "queue/log/"]),
    (
        "crc32c::",
        &["queue/log/", "routing/copy/saved.rs", "routing/copy/tests/saved.rs"],
    ),
    ("clap::", &["cli/", "main.rs"]),
    // Early data can be replayed by whoever saw it (D9, D16).
    ("into_0rtt", &[]),
    ("with_single_cert", &[]),
    ("rustls::ClientConfig::builder()", &[]),
    ("rustls::ServerConfig::builder()", &[]),
];

/// A source file: its path below `src/` and its text without comments.
struct Source {
    path: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                sources.push(Source {
                    path,
                    code: code_of(&text),
                });
            }
        }
    }
    assert!(sources.len() > 20, "the sources were read");
    sources
}

/// The text without line comments and without what stands in string literals, so that prose may name what code may not.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let raw = raw_string_end(rest).filter(|_| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        let quote = ["'\"'", "'\\\"'"].into_iter().find(|quote| rest.starts_with(quote));
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(quote) = quote {
            quote.len()
        } else if let Some(end) = raw {
            end
        } else if character == '"' {
            string_end(rest)
        } else {
            code.push(character);
            character.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// Length of the string literal the text begins with, quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string literal the text begins with, if it begins with one.
fn raw_string_end(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close)?;
    Some(1 + hashes + 1 + end + close.len())
}

/// The module a file belongs to: the first component of its path.
fn module_of(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

fn layer_of(module: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(layer, _)| *layer)
}

/// Modules of this crate that the code names: `crate::x`, `crate::{x, y::z}`, and `strait::x` in the binary.
fn uses(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["crate::", "strait::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '"' | '=' | ',')) {
                continue;
            }
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group_heads(group)),
                None => found.extend(head(rest)),
            }
        }
    }
    found
}

/// First names of a `use` group, down to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0_u32;
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(head(group[start..at].trim_start()));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

/// The leading name, if it names a module (lower case).
fn head(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let is_module = name.starts_with(|c: char| c.is_ascii_lowercase()) && name != "self";
    is_module.then_some(name)
}

/// Uses of another module that is not below.
fn upward_uses(path: &str, code: &str) -> Vec<String> {
    let module = module_of(path);
    let Some(layer) = layer_of(module) else {
        return vec![format!("{path}: module {module} has no layer; add it to LAYERS")];
    };
    let mut faults = Vec::new();
    for used in uses(code) {
        let allowed = match layer_of(&used) {
            _ if used == module => true,
            _ if module == "client" => CLIENT_MAY_USE.contains(&used.as_str()),
            Some(below) => below < layer || layer == TOP,
            None => false,
        };
        if !allowed {
            faults.push(format!("{path}: {module} (layer {layer}) may not use {used}"));
        }
    }
    faults
}

fn misplaced_words(path: &str, code: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (word, places) in ONLY_IN {
        if places.iter().any(|place| path.starts_with(place)) {
            continue;
        }
        for (at, _) in code.match_indices(word) {
            let before = code[..at].chars().next_back();
            // `settings::config::` and `my_config::` are other names than the crate `config::`.
            if before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':')) {
                faults.push(format!("{path}: `{word}` is allowed in {places:?} only"));
                break;
            }
        }
    }
    faults
}

#[test]
fn modules_use_lower_layers_only() {
    let faults: Vec<String> = sources()
        .iter()
        .flat_map(|source| upward_uses(&source.path, &source.code))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn libraries_and_danger_stay_where_they_belong() {
    let faults: Vec<String> = sources()
        .iter()
        .flat_map(|source| misplaced_words(&source.path, &source.code))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_source_file_is_plain_ascii() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for source in sources() {
        let text = std::fs::read_to_string(root.join(&source.path)).unwrap();
        assert!(text.is_ascii(), "{} has a character that is not ASCII", source.path);
    }
}

// The checks themselves find what they are for.
#[test]
fn forbidden_uses_are_found() {
    let upward = |path, code| upward_uses(path, code).len();
    assert_eq!(
        upward("peer/link.rs", "use crate::model::Name; use crate::wire::frame;"),
        0
    );
    assert_eq!(upward("peer/link.rs", "use crate::routing::Table;"), 1);
    assert_eq!(
        upward(
            "peer/link.rs",
            "use crate::{model::Name, inbound, wire::{frame, status}};"
        ),
        1
    );
    assert_eq!(upward("model/mod.rs", "let x = crate::shutdown::Token;"), 1);
    assert_eq!(upward("client/mod.rs", "use crate::peer::Settings;"), 1);
    assert_eq!(upward("main.rs", "strait::cli::run(); strait::app::start();"), 0);
    assert_eq!(upward("gossip/mod.rs", ""), 1);
    let text = "use crate::a; // crate::b\nlet x = \"crate::c \\\" crate::d\"; r#\"crate::e \" x\"#; '\"'; crate::f";
    assert_eq!(uses(&code_of(text)), ["a", "f"].map(str::to_owned).into());
    let misplaced = |path, code| misplaced_words(path, code).len();
    assert_eq!(misplaced("app.rs", "use quinn::Endpoint;"), 1);
    assert_eq!(misplaced("peer/quic.rs", "use quinn::Endpoint;"), 0);
    assert_eq!(misplaced("peer/quic.rs", "connecting.into_0rtt()"), 1);
    assert_eq!(misplaced("app.rs", "crate::settings::config::read()"), 0);
    assert_eq!(misplaced("wire/http2/session.rs", "unsafe { x() }"), 0);
    assert_eq!(misplaced("wire/frame.rs", "unsafe { x() }"), 1);
}
