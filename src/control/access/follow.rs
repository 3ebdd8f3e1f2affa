//! Users whose homes are followed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::advice::{Home, Say, Told, say};
use super::points::{Place, after, points};
use super::{Desk, Directory, Inner, Listed, News, Point, ReAttach, User};
use crate::control::claims::{Claims, Outcome};
use crate::model::{ANY_KEY, Key, Name, RouteHints, UnitId};
use crate::routing::record::KeyBytes;
use crate::routing::{Evidence, Found, KeyHash, Known, RouteError, RouteTable, Standing};

/// Users whose homes are followed.
pub struct Following {
    desk: Desk,
    dimension: Name,
    users: Vec<Followed>,
    changes: watch::Receiver<u64>,
    /// Counts against what may be followed at the relay.
    is_counted: bool,
    /// Looks are bounded (E3): the next one comes no earlier.
    look_at: Instant,
    /// When the store is asked about users whose home is not known.
    ask_at: Instant,
}

struct Followed {
    hints: RouteHints,
    /// The user's claim, once it was heard of: what a relay remembers of claims is bounded, and a user must not lose its home by it.
    claim: Option<Known>,
    /// The store was asked last for its claim, and did not say.
    in_doubt: bool,
    /// Of the copy by which its home was looked for last, and found.
    digest: Option<(u64, u64)>,
    /// The home that the gateway was told of before.
    before: Option<UnitId>,
    told: Option<Told>,
}

impl Following {
    pub(super) fn new(desk: Desk, dimension: Name, users: Vec<User>) -> Self {
        let followed = |user: User| Followed {
            hints: RouteHints {
                keys: vec![Key {
                    dimension: Bytes::copy_from_slice(dimension.as_str().as_bytes()),
                    key: user.key.0,
                }],
                ..RouteHints::default()
            },
            claim: None,
            in_doubt: false,
            digest: None,
            before: user.home,
            told: None,
        };
        let users = users.into_iter().map(followed).collect();
        Self {
            changes: desk.0.routing.changes(),
            desk,
            dimension,
            users,
            is_counted: false,
            look_at: Instant::now(),
            ask_at: Instant::now(),
        }
    }

    /// Those that are followed are counted at the desk until this is dropped.
    pub(super) fn counted(mut self) -> Self {
        self.is_counted = true;
        self
    }

    /// All users at first, 100 at a time, then those of which something is to be told. May be dropped while it waits.
    pub async fn next(&mut self) -> News {
        loop {
            sleep_until(self.look_at).await;
            if self.ask_at <= Instant::now() {
                self.ask().await;
                self.ask_at = Instant::now() + ASK_EVERY;
            }
            self.changes.borrow_and_update();
            let news = self.look();
            if news.users.len() + news.advice.len() < NEWS_MAX {
                self.look_at = Instant::now() + LOOK_EVERY;
            }
            if !(news.users.is_empty() && news.advice.is_empty()) {
                return news;
            }
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = sleep_until(self.ask_at), if self.users.iter().any(Followed::is_lost) => {}
            }
        }
    }

    /// Asks the store for claims of users whose home is not known; others may have claimed them.
    async fn ask(&mut self) {
        let Some(claims) = self.desk.0.claims.clone() else {
            return;
        };
        let table = self.desk.0.routing.table();
        let mut asked = Vec::new();
        for (at, user) in self.users.iter().enumerate().filter(|(_, user)| user.is_lost()) {
            if user.is_unclaimed(&table, &self.dimension, &self.desk.0) {
                let key = (self.dimension.clone(), KeyBytes(user.key()));
                asked.push((at, claims.look_up(key)));
            }
        }
        drop(table);
        for (at, answer) in asked {
            let answer = answer.await;
            if let Some(user) = self.users.get_mut(at) {
                user.hear(answer.ok());
            }
        }
    }

    /// What is to be told now, of so many users at most.
    pub(super) fn look(&mut self) -> News {
        let inner = &self.desk.0;
        let table = inner.routing.table();
        let digest = table
            .routes()
            .map_or((0, table.version()), |routes| (routes.digest(), 0));
        let directory = inner.directory.load_full();
        let view = View {
            inner,
            table: &table,
            directory: &directory,
            places: Inner::places(&directory, &table),
        };
        let mut news = News {
            epoch: table.version(),
            ..News::default()
        };
        for user in &mut self.users {
            if news.users.len() + news.advice.len() >= NEWS_MAX {
                break;
            }
            if user.digest == Some(digest) {
                continue;
            }
            user.hear_of_claim(&table, &self.dimension, inner.claims.as_ref());
            let home = user.home(&table, inner);
            // Without home, a claim that is heard of is news as well.
            user.digest = matches!(home, Home::At { .. }).then_some(digest);
            user.tell(&view, &home, &mut news);
        }
        news
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.is_counted {
            self.desk.0.followed.fetch_sub(self.users.len(), Ordering::Relaxed);
            self.desk.0.metrics.on_left(self.users.len());
        }
    }
}

/// What a look is by.
struct View<'a> {
    inner: &'a Inner,
    table: &'a RouteTable,
    directory: &'a Directory,
    places: Vec<Place<'a>>,
}

