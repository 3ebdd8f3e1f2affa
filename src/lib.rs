//! Strait joins the units of a cell-based system: it carries calls and messages to the unit that owns
//! a business key, over mutually-authenticated QUIC between the relays of the units.
//!
//! # The path of a call, by module
//! [`ingress`] takes it from a local service, [`outbound`] asks [`routing`] which unit owns its key and
//! [`admission`] whether it may pass, [`peer`] carries it to a relay of that unit, [`inbound`] takes it
//! there and [`delivery`] hands it to the local service that answers.
//!
//! `ARCHITECTURE.md` has the map, the invariants and the decisions.

pub mod admin;
pub mod admission;
pub mod app;
pub mod calls;
pub mod cli;
pub mod client;
pub mod control;
pub mod crossing;
pub mod delivery;
pub mod inbound;
pub mod ingress;
pub mod mailbox;
pub mod model;
pub mod outbound;
pub mod peer;
pub mod queue;
pub mod routing;
pub mod settings;
pub mod telemetry;
pub mod token;
pub mod wire;
