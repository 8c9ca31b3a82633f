//! The node (under construction).
