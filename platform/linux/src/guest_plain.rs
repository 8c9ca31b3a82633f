//! The structures of the doorbell as plain data.
//!
//! Invariant: each one's size is the sum of its fields' sizes, hence it has no padding.

use crate::guest_memory::Plain;
use dunix_guest_abi::doorbell::{
    ChildInfo, ExecRequest, PATH_BYTES, REMOTE_FD_WORDS, RemoteCall, SigInfo, StartInfo, WaitResult,
};
use dunix_guest_abi::moving::{ParkRecord, ScriptCall, ScriptHeader};

const _: () = {
    assert!(size_of::<StartInfo>() == 6 * 4 + 8 * REMOTE_FD_WORDS + 8 + 2 * PATH_BYTES);
    assert!(size_of::<ChildInfo>() == 2 * 4);
    assert!(size_of::<ExecRequest>() == 4 * 4 + 5 * 8 + 8 * REMOTE_FD_WORDS);
    assert!(size_of::<WaitResult>() == 6 * 4 + 18 * 8);
    assert!(size_of::<SigInfo>() == 4 * 4 + 8);
    assert!(size_of::<RemoteCall>() == 8 + 2 * 4 + 7 * 8);
    assert!(size_of::<ParkRecord>() == 2 * 4 + 4 * 8 + 2 * 4 + 4 * 8);
    assert!(size_of::<ScriptHeader>() == 8 * 4 + 8 * REMOTE_FD_WORDS);
    assert!(size_of::<ScriptCall>() == 9 * 8);
};

// SAFETY: repr(C), integers and arrays of integers only, no padding (asserted above).
unsafe impl Plain for StartInfo {}
// SAFETY: as above.
unsafe impl Plain for ChildInfo {}
// SAFETY: as above.
unsafe impl Plain for ExecRequest {}
// SAFETY: as above.
unsafe impl Plain for WaitResult {}
// SAFETY: as above.
unsafe impl Plain for SigInfo {}
// SAFETY: as above.
unsafe impl Plain for RemoteCall {}
// SAFETY: as above.
unsafe impl Plain for ParkRecord {}
// SAFETY: as above.
unsafe impl Plain for ScriptHeader {}
// SAFETY: as above.
unsafe impl Plain for ScriptCall {}
