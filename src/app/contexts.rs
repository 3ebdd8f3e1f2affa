//! What connections of local services share on one shard, by who is on the other side.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::messages::Messages;
use super::shard::Socket;
use super::{AppError, Shared};
use crate::delivery::Delivery;
use crate::model::{Callee, Registry, ServiceName, Source};
use crate::token::TokenFile;
use crate::{ingress, outbound};

/// The contexts of one shard.
pub(super) struct Contexts {
    /// For TCP, where a token may be asked for.
    tcp: Pair,
    /// For Unix sockets whose user stands for no service.
    unix: Pair,
    /// By user.
    named: HashMap<u32, Pair>,
}

/// One for each protocol.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) grpc: Rc<ingress::grpc::Context>,
    pub(super) framed: Rc<ingress::framed::Context>,
}

impl Contexts {
    pub(super) fn new(
        shared: &Shared,
        outbound: &Rc<outbound::Rpc>,
        delivery: &Rc<Delivery>,
        messages: &Messages,
    ) -> Result<Self, AppError> {
        let settings = &shared.settings.ingress;
        let pair = |service: Option<ServiceName>, token: Option<Arc<TokenFile>>| {
            let callee: Rc<dyn Callee> = outbound.clone();
            let registry: Rc<dyn Registry> = delivery.clone();
            let source = Some(Source {
                geo: shared.geo.clone(),
                unit: shared.place.unit.clone(),
                service,
            });
            Pair {
                grpc: Rc::new(ingress::grpc::Context {
                    settings: settings.grpc.clone(),
                    metrics: shared.series.ingress_grpc.clone(),
                    callee: callee.clone(),
                    place: shared.place.clone(),
                    source: source.clone(),
                    token,
                }),
                framed: Rc::new(ingress::framed::Context {
                    callee,
                    messages: messages.edge(),
                    registry: Some(registry),
                    subscriptions: Some(messages.subscriptions()),
                    source,
                    limits: shared.framed.clone(),
                    metrics: shared.series.framed.ingress(),
                }),
            }
        };
        let named = settings.identities.iter();
        Ok(Self {
            tcp: pair(None, token(&settings.token_file)?),
            unix: pair(None, None),
            named: named
                .map(|identity| (identity.uid, pair(Some(identity.service.clone()), None)))
                .collect(),
        })
    }

    /// The context of a connection.
    pub(super) fn of(&self, socket: &Socket) -> &Pair {
        match socket {
            Socket::Tcp(_) => &self.tcp,
            Socket::Unix(_, user) => user.and_then(|user| self.named.get(&user)).unwrap_or(&self.unix),
        }
    }
}

/// The token in a file of the settings, if they name one.
pub(super) fn token(path: &Path) -> Result<Option<Arc<TokenFile>>, AppError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(TokenFile::open(path)?)))
}
