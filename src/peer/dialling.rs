//! Dials the relays of other units: keeps one link to each, and puts another in the place of one that goes.
//!
//! # Invariants
//! - P1. A relay with an address is dialled again and again, with jitter, for as long as the settings name it (C-L4).
//! - P4. A link that is to be replaced retires only when the one in its place is up (O-S2).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::handshake::{self, HandshakeError};
use super::link::Link;
use super::pool::{Greetings, Peers};
use super::quic;
use super::refusals::Direction;
use super::settings::{RelaySettings, Units};
use super::upkeep::Made;
use super::verify::Dialled;
use crate::model::{RelayName, UnitId};
use crate::telemetry::Chain;
use crate::wire::hello::Purpose;

/// Why a relay could not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address has no meaning.
    #[error("address {0:?} does not resolve")]
    Address(String, #[source] std::io::Error),
    /// The address has no meaning.
    #[error("address {0:?} resolves to nothing")]
    NoAddress(String),
    /// The QUIC or TLS handshake failed.
    #[error("no connection to {0}")]
    Connection(SocketAddr, #[source] quinn::ConnectionError),
    /// The relay there takes no lines.
    #[error(
        "the relay at {0} does not have the routes; [routes] must name the same authority at all relays of the Geo"
    )]
    NoRoutes(SocketAddr),
    /// The attempt could not be made.
    #[error("cannot dial {0}")]
    Dial(SocketAddr, #[source] quinn::ConnectError),
    /// The relays do not understand each other.
    #[error("the handshake with {0} failed")]
    Handshake(SocketAddr, #[source] HandshakeError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] quic::QuicError),
    /// It took too long.
    #[error("no answer from {address} within {}", humantime::format_duration(*.limit))]
    Slow {
        /// Whom we asked.
        address: String,
        /// How long we waited.
        limit: Duration,
    },
}

/// How one relay is dialled, for both connections of a link.
struct Configs {
    dialled: Dialled,
    lanes: quinn::ClientConfig,
    bodies: quinn::ClientConfig,
}

/// A relay that is dialled for as long as the settings say so.
pub(super) struct Kept {
    unit: UnitId,
    /// As the settings have it now.
    relay: RefCell<RelaySettings>,
    link: RefCell<Weak<Link>>,
    stop: CancellationToken,
}

impl Kept {
    fn name(&self) -> RelayName {
        self.relay.borrow().name.clone()
    }

    /// The settings have other addresses for the relay: another link is made there.
    fn on_moved(&self, relay: RelaySettings) {
        self.relay.replace(relay);
        if let Some(link) = self.link.borrow().upgrade() {
            link.on_renewal_wanted();
        }
    }

    /// Tells a new link what happened while it was dialled.
    fn catch_up(&self, dialled: &RelaySettings, link: &Link) {
        if self.stop.is_cancelled() {
            link.retire();
        } else if *dialled != *self.relay.borrow() {
            link.on_renewal_wanted();
        }
    }

    /// The relay is dialled no more; its link ends with its calls.
    fn end(&self) {
        self.stop.cancel();
        if let Some(link) = self.link.borrow().upgrade() {
            link.retire();
        }
    }
}

impl Peers {
    /// Dials what the settings say now, and no longer what they do not. Links to relays that stay are left alone.
    pub(super) fn dial_as_configured(self: &Rc<Self>, units: &Units) {
        let wanted = units.iter().filter(|(_, settings)| settings.dial);
        let mut wanted: BTreeMap<(UnitId, RelayName), RelaySettings> = wanted
            .flat_map(|(unit, settings)| settings.relays.iter().map(move |relay| (unit, relay)))
            .filter(|(_, relay)| !relay.addresses.is_empty())
            .map(|(unit, relay)| ((unit.clone(), relay.name.clone()), relay.clone()))
            .collect();
        self.kept.borrow_mut().retain(|kept| {
            let stays = wanted.remove(&(kept.unit.clone(), kept.name()));
            match stays {
                Some(relay) if relay == *kept.relay.borrow() => true,
                Some(relay) => {
                    kept.on_moved(relay);
                    true
                }
                None => {
                    kept.end();
                    false
                }
            }
        });
        for ((unit, _), relay) in wanted {
            let kept = Rc::new(Kept {
                unit,
                relay: RefCell::new(relay),
                link: RefCell::default(),
                stop: self.closing.child_token(),
            });
            self.kept.borrow_mut().push(Rc::clone(&kept));
            self.spawn(self.clone().keep(kept));
        }
    }

    /// Keeps a link to one relay up (P1).
    async fn keep(self: Rc<Self>, kept: Rc<Kept>) {
        let configs = match self.configs(&kept.unit, &kept.name()) {
            Ok(configs) => configs,
            Err(error) => return self.on_trouble(&kept, &error.into()),
        };
        let mut backoff = Backoff::default();
        let mut turn = 0_usize;
        let mut before: Option<Rc<Link>> = None;
        while !kept.stop.is_cancelled() {
            let relay = kept.relay.borrow().clone();
            let address = relay
                .addresses
                .get(turn % relay.addresses.len().max(1))
                .cloned()
                .unwrap_or_default();
            let limit = self.parts.settings.handshake_timeout;
            let dialled = tokio::select! {
                dialled = timeout(limit, self.dial(&kept, &configs, &address)) => dialled,
                () = kept.stop.cancelled() => return,
            };
            match dialled {
                Ok(Ok(greetings)) => {
                    backoff.reset();
                    if let Some(link) = self.adopt(greetings) {
                        kept.link.replace(Rc::downgrade(&link));
                        kept.catch_up(&relay, &link);
                        // Only now (P4).
                        if let Some(before) = before.take() {
                            before.retire();
                        }
                        if self.until_renewal(&kept, &link).await {
                            before = Some(link);
                            continue;
                        }
                    }
                }
                Ok(Err(error)) => {
                    turn = turn.wrapping_add(1);
                    self.on_trouble(&kept, &error);
                }
                Err(_) => {
                    turn = turn.wrapping_add(1);
                    self.on_trouble(&kept, &ConnectError::Slow { address, limit });
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.after_failure(fastrand::f64())) => {}
                () = kept.stop.cancelled() => return,
            }
        }
    }

    /// Waits until another link should take the place of this one (true), or it has ended.
    async fn until_renewal(&self, kept: &Kept, link: &Link) -> bool {
        tokio::select! {
            () = link.closed.cancelled() => return false,
            () = kept.stop.cancelled() => return false,
            () = link.renewal_wanted() => {}
        }
        // A peer can ask for link after link and leave a call on each: neither their rate nor their number is
        // the peer's choice.
        loop {
            tokio::select! {
                () = link.closed.cancelled() => return false,
                () = kept.stop.cancelled() => return false,
                () = tokio::time::sleep(RENEWAL_PAUSE) => {}
            }
            if self.retiring(&link.peer) < RETIRING_MAX {
                return true;
            }
        }
    }

    fn configs(&self, unit: &UnitId, relay: &RelayName) -> Result<Configs, quic::QuicError> {
        let dialled = Dialled {
            unit: unit.clone(),
            relay: Some(relay.clone()),
        };
        let lanes = self.parts.quic.client_config(dialled.clone(), quic::Purpose::Lanes)?;
        let bodies = self.parts.quic.client_config(dialled.clone(), quic::Purpose::Bodies)?;
        Ok(Configs { dialled, lanes, bodies })
    }

    async fn dial(&self, kept: &Kept, configs: &Configs, address: &str) -> Result<Greetings, ConnectError> {
        let made = Made {
            dialled: Some(configs.dialled.clone()),
            own: self.parts.quic.credentials().current(),
        };
        let resolved = tokio::net::lookup_host(address).await;
        let mut resolved = resolved.map_err(|error| ConnectError::Address(address.to_owned(), error))?;
        let at = resolved
            .next()
            .ok_or_else(|| ConnectError::NoAddress(address.to_owned()))?;
        let failed = |error| ConnectError::Handshake(at, error);
        let link_id: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(16).collect();
        let lanes = self.connect(&configs.lanes, at).await?;
        let lanes = handshake::greet(lanes, &self.hello(Purpose::Lanes, link_id.clone())).await;
        let lanes = lanes.inspect_err(|error| self.report(at, error)).map_err(failed)?;
        let streams = handshake::open_lanes(&lanes.connection, self.parts.settings.lanes.max(1))
            .await
            .map_err(failed)?;
        let bodies = self.connect(&configs.bodies, at).await?;
        let bodies = handshake::greet(bodies, &self.hello(Purpose::Bodies, link_id))
            .await
            .map_err(failed)?;
        tracing::debug!(peer.unit = %kept.unit, peer.relay = %kept.name(), peer.address = %at, "link dialled");
        Ok(Greetings {
            lanes,
            streams,
            bodies: bodies.connection,
            made,
        })
    }

    async fn connect(&self, config: &quinn::ClientConfig, at: SocketAddr) -> Result<quinn::Connection, ConnectError> {
        let connecting = self.parts.dialler.connect_with(config.clone(), at, quic::SERVER_NAME);
        let connecting = connecting.map_err(|error| ConnectError::Dial(at, error))?;
        connecting.await.map_err(|error| {
            self.parts.quic.report(Direction::Dialled, at, &error);
            ConnectError::Connection(at, error)
        })
    }

    /// A peer that refuses our certificate says so only after the connection seems open.
    fn report(&self, at: SocketAddr, error: &HandshakeError) {
        if let Some(error) = error.lost() {
            self.parts.quic.report(Direction::Dialled, at, error);
        }
    }

    fn on_trouble(&self, kept: &Kept, error: &ConnectError) {
        self.parts.metrics.on_connect_failed(&kept.unit);
        let Some(known) = self.unit(&kept.unit) else { return };
        let relay = kept.name();
        let text = format!("relay {relay}: {}", Chain(error));
        // Said once per kind of trouble, not once per attempt.
        if known.trouble.borrow().as_ref() != Some(&text) {
            tracing::warn!(peer.unit = %kept.unit, peer.relay = %relay, error = %Chain(error), "cannot reach relay; trying on");
            *known.trouble.borrow_mut() = Some(text);
        }
    }
}

/// Between the wish for another link and the attempt to make it.
const RENEWAL_PAUSE: Duration = Duration::from_millis(200);
/// Links to one relay that may wait for their last call, per shard.
const RETIRING_MAX: usize = 8;
