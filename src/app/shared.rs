//! What all threads of a relay share, made once.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::IntCounter;

use super::policies::policies;
use super::queue_thread::{self, Ends, Ways};
use super::status::Status;
use super::{AppError, routes};
use crate::calls::CallPolicies;
use crate::control::shadows::{self, Shadows};
use crate::control::tokens::TokenKeys;
use crate::control::{access, keys, mover, provisional, worker};
use crate::delivery::SharedDirectory;
use crate::model::{Geo, Place, UnitId};
use crate::peer::credentials::{Credentials, CredentialsHandle, Own};
use crate::peer::quic::Quic;
use crate::peer::refusals::Refusals;
use crate::routing::metrics::LookUpSeries;
use crate::routing::token::TokenSeries;
use crate::settings::{Checked, Settings};
use crate::telemetry::Registry;
use crate::telemetry::calls::CallSeries;
use crate::telemetry::kept::KeptSeries;
use crate::{admin, admission, delivery, ingress, peer, queue, routing};

/// All that shards share, made once.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) geo: Geo,
    pub(super) place: Place,
    pub(super) data_dir: PathBuf,
    pub(super) policies: Arc<ArcSwap<CallPolicies>>,
    pub(super) retries: Arc<admission::RetryBudgets>,
    pub(super) framed: delivery::framed::Limits,
    pub(super) routing: routing::Handle,
    pub(super) quic: Quic,
    pub(super) directory: Arc<SharedDirectory>,
    pub(super) elsewhere: Arc<peer::Elsewhere>,
    pub(super) roster: Arc<peer::Roster>,
    pub(super) observers: Arc<peer::Observers>,
    /// Where lines of other relays go, if this one has the routes.
    pub(super) lines: Option<peer::Lines>,
    pub(super) series: Series,
    pub(super) queue: Ways,
    /// The way to the thread of the routes, if there is a route store.
    pub(super) routes: Option<routes::Ways>,
    /// The keys of route tokens, if there are any.
    pub(super) tokens: Option<TokenKeys>,
    /// Who owns keys, for services that ask.
    pub(super) keys: keys::Desk,
    /// Where clients of users connect, for gateways that ask.
    pub(super) access: access::Desk,
    pub(super) status: Arc<Status>,
    pub(super) health: admin::Health,
}

impl Shared {
    pub(super) fn route_policies(&self) -> admin::RoutePolicies {
        let policies = Arc::clone(&self.policies);
        Arc::new(move |service, method| policies.load().of(service).route_of_method(method).clone())
    }

    /// How connections to local services speak.
    pub(super) fn transports(&self) -> delivery::Transports {
        delivery::Transports {
            grpc: self.settings.delivery.grpc.clone(),
            grpc_metrics: self.series.delivery_grpc.clone(),
            framed: self.framed.clone(),
            framed_metrics: self.series.framed.delivery(),
            http1: self.settings.delivery.http1.clone(),
        }
    }
}

/// Series of all components.
pub(super) struct Series {
    pub(super) calls: CallSeries,
    pub(super) connections_refused: IntCounter,
    pub(super) delivery: delivery::Metrics,
    pub(super) delivery_grpc: delivery::grpc::Metrics,
    pub(super) framed: delivery::framed::Metrics,
    pub(super) ingress_grpc: ingress::grpc::Metrics,
    pub(super) peer: peer::Metrics,
    pub(super) routes: worker::Metrics,
    pub(super) moves: mover::Metrics,
    pub(super) provisional: provisional::Metrics,
    pub(super) lookups: LookUpSeries,
    pub(super) tokens: TokenSeries,
    pub(super) kept: KeptSeries,
}

/// The ends of ways that the app hands on.
pub(super) struct AllEnds {
    pub(super) queue: Ends,
    pub(super) routes: Option<routes::Ends>,
}

