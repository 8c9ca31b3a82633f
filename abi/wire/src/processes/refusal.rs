//! Why a running process is not moved: the one list of reasons, their names and their words.

use super::Errno;
use alloc::string::String;
use core::fmt;
use dunix_ids::Pid;
use serde::{Deserialize, Serialize};

/// Most bytes of a text within a [`Refusal`].
pub const TEXT_BYTES_MAX: usize = 256;

/// Why a process did not move, or did not survive it. Each has a name ([`Refusal::name`]) under
/// which `docs/MOVING.md` explains it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    // About who is asked for.
    /// No process has this number.
    NoSuchProcess,
    /// It runs at that node already.
    AlreadyThere,
    /// The target is no live node of the fabric.
    NodeNotLive,
    /// It went from node to node faster than it could be found.
    NotFound,
    /// It ended before or while it was moved.
    Ended,

    // About what it does.
    /// It has no host process yet.
    Starting,
    /// It is stopped; continue it first.
    Stopped { signal: u8 },
    /// It is being moved or executed at another node.
    AlreadyMoving,
    /// Pages of its last move are still on their way.
    StillArriving,
    /// A setpgid or setsid of it is under way.
    Regrouping,
    /// A thread did not come to a place where it can be moved from; what it does.
    NotParked { thread: Pid, state: String },
    /// Somebody traces it.
    Traced,

    // About what it has.
    /// It shares writable memory with another process; the mapping.
    SharedMemory { mapping: String },
    /// It maps something that is bound to this node.
    Mapping { mapping: String },
    /// A descriptor cannot follow it.
    Descriptor { fd: i32, what: String },
    /// The kernel keeps something for it that cannot be made again.
    KernelState { what: String },
    /// Something about it is above a limit.
    TooLarge { what: String },

    // About the nodes.
    /// The kernels differ in what programs have mapped of them.
    KernelDiffers,
    /// The nodes run different builds of Dunix.
    BuildDiffers,
    /// The target's processors lack something.
    ProcessorDiffers { what: String },
    /// As many moves as allowed are under way at one of the nodes.
    TooManyMoves,
    /// The target cannot take a further process.
    TargetFull,
    /// A node failed at something that should work.
    Host { errno: Errno, doing: String },
    /// The target was not ready in time.
    TooSlow,
    /// The target died before the process ran there.
    TargetDied,
    /// A node died after the process ran at the target and before its last page had arrived: it was
    /// killed.
    LostPages,
    /// The target died when it may already have run the process: it is lost.
    LostWithTarget,
    /// The node is shutting down.
    ShuttingDown,
    /// A node said what makes no sense.
    Protocol,
}

impl Refusal {
    /// The names of all reasons, in the order of the variants.
    pub const NAMES: [&'static str; 29] = [
        "no-such-process",
        "already-there",
        "node-not-live",
        "not-found",
        "ended",
        "starting",
        "stopped",
        "already-moving",
        "still-arriving",
        "regrouping",
        "not-parked",
        "traced",
        "shared-memory",
        "mapping",
        "descriptor",
        "kernel-state",
        "too-large",
        "kernel-differs",
        "build-differs",
        "processor-differs",
        "too-many-moves",
        "target-full",
        "host",
        "too-slow",
        "target-died",
        "lost-pages",
        "lost-with-target",
        "shutting-down",
        "protocol",
    ];

