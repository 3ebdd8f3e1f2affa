//! Real relays as processes, real certificates, and paths between them that can be made bad.

mod admin;
mod background;
mod certs;
mod cluster;
mod directory;
#[allow(dead_code, reason = "each test binary does other things to it")]
mod etcd;
mod impairer;
mod injection;
mod ports;
mod relay;
#[allow(dead_code, reason = "benches/relay uses the rest of it")]
pub mod usage;

use std::time::Duration;

pub use admin::{Metrics, http_get, http_post, http_post_body, http_put};
pub use background::Background;
pub use certs::{Authority, Leaf};
pub use cluster::{Cluster, ClusterBuilder, DOMAIN};
pub use directory::Directory;
pub use etcd::Etcd;
pub use impairer::{Direction, Impairer, Impairment};
pub use injection::{Injection, SYNCS};
pub use ports::free_port;
pub use relay::Relay;

/// Waits until the probe gives a value; fails the test after the limit. Ask for a state, not for a
/// change: a change may have passed before the first look.
pub async fn wait_for<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = tokio::time::Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails the test if the future takes longer than the limit.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(limit, future).await;
    result.unwrap_or_else(|_| panic!("{what} took longer than {limit:?}"))
}
