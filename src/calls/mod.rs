//! What both call stories need: the table of open calls, their time limits, and the record of how each ends.

mod limits;
mod policies;
mod record;
mod table;
mod trace;

pub use limits::{CallPolicies, CallPolicy, TimeLimits};
pub use policies::ShardPolicies;
pub use record::CallRecord;
pub use table::{Calls, GRAIN, Limited};