    /// The reason's name, without details: for counting, `--json` and the manual.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        Refusal::NAMES[match self {
            Refusal::NoSuchProcess => 0,
            Refusal::AlreadyThere => 1,
            Refusal::NodeNotLive => 2,
            Refusal::NotFound => 3,
            Refusal::Ended => 4,
            Refusal::Starting => 5,
            Refusal::Stopped { .. } => 6,
            Refusal::AlreadyMoving => 7,
            Refusal::StillArriving => 8,
            Refusal::Regrouping => 9,
            Refusal::NotParked { .. } => 10,
            Refusal::Traced => 11,
            Refusal::SharedMemory { .. } => 12,
            Refusal::Mapping { .. } => 13,
            Refusal::Descriptor { .. } => 14,
            Refusal::KernelState { .. } => 15,
            Refusal::TooLarge { .. } => 16,
            Refusal::KernelDiffers => 17,
            Refusal::BuildDiffers => 18,
            Refusal::ProcessorDiffers { .. } => 19,
            Refusal::TooManyMoves => 20,
            Refusal::TargetFull => 21,
            Refusal::Host { .. } => 22,
            Refusal::TooSlow => 23,
            Refusal::TargetDied => 24,
            Refusal::LostPages => 25,
            Refusal::LostWithTarget => 26,
            Refusal::ShuttingDown => 27,
            Refusal::Protocol => 28,
        }]
    }

    /// Whether the process is no more; else it goes on where it was.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Refusal::NoSuchProcess | Refusal::Ended | Refusal::LostPages | Refusal::LostWithTarget
        )
    }

    /// Cuts a text to what a refusal may carry.
    #[must_use]
    pub fn text(text: &str) -> String {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.get(..end).unwrap_or_default().into()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoSuchProcess => f.write_str("there is no such process"),
            Refusal::AlreadyThere => f.write_str("it runs there already"),
            Refusal::NodeNotLive => f.write_str("the target is no live node"),
            Refusal::NotFound => f.write_str("it moves faster than it can be found"),
            Refusal::Ended => f.write_str("it ended"),
            Refusal::Starting => f.write_str("it has only been made and does not run yet"),
            Refusal::Stopped { signal } => write!(f, "it is stopped by signal {signal}"),
            Refusal::AlreadyMoving => f.write_str("it is on its way to another node"),
            Refusal::StillArriving => f.write_str("pages of its last move are on their way"),
            Refusal::Regrouping => f.write_str("it is changing its process group"),
            Refusal::NotParked { thread, state } => write!(f, "thread {thread} is busy: {state}"),
            Refusal::Traced => f.write_str("it is being traced"),
            Refusal::SharedMemory { mapping } => {
                write!(f, "it shares memory with other processes: {mapping}")
            }
            Refusal::Mapping { mapping } => {
                write!(f, "it maps what is bound to its node: {mapping}")
            }
            Refusal::Descriptor { fd, what } => {
                write!(f, "descriptor {fd} cannot follow it: {what}")
            }
            Refusal::KernelState { what } => {
                write!(f, "the kernel keeps for it what cannot be made again: {what}")
            }
            Refusal::TooLarge { what } => write!(f, "it has too much: {what}"),
            Refusal::KernelDiffers => f.write_str("the nodes' kernels differ"),
            Refusal::BuildDiffers => f.write_str("the nodes run different builds"),
            Refusal::ProcessorDiffers { what } => write!(f, "the target's processors lack {what}"),
            Refusal::TooManyMoves => f.write_str("too many moves are under way"),
            Refusal::TargetFull => f.write_str("the target cannot take a further process"),
            Refusal::Host { errno, doing } => write!(f, "{doing} failed: errno {}", errno.0),
            Refusal::TooSlow => f.write_str("the target was not ready in time"),
            Refusal::TargetDied => f.write_str("the target died before the process ran there"),
            Refusal::LostPages => {
                f.write_str("a node died before the last page had arrived: it was killed")
            }
            Refusal::LostWithTarget => f.write_str("the target died and it with it"),
            Refusal::ShuttingDown => f.write_str("the node is shutting down"),
            Refusal::Protocol => f.write_str("a node said what makes no sense"),
        }
    }
}

impl core::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::{MoveId, MoveMessage, ProcessesMessage};
    use crate::{decode, encode};
    use alloc::{string::ToString, vec, vec::Vec};
    use dunix_ids::NodeId;

    /// One of each reason, in the order of the variants.
    fn refusals() -> Vec<Refusal> {
        let text = || String::from("text");
        vec![
            Refusal::NoSuchProcess,
            Refusal::AlreadyThere,
            Refusal::NodeNotLive,
            Refusal::NotFound,
            Refusal::Ended,
            Refusal::Starting,
            Refusal::Stopped { signal: 19 },
            Refusal::AlreadyMoving,
            Refusal::StillArriving,
            Refusal::Regrouping,
            Refusal::NotParked { thread: Pid::INIT, state: text() },
            Refusal::Traced,
            Refusal::SharedMemory { mapping: text() },
            Refusal::Mapping { mapping: text() },
            Refusal::Descriptor { fd: 3, what: text() },
            Refusal::KernelState { what: text() },
            Refusal::TooLarge { what: text() },
            Refusal::KernelDiffers,
            Refusal::BuildDiffers,
            Refusal::ProcessorDiffers { what: text() },
            Refusal::TooManyMoves,
            Refusal::TargetFull,
            Refusal::Host { errno: Errno::IO, doing: text() },
            Refusal::TooSlow,
            Refusal::TargetDied,
            Refusal::LostPages,
            Refusal::LostWithTarget,
            Refusal::ShuttingDown,
            Refusal::Protocol,
        ]
    }

    #[test]
    fn every_refusal_travels_and_has_a_name_and_words_of_its_own() {
        let id = MoveId { source: NodeId(1), epoch: 7 };
        let all = refusals();
        let names: Vec<&str> = all.iter().map(Refusal::name).collect();
        assert_eq!(names, Refusal::NAMES);
        let mut words: Vec<String> = all.iter().map(ToString::to_string).collect();
        words.sort();
        words.dedup();
        assert_eq!(words.len(), Refusal::NAMES.len());
        for refusal in all {
            let message = ProcessesMessage::Move(MoveMessage::Refused { id, refusal });
            assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(Refusal::text("short"), "short");
        let long = "\u{e4}".repeat(TEXT_BYTES_MAX);
        assert_eq!(Refusal::text(&long).len(), TEXT_BYTES_MAX);
        assert_eq!(Refusal::text(&long["\u{e4}".len()..]).len(), TEXT_BYTES_MAX);
        assert_eq!(Refusal::text(&alloc::format!("x{long}")).len(), TEXT_BYTES_MAX - 1);
    }
}
