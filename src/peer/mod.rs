//! Links to relays of other units: who they are, how they are reached, and the calls on them.
//!
//! # Path
//! `pool` dials and accepts, `tls` and `verify` decide who may, `handshake` makes two connections a link,
//! `session` runs it, `lane` and `bodies` carry what `link` says; `life` and `upkeep` decide when it is replaced or ended.
//! `messages` are lanes of their own, for stories that have messages; a `line` leads to the relay that has the routes. `observers` know which
//! units others reach.

mod accepting;
mod backoff;
mod bodies;
pub mod credentials;
mod credit;
pub mod dev_ca;
mod dialling;
mod elsewhere;
mod handshake;
pub mod identity;
pub mod inspect;
mod lane;
mod life;
mod line;
mod link;
pub mod messages;
mod metrics;
mod observers;
mod pem;
mod pool;
pub mod quic;
pub mod refusals;
mod reset;
mod roster;
mod session;
pub mod settings;
pub mod tls;
mod upkeep;
pub mod verify;

pub use dialling::ConnectError;
pub use elsewhere::Elsewhere;
pub use handshake::HandshakeError;
pub use line::{Line, LineDialler, LineIo, Lines};
pub use link::LinkPeer;
pub use messages::{Lane, LaneEnd, LaneHandler, LaneLink, LaneReader, LaneWriter};
pub use metrics::{LaneMetrics, LaneRefusal, Metrics};
pub use observers::{Observers, Others};
pub use pool::{Parts, Peers};
pub use roster::{LinkRow, Roster};
/// A bound socket for connections of peers.
pub type Listener = quinn::Endpoint;
pub use settings::{RelaySettings, Settings, UnitSettings, Units};
