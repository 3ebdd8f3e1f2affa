//! Proofs: single cases in `cases`, random operations against a reference model in `model`.

mod cases;
mod model;
mod world;
