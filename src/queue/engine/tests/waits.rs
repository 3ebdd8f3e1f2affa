//! Publishers that wait for more than `ACCEPTED`, and sources that wait for room among the dead letters.

use super::*;

