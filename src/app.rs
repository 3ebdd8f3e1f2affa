//! The composition root: builds, wires, starts in order, drains in reverse order.
