//! One loopback for the fabric.
