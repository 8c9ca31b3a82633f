//! Why a program runs where it does, in words.

use crate::NodeLoad;
use core::fmt;

/// Why a program was placed where it was; its text is what `dunix explain` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    Forced,
    Local,
    Spread,
    Alone,
    Room { load: NodeLoad },
    LessBusy { here: NodeLoad, there: NodeLoad },
    NoBetter { here: NodeLoad, there: NodeLoad },
    NobodyAnswered { load: NodeLoad },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Forced => f.write_str("this node was asked for"),
            Reason::Local => f.write_str("it was to stay where it was started"),
            Reason::Spread => f.write_str("it was this node's turn (spread)"),
            Reason::Alone => f.write_str("no other node is up"),
            Reason::Room { load } => write!(f, "started here, a CPU was free: {load}"),
            Reason::LessBusy { here, there } => {
                write!(f, "the starting node was busier: {here} there, {there} here")
            }
            Reason::NoBetter { here, there } => {
                write!(f, "started here, others were no better: {here} here, {there} there")
            }
            Reason::NobodyAnswered { load } => {
                write!(f, "started here, no other node answered: {load}")
            }
        }
    }
}

impl fmt::Display for NodeLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (runnable, cpus) = (self.runnable_centi, self.cpus_centi);
        let (whole, part) = (runnable / 100, runnable % 100 / 10);
        write!(f, "{whole}.{part} runnable on {}.{} CPUs", cpus / 100, cpus % 100 / 10)
    }
}
