//! The outbox against a model of the engine, the log, the wire and the relay that receives.

mod checks;
mod ends;
mod lanes;
mod link;
mod links;
mod random;
mod rates;
mod receiver;
mod wire;
mod world;
