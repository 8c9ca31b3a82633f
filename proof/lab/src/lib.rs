//! A throw-away fabric on one machine.
