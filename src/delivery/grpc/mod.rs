//! Hands calls to a local service over cleartext HTTP/2.
//!
//! # Path
//! [`connect`] makes a [`Connection`], which callers see as an endpoint, and the future that drives it:
//! it takes events out of its mailbox, opens streams, reads replies in batches and combines what belongs
//! to one call.
//!
//! # Invariants
//! - D1. A call that is lost before its stream was opened, or that the service says it has not processed, is
//!   `Retry::Safe`; every other loss is `Retry::Ambiguous`.
//! - D2. The service never sees more time than remains (C-D1).
//! - D3. Streams never exceed what the service allows; calls that wait for one are bounded.
//! - D4. A Grpc body passes byte for byte; a Framed one is wrapped, and its reply unwrapped (C-G5).
//!
//! # Not here
//! Which endpoint gets a call, and when to connect again.

mod call;
mod connection;
mod driver;
mod metrics;
mod settings;

use std::future::{Future, poll_fn};
use std::rc::Rc;

use bytes::Bytes;

pub use connection::Connection;
pub use metrics::Metrics;
pub use settings::Settings;

use crate::wire::http2::{LinkEnd, SessionError};
use crate::wire::io::BoxIo;

/// Speaks HTTP/2 to a service over a connected socket. `authority` is what calls without one of their own
/// carry, such as `127.0.0.1:9000`.
///
/// The future must be polled for anything to happen; it ends when the connection does, and says why. When
/// it is dropped, calls under way fail as lost.
///
/// # Errors
/// [`SessionError::Memory`].
pub fn connect(
    io: BoxIo,
    authority: Bytes,
    settings: &Settings,
    metrics: Metrics,
) -> Result<(Rc<Connection>, impl Future<Output = LinkEnd> + use<>), SessionError> {
    let connection = Rc::new(Connection::new(settings));
    let mut driver = driver::Driver::new(io, authority, settings, metrics, Rc::clone(&connection))?;
    let run = async move { poll_fn(|cx| driver.poll(cx)).await };
    Ok((connection, run))
}
