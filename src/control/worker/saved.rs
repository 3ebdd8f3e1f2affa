//! The copy of the routes in a file, for routing after a restart while the store is away.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::routing::Routes;
use crate::routing::record::Epoch;
use crate::telemetry::Chain;

/// The file, and which copy is in it.
pub(super) struct SavedCopy {
    path: PathBuf,
    written: Option<Epoch>,
    next: Duration,
}

impl SavedCopy {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            written: None,
            next: Duration::ZERO,
        }
    }

    /// What was kept; a file that cannot be used is as good as none, and said in the log.
    pub(super) fn load(&self) -> Option<Routes> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the kept copy of the routes cannot be read");
                return None;
            }
        };
        match Routes::load(&bytes) {
            Ok(routes) => Some(routes),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), error = %Chain(&error), "the kept copy of the routes is not used");
                None
            }
        }
    }

    /// Keeps the copy now and then, if it has changed; the first one at once, because without any a relay that starts again while the
    /// store is away serves nobody.
    pub(super) fn tick(&mut self, routes: Option<&Arc<Routes>>, now: Duration) {
        let is_first = self.written.is_none() && routes.is_some();
        if is_first || now >= self.next {
            self.next = now + EVERY;
            self.end(routes);
        }
    }

    /// Keeps the copy, if it has changed.
    pub(super) fn end(&mut self, routes: Option<&Arc<Routes>>) {
        let Some(routes) = routes.filter(|routes| self.written != Some(routes.epoch())) else {
            return;
        };
        self.written = Some(routes.epoch());
        if let Err(error) = write(&self.path, &routes.save()) {
            tracing::warn!(path = %self.path.display(), %error, "the copy of the routes cannot be kept; after a restart \
                calls wait for the route store");
        }
    }
}

/// Puts a whole file in place of the one before.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

/// How often the copy is kept.
const EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::record::Snapshot;

    // what was kept comes back; what is damaged does not, and a half-written file is never seen.
    #[test]
    fn a_copy_is_kept_and_a_damaged_one_is_none() {
        let folder = std::env::temp_dir().join(format!("strait-routes-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("routes.copy");
        let mut saved = SavedCopy::new(path.clone());
        assert!(saved.load().is_none());
        let snapshot = Snapshot {
            epoch: Epoch(7),
            seed: 3,
            changes: Vec::new(),
        };
        let routes = Arc::new(Routes::from_snapshot(&snapshot));
        // The first one does not wait for its turn.
        saved.tick(None, Duration::ZERO);
        saved.tick(Some(&routes), Duration::from_millis(1));
        assert_eq!(saved.load().unwrap().epoch(), Epoch(7));
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(saved.load().is_none());
        assert!(!path.with_extension("new").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