/// Makes what is shared, and the ends of the ways to the queue and to the routes.
pub(super) fn build(checked: Checked, registry: &Registry) -> Result<(Shared, AllEnds), AppError> {
    let series = registry.series();
    let Checked {
        settings,
        geo,
        unit,
        relay,
        data_dir,
        routes: table,
        admin: _,
        warnings: _,
    } = checked;
    let own = Own {
        geo: geo.clone(),
        unit: unit.clone(),
        relay: relay.clone(),
        lines: settings.line_role(),
    };
    let credentials = Credentials::load(&settings.peer, &settings.units, &own, peer::credentials::wall_clock())?;
    let credentials = CredentialsHandle::register(credentials, series)?;
    let quic = Quic::new(
        settings.peer.clone(),
        credentials,
        Arc::new(Refusals::register(series)?),
    )?;
    let shards = shard_count(settings.relay.shards);
    let units = settings.units.keys().chain([&unit]).cloned();
    let (queue, ends, answers) = queue_thread::ways(&settings.queue, shards, queue::Metrics::register(series, &unit)?);
    let shadows = Shadows::new(shadows::Metrics::register(series)?);
    let (routes, route_ends, lines) = match routes::ways(&settings, shards, answers, shadows) {
        Some((ways, ends, lines)) => (Some(ways), Some(ends), Some(lines)),
        None => (None, None, None),
    };
    let ends = AllEnds {
        queue: ends,
        routes: route_ends,
    };
    let lines = lines.filter(|_| settings.is_route_authority());
    let tokens = TokenKeys::open(&settings.routes)?;
    let all_series = all_series(series, &unit)?;
    let routing = routing::Handle::new(table);
    let tokens_given = tokens.clone().map(|keys| (keys, all_series.tokens.clone()));
    let keys = keys_desk(&unit, &routing, routes.as_ref(), tokens_given);
    let access = access_desk(&settings, &unit, &geo, &routing, routes.as_ref(), series)?;
    let shared = Shared {
        queue,
        routes,
        tokens,
        keys,
        access,
        routing,
        quic,
        directory: SharedDirectory::new(shards),
        elsewhere: peer::Elsewhere::new(shards, settings.delivery.crossing_in_flight_max),
        roster: Arc::default(),
        observers: Arc::default(),
        lines,
        policies: Arc::new(ArcSwap::from_pointee(policies(&settings))),
        retries: admission::RetryBudgets::new(units, shards, settings.retry.clone()),
        framed: settings.ingress.framed.limits()?,
        series: all_series,
        status: Arc::new(Status::new(&settings, shards)),
        health: admin::Health::new(),
        place: Place { unit, relay },
        settings,
        geo,
        data_dir,
    };
    Ok((shared, ends))
}

/// Answers services that ask who owns keys.
fn keys_desk(
    unit: &UnitId,
    routing: &routing::Handle,
    routes: Option<&routes::Ways>,
    tokens: Option<(TokenKeys, TokenSeries)>,
) -> keys::Desk {
    keys::Desk::new(keys::Parts {
        unit: unit.clone(),
        routing: routing.clone(),
        claims: routes.map(|routes| routes.claims.clone()),
        ask: routes.map(routes::Ways::ask),
        tokens,
    })
}

/// Answers gateways.
fn access_desk(
    settings: &Settings,
    unit: &UnitId,
    geo: &Geo,
    routing: &routing::Handle,
    routes: Option<&routes::Ways>,
    series: &prometheus::Registry,
) -> Result<access::Desk, AppError> {
    Ok(access::Desk::new(access::Parts {
        unit: unit.clone(),
        geo: geo.clone(),
        dimension: settings.access.dimension.clone(),
        directory: settings.access_directory(),
        routing: routing.clone(),
        claims: routes.map(|routes| routes.claims.clone()),
        metrics: access::Metrics::register(series)?,
    }))
}

fn all_series(series: &prometheus::Registry, unit: &UnitId) -> Result<Series, AppError> {
    Ok(Series {
        calls: CallSeries::register(series)?,
        connections_refused: connections_refused(series)?,
        delivery: delivery::Metrics::register(series)?,
        delivery_grpc: delivery::grpc::Metrics::register(series)?,
        framed: delivery::framed::Metrics::register(series)?,
        ingress_grpc: ingress::grpc::Metrics::register(series)?,
        peer: peer::Metrics::register(series, unit)?,
        routes: worker::Metrics::register(series)?,
        moves: mover::Metrics::register(series)?,
        provisional: provisional::Metrics::register(series)?,
        lookups: LookUpSeries::register(series)?,
        tokens: TokenSeries::register(series)?,
        kept: KeptSeries::register(series)?,
    })
}

fn connections_refused(registry: &prometheus::Registry) -> Result<IntCounter, prometheus::Error> {
    let refused = IntCounter::new(
        "strait_ingress_connections_refused_total",
        "Local connections closed at once because ingress.connections_max was reached.",
    )?;
    registry.register(Box::new(refused.clone()))?;
    Ok(refused)
}

fn shard_count(wanted: usize) -> usize {
    if wanted > 0 {
        return wanted;
    }
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
