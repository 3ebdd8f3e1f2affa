//! Notices that a file of the settings, a certificate, a key, a bundle or a revocation list has changed (O-C3).
//!
//! Looks at the files every few seconds instead of asking the kernel to tell: that also sees what Kubernetes does to
//! mounted secrets (a folder behind two symbolic links is exchanged, the files themselves never change), files on
//! network file systems, and files that are deleted and written anew, and it has no watch that can be lost.
//!
//! # Invariants
//! - W1. A change is told once it has been at rest for one look: certificate and key are written one after the other.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::settings::{Settings, Source};

/// How the files looked when they were read last.
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    folder: PathBuf,
    read: Looks,
}

/// By path, what tells one content from another without reading it; `None` for a file that is not there.
type Looks = BTreeMap<PathBuf, Option<Look>>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Watch {
    /// Remembers how the files look now.
    pub(super) fn new(source: &Source, settings: &Settings) -> Self {
        let mut watch = Self {
            paths: Vec::new(),
            folder: source.base().join("pairs"),
            read: Looks::new(),
        };
        watch.follow(source, settings);
        watch
    }

    /// Takes up the files that the settings name now. Those known before keep the look that was remembered.
    pub(super) fn follow(&mut self, source: &Source, settings: &Settings) {
        self.paths = paths(source, settings);
        let mut now = self.look();
        for (path, look) in &mut now {
            if let Some(known) = self.read.get(path) {
                *look = *known;
            }
        }
        self.read = now;
    }

    /// Resolves when the files have changed and are at rest; never with an interval of zero. Cancel safe.
    pub(super) async fn changed(&self, interval: Duration) {
        if interval.is_zero() {
            return std::future::pending().await;
        }
        let mut before: Option<Looks> = None;
        loop {
            tokio::time::sleep(interval).await;
            let now = self.look();
            if now != self.read && before.as_ref() == Some(&now) {
                return;
            }
            before = Some(now);
        }
    }

    fn look(&self) -> Looks {
        let pairs = std::fs::read_dir(&self.folder).into_iter().flatten();
        let pairs = pairs.filter_map(Result::ok).map(|entry| entry.path());
        let paths = pairs.chain(self.paths.iter().cloned());
        paths.map(|path| (path.clone(), look_at(&path))).collect()
    }
}

fn look_at(path: &Path) -> Option<Look> {
    // Follows symbolic links: what counts is the file that would be read.
    let found = std::fs::metadata(path).ok()?;
    Some(Look {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
    })
}

fn paths(source: &Source, settings: &Settings) -> Vec<PathBuf> {
    let peer = &settings.peer;
    let single = [&source.file, &peer.certificate, &peer.key].into_iter().flatten();
    let lists = peer.crls.values().flatten();
    single.chain(peer.trust.values()).chain(lists).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(10);

    fn source(folder: &Path) -> Source {
        Source {
            file: Some(folder.join("relay.toml")),
            ..Source::default()
        }
    }

    async fn changes(watch: &Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(1), watch.changed(MS))
            .await
            .is_ok()
    }

    // O-C3: the way Kubernetes exchanges mounted files: `..data` is a link to a folder, and is renamed over.
    #[tokio::test]
    async fn a_folder_exchanged_behind_a_link_is_a_change() {
        let folder = std::env::temp_dir().join(format!("strait-watch-{}", std::process::id()));
        for version in ["one", "two"] {
            std::fs::create_dir_all(folder.join(version)).unwrap();
            std::fs::write(folder.join(version).join("relay.toml"), "").unwrap();
        }
        let link = |version: &str| {
            std::os::unix::fs::symlink(folder.join(version), folder.join("next")).unwrap();
            std::fs::rename(folder.join("next"), folder.join("data")).unwrap();
        };
        link("one");
        std::os::unix::fs::symlink(folder.join("data/relay.toml"), folder.join("relay.toml")).unwrap();
        let mut watch = Watch::new(&source(&folder), &Settings::default());
        assert!(!changes(&watch).await, "nothing has changed yet");
        link("two");
        assert!(changes(&watch).await);
        watch = Watch::new(&source(&folder), &Settings::default());
        assert!(!changes(&watch).await, "told once");
        std::fs::create_dir_all(folder.join("pairs")).unwrap();
        std::fs::write(folder.join("pairs/a--b.toml"), "").unwrap();
        assert!(changes(&watch).await, "a pair file is new");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
