//! Which unit owns a key.
//!
//! # Path
//! A story asks [`RouteTable::resolve`] with what the caller said; the answer names the unit, the
//! version of the table and the rule that decided.
//!
//! # Invariants
//! - R1. A table never changes: a new version is a new table, swapped in as a whole ([`Handle`]).
//! - R2. Resolving allocates nothing and takes no lock.
//! - R3. `explain` runs the code of `resolve`, so the two cannot disagree (C-R4).
//! - R4. Which bucket a key falls into never changes between versions of Strait ([`bucket`]).
//!
//! # Not here
//! Whether the unit can be reached (`peer`) and whether the call may cross (`admission`).

mod copy;
mod dimension;
mod error;
mod evidence;
mod explain;
pub mod gate;
mod handle;
mod hash;
mod hops;
mod key_hash;
pub mod lease;
pub mod metrics;
mod overrides;
pub mod placement;
mod precedence;
pub mod record;
mod settings;
mod table;
mod takeover;
#[cfg(test)]
mod tests;
pub mod token;

pub use copy::{Gap, Mirrored, NodeView, Origin, Routes, SavedError, Through, Trail, Unmovable};
pub use error::{RouteError, RuleError, RuleProblem};
pub use evidence::{Evidence, Found, Known, Provisional, Source, Verdict, judge};
pub use explain::{Explanation, Observed, Step};
pub use handle::{Handle, Reader};
pub use hash::{BUCKETS, bucket};
pub use hops::{LoopError, check_hops};
pub use key_hash::{KeyHash, key_hash};
pub use settings::{Rule, Settings};
pub use table::{Decision, RouteTable, RuleKind, RuleRef, Standing};
pub use takeover::rendezvous;
