//! What programs may expect of a fabric, checked from outside through the command line.
//!
//! Owns: a lab for the tests, running scripts natively and in the lab, a test harness that takes the
//! lab down whatever happens. Refuses: any knowledge of how dunix works inside.

mod harness;
mod lab;
mod outcome;
pub mod storm;
pub mod witness;

pub use harness::{Scenario, Verdict, main};
pub use lab::{Lab, Scratch};
pub use outcome::{Outcome, run_within, wait_within};
