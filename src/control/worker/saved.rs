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
    /// store is away serves nobody. A large copy is kept less often: writing takes a small part of the time at most.
    pub(super) fn tick(&mut self, routes: Option<&Arc<Routes>>, clock: impl Fn() -> Duration) {
        let begun = clock();
        let is_first = self.written.is_none() && routes.is_some();
        if is_first || begun >= self.next {
            self.end(routes);
            let now = clock();
            self.next = now + EVERY.max(now.saturating_sub(begun) * PAUSES);
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

/// How often the copy is kept, if that is quick.
const EVERY: Duration = Duration::from_secs(1);
/// Between two times passes so many times what writing took.
const PAUSES: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::record::Snapshot;

    /// A folder of its own, and the copy at an epoch.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("strait-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn copy(epoch: u64) -> Arc<Routes> {
        let snapshot = Snapshot {
            epoch: Epoch(epoch),
            seed: 3,
            changes: Vec::new(),
        };
        Arc::new(Routes::from_snapshot(&snapshot))
    }

    // what was kept comes back; what is damaged does not, and a half-written file is never seen.
    #[test]
    fn a_copy_is_kept_and_a_damaged_one_is_none() {
        let folder = folder("routes");
        let path = folder.join("routes.copy");
        let mut saved = SavedCopy::new(path.clone());
        assert!(saved.load().is_none());
        // The first one does not wait for its turn.
        saved.tick(None, || Duration::ZERO);
        saved.tick(Some(&copy(7)), || Duration::from_millis(1));
        assert_eq!(saved.load().unwrap().epoch(), Epoch(7));
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(saved.load().is_none());
        assert!(!path.with_extension("new").exists());
        fs::remove_dir_all(folder).unwrap();
    }

    // what a relay knew a second before it died it still knows; a copy that takes long is kept less often.
    #[test]
    fn a_copy_is_kept_each_second_or_as_often_as_it_costs_little() {
        let folder = folder("turns");
        let mut saved = SavedCopy::new(folder.join("routes.copy"));
        let mut keep = |epoch, begun: u64, ended: u64| {
            let times = std::cell::Cell::new(Some(Duration::from_millis(begun)));
            let clock = || times.take().unwrap_or(Duration::from_millis(ended));
            saved.tick(Some(&copy(epoch)), clock);
            saved.load().unwrap().epoch().0
        };
        assert_eq!(keep(1, 0, 2), 1);
        assert_eq!(keep(2, 900, 900), 1);
        // This one takes half a second, so the next waits for ten.
        assert_eq!(keep(2, 1_002, 1_502), 2);
        assert_eq!(keep(3, 11_400, 11_400), 2);
        assert_eq!(keep(3, 11_502, 11_503), 3);
        fs::remove_dir_all(folder).unwrap();
    }
}
