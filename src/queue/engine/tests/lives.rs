//! When the log begins a new life, and what becomes of those who are under way then.

use super::*;
