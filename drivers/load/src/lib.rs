//! Measures this node's load, exchanges it, and decides where programs are placed.
