//! The admin socket: how the command line talks to a node on the same machine.