impl Followed {
    /// Its home was not found, or not looked for yet.
    fn is_lost(&self) -> bool {
        self.digest.is_none()
    }

    /// The store was asked for its claim; `None`: there was no answer.
    fn hear(&mut self, outcome: Option<Outcome>) {
        self.in_doubt = false;
        match outcome {
            Some(Outcome::Won(holder) | Outcome::Lost(holder)) => self.claim = Some(holder.into()),
            Some(Outcome::Free) => {}
            Some(Outcome::Away | Outcome::Full | Outcome::Denied(_)) | None => self.in_doubt = true,
        }
    }

    fn key(&self) -> Bytes {
        self.hints.keys.first().map(|key| key.key.clone()).unwrap_or_default()
    }

    fn is_unclaimed(&self, table: &RouteTable, dimension: &Name, inner: &Inner) -> bool {
        let found = self.resolve(table, inner).err();
        matches!(found, Some(RouteError::Unclaimed { dimension: unclaimed, .. }) if unclaimed == *dimension)
    }

    /// Keeps what is known of its claim.
    fn hear_of_claim(&mut self, table: &RouteTable, dimension: &Name, claims: Option<&Claims>) {
        let (Some(routes), Some(claims), Some(key)) = (table.routes(), claims, self.hints.keys.first()) else {
            return;
        };
        if let Found::Known(known) = claims.claim(dimension, &key.key, routes.hash(&key.dimension, &key.key)) {
            let is_newer = self.claim.as_ref().is_none_or(|kept| kept.as_of < known.as_of);
            if is_newer {
                self.claim = Some(known);
            }
        }
    }

    fn home(&self, table: &RouteTable, inner: &Inner) -> Home {
        self.resolve(table, inner).unwrap_or_else(|error| match error {
            RouteError::Unclaimed { .. } if self.in_doubt => Home::Nowhere(IN_DOUBT.to_owned()),
            error => Home::Nowhere(error.to_string()),
        })
    }

    fn resolve(&self, table: &RouteTable, inner: &Inner) -> Result<Home, RouteError> {
        let evidence = Heard {
            user: self,
            claims: &inner.claims,
        };
        let decision = table.resolve(&self.hints, &ANY_KEY, &inner.unit, &evidence)?;
        Ok(Home::At {
            unit: decision.unit.clone(),
            epoch: decision.epoch,
            is_moving: matches!(decision.standing, Standing::Frozen { .. }),
        })
    }

    /// Adds to the news what is to be told.
    fn tell(&mut self, view: &View<'_>, home: &Home, news: &mut News) {
        let here = &view.inner.unit;
        let is_first = self.told.is_none();
        let mut told = self
            .told
            .take()
            .unwrap_or_else(|| Told::first(home, self.before.take(), here));
        let said = say(&told, home);
        if is_first || said == Say::State {
            news.users.push(self.listed(view, home));
        }
        if let (Home::At { unit, .. }, true) = (home, said != Say::Nothing) {
            let previous = std::mem::replace(&mut told, Told::at(unit.clone())).place;
            if said == Say::ReAttach {
                let spread = view.directory.spread;
                news.advice.push(ReAttach {
                    now: self.listed(view, home),
                    previous,
                    after: after(unit, &self.key(), spread),
                    within: spread,
                });
                view.inner.metrics.on_advice();
            }
        }
        self.told = Some(told);
    }

    fn listed(&self, view: &View<'_>, home: &Home) -> Listed {
        let user = KeyBytes(self.key());
        let (unit, epoch, is_moving, detail) = match home {
            Home::At { unit, epoch, is_moving } => (Some(unit), *epoch, *is_moving, String::new()),
            Home::Nowhere(why) => (None, view.table.version(), false, why.clone()),
        };
        Listed {
            points: view.points(unit, &user.0),
            user,
            home: unit.cloned(),
            epoch,
            is_moving,
            detail,
        }
    }
}

impl View<'_> {
    fn points(&self, home: Option<&UnitId>, user: &[u8]) -> Vec<Point> {
        let first = home.unwrap_or(&self.inner.unit);
        let limit = self.directory.points_max;
        points(&self.places, first, &self.inner.geo, user, limit)
    }
}

/// What was heard of claims, that of this user included.
struct Heard<'a> {
    user: &'a Followed,
    claims: &'a Option<Claims>,
}

impl Evidence for Heard<'_> {
    fn claim(&self, dimension: &Name, key: &[u8], hash: KeyHash) -> Found {
        let mut keys = self.user.hints.keys.iter();
        let is_user = keys.any(|user| user.dimension == dimension.as_str() && user.key == key);
        match &self.user.claim {
            Some(known) if is_user => Found::Known(known.clone()),
            _ => self.claims.claim(dimension, key, hash),
        }
    }
}

/// Of a user that nobody is known to have claimed, while nobody can be asked.
const IN_DOUBT: &str = "it cannot be known now whether a unit has claimed this user: the route store does not answer; ask again when \
                        it does, `strait route status` shows how it stands";
/// Users that are told of at once: their points make an update of some hundred KiB at most.
const NEWS_MAX: usize = 100;
/// A unit that is drained changes the copy hundreds of times a second; clients have seconds.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the store is asked about users whose home is not known.
const ASK_EVERY: Duration = Duration::from_secs(30);
