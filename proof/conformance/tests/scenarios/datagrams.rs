//! UDP on loopback: programs on several nodes exchange datagrams as on the host (`tests/programs/datagrams.py`).

use super::scripts::same_everywhere;
use dunix_conformance::{Lab, Scenario, Verdict};

const PROGRAM: &str = include_str!("../programs/datagrams.py");

macro_rules! cases {
    ($($(#[doc = $what:literal])+ $case:ident;)+) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[$(Scenario::new(stringify!($case), $case)),+];
        $($(#[doc = $what])+ fn $case(lab: &Lab) -> Verdict { same(lab, stringify!($case)) })+
    };
}

fn same(lab: &Lab, case: &str) -> Verdict {
    let script = format!("cat > u.py <<'END'\n{PROGRAM}END\npython3 u.py {case}");
    same_everywhere(lab, &script)
}

cases! {
    /// sendto(2), sendmsg(2), recvfrom(2): there and back, connected or not.
    udp_replies;
    /// udp(7): servers that their clients find by port.
    udp_servers;
    /// recvfrom(2): the address of a sender that is bound.
    udp_bound_senders;
    /// bind(2): `EADDRINUSE`, and ports that change hands.
    udp_in_use;
    /// udp(7): receivers that come after their senders.
    udp_late;
    /// udp(7), recv(2): bounds, `EMSGSIZE`, `MSG_TRUNC`, order.
    udp_messages;
    /// udp(7): `ECONNREFUSED`.
    udp_refused;
    /// ip(7), ipv6(7): `INADDR_ANY`, mapped addresses.
    udp_any;
    /// socket(7): `SO_RCVTIMEO` and waits.
    udp_waits;
}
