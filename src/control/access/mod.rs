//! Where clients of users connect (L0), and when they should connect elsewhere because the home of their user (L1) has moved (S1, R-3.10).
//!
//! # Path
//! A gateway at the edge of this unit [lists](Desk::list) the access points for a user, or [follows](Desk::follow) the users whose
//! clients it has. `points` says in which order points come and when a client moves, `advice` whether a gateway is to be told.
//!
//! # Invariants
//! - E1. To list and to follow claims nothing.
//! - E2. Who follows hears of the present state of each user, however late it reads; what it has not read is not kept.
//! - E3. Users that are followed are bounded, each time and per relay, and so is what is told at once.
//! - E4. There is always somewhere to connect: a user whose home is not known gets the points of this unit first.
//!
//! # Not here
//! How it is asked (`ingress::access_list`, `admin::pages`), and who owns other keys (`keys`).

mod advice;
mod follow;
mod metrics;
mod points;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

pub use self::follow::Following;
pub use self::metrics::Metrics;
use self::points::{Place, Standing};
pub use self::settings::Settings;
use super::claims::Claims;
use crate::model::{Geo, Name, UnitId};
use crate::routing::record::{DimensionSpec, KeyBytes, State};
use crate::routing::{self, RouteTable};

/// What is needed to answer.
pub struct Parts {
    /// This unit.
    pub unit: UnitId,
    /// Its Geo.
    pub geo: Geo,
    /// The dimension of users; without it nothing is answered.
    pub dimension: Option<Name>,
    /// Where clients can connect.
    pub directory: Directory,
    /// The route table.
    pub routing: routing::Handle,
    /// Who has users that nothing else was decided about, if there is a route store.
    pub claims: Option<Claims>,
    /// What counts.
    pub metrics: Metrics,
}

/// Where clients can connect, as the settings in force say.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Geo and access points of each unit, this one among them.
    pub units: BTreeMap<UnitId, (Geo, Vec<Arc<str>>)>,
    /// Over what time clients connect anew.
    pub spread: Duration,
    /// Access points in a list.
    pub points_max: usize,
    /// Users that may be followed.
    pub users_max: usize,
}

/// Answers gateways. Clones are the same.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    unit: UnitId,
    geo: Geo,
    dimension: Option<Name>,
    directory: ArcSwap<Directory>,
    routing: routing::Handle,
    claims: Option<Claims>,
    metrics: Metrics,
    followed: AtomicUsize,
}

/// An address that clients can connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Point {
    /// The unit it leads to.
    pub unit: UnitId,
    /// As the settings have it.
    pub address: Arc<str>,
}

/// A user whose client a gateway has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// The user's key in the dimension of users.
    pub key: KeyBytes,
    /// The home that the gateway was told of before, by this relay or another; `None` if it was told of none.
    pub home: Option<UnitId>,
}

/// How it stands with a user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// The user.
    pub user: KeyBytes,
    /// Its home unit; `None` if it has none, or nobody knows.
    pub home: Option<UnitId>,
    /// Of what says so.
    pub epoch: u64,
    /// It is frozen on its way to another unit.
    pub is_moving: bool,
    /// Where to connect, in the order in which to try.
    pub points: Vec<Point>,
    /// Without home: why, for people.
    pub detail: String,
}

/// The client of this user should connect elsewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReAttach {
    /// How it stands now.
    pub now: Listed,
    /// Where the client belonged before.
    pub previous: UnitId,
    /// How long from now it should wait: the share of this user in the time there is.
    pub after: Duration,
    /// The time there is.
    pub within: Duration,
}

/// What is new of users that are followed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Of the copy that says so.
    pub epoch: u64,
    /// Those whose clients are where they belong, or that are told for the first time.
    pub users: Vec<Listed>,
    /// Those whose clients are not.
    pub advice: Vec<ReAttach>,
}

/// Why there is no answer, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The settings say nothing of users.
    #[error(
        "this relay knows no dimension of users; set access.dimension to one of routing.dimensions, and start it anew"
    )]
    Off,
    /// Too many users are followed.
    #[error(
        "{0} users are followed at this relay at most (access.users_max); follow fewer, or at another relay of the unit"
    )]
    Full(usize),
}

impl Desk {
    /// With these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            unit: parts.unit,
            geo: parts.geo,
            dimension: parts.dimension,
            directory: ArcSwap::from_pointee(parts.directory),
            routing: parts.routing,
            claims: parts.claims,
            metrics: parts.metrics,
            followed: AtomicUsize::new(0),
        }))
    }

    /// Other access points are in force, for what is told from now on.
    pub fn replace_directory(&self, directory: Directory) {
        self.0.directory.store(Arc::new(directory));
    }

    /// Where the client of a user connects. Asks the route store if this relay knows of no claim, for 2 seconds at most.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn list(&self, key: KeyBytes) -> Result<Listed, AccessError> {
        let user = User { key, home: None };
        let mut news = self.following(vec![user])?.next().await;
        let nobody = || AccessError::Invalid("name a user".to_owned());
        news.users.pop().ok_or_else(nobody)
    }

    /// Follows users until it is dropped.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn follow(&self, users: Vec<User>) -> Result<Following, AccessError> {
        let count = users.len();
        if count > FOLLOW_MAX {
            let detail = format!("{count} users are too many; at most {FOLLOW_MAX} at a time");
            return Err(AccessError::Invalid(detail));
        }
        let following = self.following(users)?;
        let limit = self.0.directory.load().users_max;
        let room = |followed: usize| followed.checked_add(count).filter(|sum| *sum <= limit);
        let followed = &self.0.followed;
        if followed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_err()
        {
            return Err(AccessError::Full(limit));
        }
        self.0.metrics.on_followed(count);
        Ok(following.counted())
    }

    /// Follows users that are not counted.
    fn following(&self, users: Vec<User>) -> Result<Following, AccessError> {
        let dimension = self.0.dimension.clone().ok_or(AccessError::Off)?;
        if users.is_empty() {
            return Err(AccessError::Invalid("name a user".to_owned()));
        }
        let table = self.0.routing.table();
        let spec = table.routes().and_then(|routes| routes.dimension(&dimension));
        let bytes_max = usize::from(spec.map_or(DimensionSpec::KEY_BYTES_MAX, |spec| spec.key_bytes_max));
        for (at, user) in users.iter().enumerate() {
            if !(1..=bytes_max).contains(&user.key.0.len()) {
                let bytes = user.key.0.len();
                let detail =
                    format!("user {at}: a key of {dimension} has 1 to {bytes_max} bytes, this one has {bytes}");
                return Err(AccessError::Invalid(detail));
            }
        }
        Ok(Following::new(self.clone(), dimension, users))
    }
}

impl Inner {
    /// All units with their access points, by the copy there is.
    fn places<'a>(directory: &'a Directory, table: &RouteTable) -> Vec<Place<'a>> {
        let states: HashMap<&UnitId, &State> = table
            .routes()
            .map(|routes| routes.units().collect())
            .unwrap_or_default();
        let place = |(unit, (geo, points)): (&'a UnitId, &'a (Geo, Vec<Arc<str>>))| Place {
            unit,
            geo,
            points,
            standing: states.get(unit).map_or(Standing::Takes, |state| Standing::from(*state)),
        };
        directory.units.iter().map(place).collect()
    }
}

/// Users that are followed at a time.
const FOLLOW_MAX: usize = 500;
