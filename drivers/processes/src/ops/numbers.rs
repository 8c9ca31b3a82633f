//! Numbers for new processes and threads while the node's next block of them is on its way: as good as
//! there, so that nobody hears of it but by a wait.

use crate::call::DoorbellCall;
use crate::node::Node;
use dunix_linux::{Errno, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a fork, or a new thread, waits for a block before it fails with `EAGAIN`.
const NUMBERS_WAIT: Duration = Duration::from_secs(5);

/// What makes a process or a thread, and its answer; `EAGAIN` if there is no number for it.
type Make = fn(&Node, &DoorbellCall) -> Result<i64>;

impl Node {
    /// Answers with what `make` says of what it has made.
    pub(super) fn make_numbered(self: &Arc<Node>, call: DoorbellCall, make: Make) {
        let made = make(self, &call);
        if !self.waits_for_numbers(&made) {
            return call.conclude(made);
        }
        let (node, until) = (self.clone(), Instant::now() + NUMBERS_WAIT);
        self.runtime.spawn(async move {
            loop {
                let granted = node.numbers.notified();
                tokio::pin!(granted);
                // A block that comes after the next try is not missed.
                granted.as_mut().enable();
                let made = make(&node, &call);
                if !node.waits_for_numbers(&made) || Instant::now() >= until {
                    return call.conclude(made);
                }
                // Whether it came is seen by the next try.
                let _ = timeout_at(until, granted).await;
            }
        });
    }

    fn waits_for_numbers(&self, made: &Result<i64>) -> bool {
        *made == Err(Errno::AGAIN) && self.look(|state| state.table.awaits_numbers())
    }
}
