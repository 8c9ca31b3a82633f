//! Moving without a hand-over, for tests of this driver: both nodes are in one program, and nothing
//! is ever lost between them.

use super::late::ARRIVING_WAIT;
use super::{Arrival, Frozen};
use crate::Processes;
use crate::call::errno_of;
use dunix_ids::Pid;
use dunix_wire::processes::{MoveId, MoveReport, Refusal};
use std::time::{Duration, Instant};

/// Between two looks at what has no event.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

impl Processes {
    /// Moves a process to another driver of this program. Not for daemons.
    #[doc(hidden)]
    pub async fn rehearse_move(&self, pid: Pid, to: &Processes) -> Result<MoveReport, Refusal> {
        let (source, target) = (&self.0, &to.0);
        let epoch = source.with(|state, _| state.fresh_number());
        let id = MoveId { source: source.id, epoch };
        let mut frozen = source.freeze(pid).await?;
        let used = Default::default();
        let begun = source.with(|state, now| state.table.begin_move(now, pid, target.id, used));
        let record = match begun {
            Ok(record) => record,
            Err(refusal) => {
                frozen.thaw().await;
                return Err(refusal);
            }
        };
        let prepared = async {
            let image = frozen.image(id, target.id, false).await?;
            Arrival::prepare(target, source.id, id, &record, &image).await
        };
        let mut arrival = match prepared.await {
            Ok(arrival) => arrival,
            Err(refusal) => return Err(self.stay(pid, frozen, refusal).await),
        };
        let bound = target.with(|state, now| {
            state.table.adopt_moving(now, source.id, record).map_err(errno_of)?;
            arrival.bind(state, now)
        });
        if let Err(errno) = bound {
            return Err(self.stay(pid, frozen, super::script::host(errno, "adopting")).await);
        }
        let since: Instant = frozen.since();
        let donor = frozen.donate();
        source.with(|state, now| {
            state.table.commit_move(pid);
            state.table.departed(now, pid)
        });
        let bytes_before = arrival.bytes();
        let arriving = arrival.release();
        let frozen_micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (arrived, given) = tokio::join!(arriving.complete(), donor.finish());
        let bytes_after = Some(arrived?);
        given?;
        // What was held for it is on its way; the table has nobody to tell when the last has come.
        let deadline = Instant::now() + ARRIVING_WAIT;
        while target.look(|state| state.table.check_move(pid)) == Err(Refusal::StillArriving) {
            if Instant::now() >= deadline {
                return Err(Refusal::StillArriving);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(MoveReport {
            source: source.id,
            target: target.id,
            frozen_micros,
            bytes_before,
            bytes_after,
        })
    }

    /// Whether no host process is frozen, arrives, or gives its pages away.
    #[doc(hidden)]
    #[must_use]
    pub fn is_nothing_moving(&self) -> bool {
        let ready = crate::node::lock(&self.0.shells).len();
        self.0.halls.count() == ready && crate::node::lock(&self.0.spawning).is_empty()
    }

    async fn stay(&self, pid: Pid, frozen: Frozen, refusal: Refusal) -> Refusal {
        self.0.with(|state, now| state.table.stayed(now, pid));
        frozen.thaw().await;
        refusal
    }
}
