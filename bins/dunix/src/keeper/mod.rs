//! The keeper (under construction).
