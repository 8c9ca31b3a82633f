//! What is found by its name in the tree and lives in one node's kernel: programs on several nodes do with
//! it what they do on the host (`tests/programs/named.py`).

use super::scripts::same_everywhere;
use dunix_conformance::{Lab, Scenario, Verdict};

const PROGRAM: &str = include_str!("../programs/named.py");

macro_rules! cases {
    ($($(#[doc = $what:literal])+ $case:ident;)+) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[$(Scenario::new(stringify!($case), $case)),+];
        $($(#[doc = $what])+ fn $case(lab: &Lab) -> Verdict { same(lab, stringify!($case)) })+
    };
}

fn same(lab: &Lab, case: &str) -> Verdict {
    let script = format!("cat > n.py <<'END'\n{PROGRAM}END\npython3 n.py {case}");
    same_everywhere(lab, &script)
}

cases! {
    /// fifo(7): an open waits for the other end; the end when the last writer closes.
    fifo_meets;
    /// fifo(7): `O_NONBLOCK`, `ENXIO`, `O_RDWR`.
    fifo_at_once;
    /// fifo(7): SIGPIPE and `EPIPE` without a reader, until another comes.
    fifo_breaks;
    /// poll(2): of both ends.
    fifo_waits;
    /// pipe(7): what several write is whole.
    fifo_many;
    /// fifo(7): more than it holds, over two of them.
    fifo_flows;
    /// open(2): `EINTR`, `SA_RESTART`, and an end by a signal.
    fifo_interrupted;
    /// path_resolution(7), unlink(2), rename(2): permissions, and names that go.
    fifo_belongs;
    /// unix(7): connections by a file's name, with peers and their names.
    unix_streams;
    /// unix(7): `SOCK_SEQPACKET`.
    unix_packets;
    /// unix(7): abstract names are the machine's.
    unix_abstract;
    /// unix(7): datagrams of who is connected.
    unix_datagrams;
    /// connect(2): `ECONNREFUSED`, `ENOENT`, `EPROTOTYPE`, names that change.
    unix_refused;
    /// unix(7): `SCM_RIGHTS`.
    unix_rights;
}
