//! Settings of a client.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use super::tokens::Tokens;
use super::{Address, Client, ConnectError, Handle, Shared, worker};

/// Settings of a [`Client`] before it connects.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) address: String,
    pub(super) timeout: Duration,
    pub(super) in_flight_max: usize,
    pub(super) serving_max: u32,
    pub(super) message_bytes_max: usize,
    pub(super) backoff_max: Duration,
    pub(super) instance: String,
    pub(super) tokens_max: usize,
}

impl Builder {
    pub(super) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            timeout: Duration::from_secs(30),
            in_flight_max: 1024,
            serving_max: 1024,
            message_bytes_max: 16 * 1024 * 1024,
            backoff_max: Duration::from_secs(2),
            instance: String::new(),
            tokens_max: 500,
        }
    }

    /// Deadline of calls that name none. Default 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Calls under way at a time; more wait. Default 1024; the relay's own limit counts as well.
    #[must_use]
    pub fn in_flight_max(mut self, calls: usize) -> Self {
        self.in_flight_max = calls.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Calls to services of this client at a time; the relay sends no more. Default 1024.
    #[must_use]
    pub fn serving_max(mut self, calls: u32) -> Self {
        self.serving_max = calls;
        self
    }

    /// Longest reply or received request that is put together. Default 16 MiB.
    #[must_use]
    pub fn message_bytes_max(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// Longest wait between two attempts to connect. Default 2 s.
    #[must_use]
    pub fn backoff_max(mut self, wait: Duration) -> Self {
        self.backoff_max = wait;
        self
    }

    /// Name of this instance in the relay's logs. Default empty.
    #[must_use]
    pub fn instance(mut self, name: &str) -> Self {
        name.clone_into(&mut self.instance);
        self
    }

    /// Keys of each dimension whose route tokens are kept and sent along, those that are used most. Default 500, which is
    /// about 60 KiB; 0: none.
    #[must_use]
    pub fn tokens_max(mut self, keys: usize) -> Self {
        self.tokens_max = keys;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let address: Address = self.address.parse().map_err(ConnectError::Address)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Notify::new(),
            in_flight: Semaphore::new(self.in_flight_max),
            dropped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            services: Mutex::default(),
            tokens: Mutex::new(Tokens::new(self.tokens_max)),
        });
        let handle = Handle {
            shared: Arc::clone(&shared),
            timeout: self.timeout,
        };
        let connection = worker::connect(&address, &self).await?;
        let tasks = TaskTracker::new();
        tasks.spawn(worker::run(address, self, connection, shared, tasks.clone()));
        Ok(Client {
            handle: Arc::new(handle),
        })
    }
}
