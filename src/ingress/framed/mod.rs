//! Framed connections that local services make: calls out through us, and registered services.
//!
//! `proto/README.md` specifies the protocol. The connection itself is `delivery::framed`, because a
//! registered service is an endpoint like any other; here is what only accepted connections have.
//!
//! # Not here
//! Accepting sockets and handing them to shards (`app`).

mod settings;

use std::rc::Rc;

use tokio_util::sync::CancellationToken;

pub use self::settings::{Settings, SettingsError};
use crate::delivery::framed::{self, Ended, Limits, Side, Surroundings};
use crate::model::{Callee, Registry, Source, Subscriptions};
use crate::wire::io::BoxIo;

/// What all framed connections of a shard share.
pub struct Context {
    /// Where calls go.
    pub callee: Rc<dyn Callee>,
    /// Where those go that publish, if they say no other place; `None` if with all others.
    pub messages: Option<Rc<dyn Callee>>,
    /// Where services register; `None` switches registration off.
    pub registry: Option<Rc<dyn Registry>>,
    /// Where consumers of messages register; `None` switches that off.
    pub subscriptions: Option<Rc<dyn Subscriptions>>,
    /// Who calls, if all connections come from one known service.
    pub source: Option<Source>,
    /// Limits, from [`Settings::limits`].
    pub limits: Limits,
    /// Counters, from `delivery::framed::Metrics::ingress`.
    pub metrics: Side,
}

/// Serves one connection until it ends, or until no call is open on it after `drain`.
///
/// Every call that was taken has its ending by then, and every service is unregistered. Not cancel
/// safe: dropping it breaks the connection off without telling anybody.
pub async fn serve(io: BoxIo, context: Rc<Context>, drain: CancellationToken) -> Ended {
    let surroundings = Surroundings {
        callee: Some(Rc::clone(&context.callee)),
        messages: context.messages.clone(),
        registry: context.registry.clone(),
        subscriptions: context.subscriptions.clone(),
        source: context.source.clone(),
        limits: context.limits.clone(),
        metrics: context.metrics.clone(),
    };
    drop(context);
    framed::serve(io, surroundings, drain).await
}
