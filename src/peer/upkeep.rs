//! Looks after one link: whether its peer may still be there, and whether another link should take its place.
//!
//! # Invariants
//! - V3. The peer of an open link is asked about again within a second after other credentials are in force, and at
//!   least every [`RECHECK_INTERVAL`]: lists and certificates expire without a reload (I11).
//!
//! # Not here
//! How long a link may live (`life`); what is done about the verdict (`session`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::credentials::{Credentials, wall_clock};
use super::inspect::Shown;
use super::life::{Life, Limit, Step, Terms};
use super::quic::{self, Quic};
use super::refusals::Direction;
use super::roster::Row;
use super::session::Ended;
use super::verify::{Dialled, Refusal};

/// What is known of a link that was just made.
pub(super) struct Made {
    /// Whom we dialled, `None` if the peer did.
    pub(super) dialled: Option<Dialled>,
    /// The credentials in force when its handshake began.
    pub(super) own: Arc<Credentials>,
}

/// Looks after one link.
pub(super) struct Upkeep {
    quic: Quic,
    terms: Terms,
    made: Made,
    lanes: quinn::Connection,
    bodies: quinn::Connection,
    life: Life,
    /// The credentials with which the peer was last asked about, and when.
    seen: Arc<Credentials>,
    checked: Instant,
    /// When it ends because its unit is no longer in the settings.
    leaves_at: Option<Instant>,
    row: Rc<Row>,
}

/// What should become of a link now.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It ends at once.
    End(Ended, String),
    /// It goes on.
    Keep,
    /// It ends with its calls, and no other takes its place.
    Leave,
    /// Another link should take its place.
    Replace,
}

impl Upkeep {
    pub(super) fn new(
        quic: Quic,
        terms: Terms,
        made: Made,
        (lanes, bodies): (quinn::Connection, quinn::Connection),
        row: Row,
    ) -> Self {
        let now = Instant::now();
        let wall = wall_clock();
        let valid_for = valid_for(&made.own, [&lanes, &bodies], wall);
        let life = Life::new(now.into_std(), &terms, valid_for, fastrand::f64());
        let ends_at = wall.as_secs().saturating_add(life.left(now.into_std()).as_secs());
        let peer = quic::chain_of(&lanes).and_then(|chain| chain.first().map(Shown::of));
        let row = Rc::new(row);
        row.set(|link| {
            link.own = made.own.shown();
            link.peer = peer.unwrap_or_default();
            link.ends_at = i64::try_from(ends_at).unwrap_or(i64::MAX);
        });
        Self {
            life,
            seen: Arc::clone(&made.own),
            checked: now,
            leaves_at: None,
            quic,
            terms,
            made,
            lanes,
            bodies,
            row,
        }
    }

    /// The entry of the link on status pages.
    pub(super) fn row(&self) -> Rc<Row> {
        Rc::clone(&self.row)
    }

    /// Whether this relay dialled.
    pub(super) fn has_dialled(&self) -> bool {
        self.made.dialled.is_some()
    }

    /// Called once a second.
    pub(super) fn on_tick(&mut self, now: Instant) -> Verdict {
        let current = self.quic.credentials().current();
        let changed = !Arc::ptr_eq(&current, &self.seen);
        if changed && !current.shows_same_as(&self.made.own) {
            self.life
                .on_new_credentials(now.into_std(), &self.terms, fastrand::f64());
        }
        if changed || now.duration_since(self.checked) >= RECHECK_INTERVAL {
            self.seen = current;
            self.checked = now;
            match self.recheck(wall_clock()) {
                // Back in the settings: the link was told to end already, so another takes its place.
                Ok(()) if self.leaves_at.take().is_some() => return Verdict::Replace,
                Ok(()) => {}
                // Not for want of trust: the operator took the unit out of the settings. Its calls may end.
                Err(Refusal::UnknownUnit(_)) if self.leaves_at.is_none() => {
                    self.leaves_at = Some(now + LEAVE_WAIT);
                    return Verdict::Leave;
                }
                Err(Refusal::UnknownUnit(_)) if self.leaves_at.is_some_and(|at| now < at) => {}
                Err(refusal) => return self.refused(&refusal),
            }
        }
        match self.life.step(now.into_std()) {
            Step::Keep => Verdict::Keep,
            Step::Replace => Verdict::Replace,
            Step::End(Limit::Age) => Verdict::End(Ended::Age, "it reached peer.link_age_max".to_owned()),
            Step::End(Limit::Expiry) => {
                Verdict::End(Ended::Expired, "a certificate it was made with expires".to_owned())
            }
        }
    }

    fn refused(&self, refusal: &Refusal) -> Verdict {
        self.quic
            .report_link(self.direction(), self.lanes.remote_address(), refusal);
        Verdict::End(Ended::Refused, format!("{}: {refusal}", refusal.reason()))
    }

    fn recheck(&self, wall: UnixTime) -> Result<(), Refusal> {
        let check = |connection| {
            self.quic
                .recheck(connection, self.direction(), self.made.dialled.as_ref(), wall)
        };
        check(&self.lanes)?;
        // Nearly always the same chain twice; to check it costs signatures.
        if quic::chain_of(&self.lanes) != quic::chain_of(&self.bodies) {
            check(&self.bodies)?;
        }
        Ok(())
    }

    fn direction(&self) -> Direction {
        match self.made.dialled {
            Some(_) => Direction::Dialled,
            None => Direction::Accepted,
        }
    }
}

/// Time until the first certificate expires of those that the two sides have shown.
fn valid_for(own: &Credentials, connections: [&quinn::Connection; 2], wall: UnixTime) -> Duration {
    let chains = connections.into_iter().filter_map(quic::chain_of).flatten();
    let first = chains.filter_map(|der| not_after(&der)).fold(own.not_after(), i64::min);
    Duration::from_secs(u64::try_from(first).unwrap_or(0).saturating_sub(wall.as_secs()))
}

fn not_after(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// How often the peer of a link is asked about when nothing changed.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long calls may go on with a unit that is no longer in the settings; looks are [`RECHECK_INTERVAL`] apart.
const LEAVE_WAIT: Duration = Duration::from_secs(10);
