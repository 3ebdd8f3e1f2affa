//! Stories of what local services send to other units.
