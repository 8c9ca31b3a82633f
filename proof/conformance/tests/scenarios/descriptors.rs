//! Descriptors whose objects others have as well: a program and a child that inherits some do in the
//! fabric what they do on the host, whichever nodes they are on (`tests/programs/descriptors.py`).

use super::scripts::same_everywhere;
use dunix_conformance::{Lab, Scenario, Verdict};

const PROGRAM: &str = include_str!("../programs/descriptors.py");

macro_rules! cases {
    ($($(#[doc = $what:literal])+ $scenario:ident = $case:literal;)+) => {
        pub(crate) const SCENARIOS: &[Scenario] =
            &[$(Scenario::new(stringify!($scenario), $scenario)),+];
        $($(#[doc = $what])+ fn $scenario(lab: &Lab) -> Verdict { same(lab, $case) })+
    };
}

fn same(lab: &Lab, case: &str) -> Verdict {
    let script = format!("cat > d.py <<'END'\n{PROGRAM}END\npython3 d.py {case}");
    same_everywhere(lab, &script)
}

cases! {
    /// pipe(7): both directions, to the end.
    inherited_pipes = "pipes";
    /// unix(7): a stream with its options, ends and names.
    inherited_stream = "stream";
    /// unix(7): bounds of messages; `MSG_PEEK`, `MSG_TRUNC`, `MSG_DONTWAIT` of recv(2).
    inherited_messages = "messages";
    /// accept(2): a listener of both; `MSG_WAITALL`.
    inherited_listener = "tcp";
    /// eventfd(2): counts of both.
    inherited_counters = "counters";
    /// lseek(2), unlink(2): offsets, deleted files and memory files of both.
    inherited_files = "files";
    /// epoll(7), poll(2), select(2): what is inherited together with what is one's own.
    inherited_waits = "waits";
    /// sendfile(2), splice(2).
    inherited_copies = "copies";
    /// unix(7), `SCM_RIGHTS`: to a child, back, on to another and home again.
    descriptors_in_messages = "rights";
    /// unix(7), `SCM_RIGHTS`: between bytes that come without.
    descriptors_between_bytes = "between";
    /// unix(7), `SCM_RIGHTS`: what is discarded with its message is closed.
    descriptors_discarded = "discarded";
    /// unix(7): names of sockets.
    inherited_sockets_named = "names";
}
