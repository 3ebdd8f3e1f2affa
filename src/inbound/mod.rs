//! Stories of what other units send to local services.
