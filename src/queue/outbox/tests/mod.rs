//! The outbox against a model of the engine, the log, the wire and the relay that receives.

mod cases;
mod random;
mod rates;
mod world;
