//! A volume's decisions: what its names lead to ([`tree`]) and which nodes have to forget what
//! before a change is acknowledged ([`holders`]).
//!
//! Pure: facts about the lower directory and the present time are handed in, and what has to be read,
//! deleted or recalled is handed back. File data never come here.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod holders;
mod names;
pub mod tree;

pub use holders::{Access, Changed, Holders};
pub use tree::{Content, LowerEntry, LowerStat, Need, Tree};
