//! Rates and shares on a virtual clock.
