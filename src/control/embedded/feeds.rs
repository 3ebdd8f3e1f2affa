//! Who hears of changes, and of reports.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::control::ledger::Ledger;
use crate::control::store::{Feed, Reports, StoreError};
use crate::routing::record::{Batch, Rev};

/// The feeds that are read.
#[derive(Default)]
pub(super) struct Feeds(Vec<Reader>);

/// Who waits for reports.
#[derive(Default)]
pub(super) struct Waiting(Vec<mpsc::Sender<()>>);

struct Reader {
    at: Rev,
    sender: mpsc::Sender<Result<Batch, StoreError>>,
}

impl Feeds {
    /// A feed from a revision on.
    pub(super) fn add(&mut self, from: Rev, ledger: &Ledger) -> Result<Feed, StoreError> {
        let first = ledger.since(from).ok_or(StoreError::Compacted)?;
        let (sender, feed) = mpsc::channel(WAITING_MAX);
        let mut reader = Reader { at: from, sender };
        if reader.send(first) {
            self.0.push(reader);
        }
        Ok(feed)
    }

    /// Tells everybody what has changed; `progress`: also those for whom nothing has.
    pub(super) fn tell(&mut self, ledger: &Ledger, progress: bool) {
        let now = ledger.epoch().rev();
        self.0.retain_mut(|reader| {
            if reader.at == now && !progress {
                return true;
            }
            match ledger.since(reader.at) {
                Some(batch) => reader.send(batch),
                None => false,
            }
        });
    }
}

impl Waiting {
    pub(super) fn add(&mut self) -> Reports {
        self.0.retain(|sender| !sender.is_closed());
        let (sender, reports) = mpsc::channel(1);
        self.0.push(sender);
        reports
    }

    /// Whoever has not taken the last word hears of this with it.
    pub(super) fn tell(&self) {
        for sender in &self.0 {
            let _ = sender.try_send(());
        }
    }
}

impl Reader {
    /// `false` if it is gone. One that is slow hears of it with the next batch.
    fn send(&mut self, batch: Batch) -> bool {
        let rev = batch.rev;
        match self.sender.try_send(Ok(batch)) {
            Ok(()) => {
                self.at = rev;
                true
            }
            Err(TrySendError::Full(_)) => true,
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// Batches that wait for one reader.
const WAITING_MAX: usize = 64;
