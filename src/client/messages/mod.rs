//! Publishing and receiving messages.
//!
//! Delivery is at least once (M-B1): a message whose publication or settlement was lost on the way comes again. Its id stays
//! the same; a publication with `source` and `id` among its attributes can be repeated without making a second message.

mod publish;
mod receive;

pub use publish::{Publish, Published};
pub use receive::{Attempt, Nack, Settle, Subscribe};
