//! The target's task of one move: makes the process ready, then does what it is ordered.

use super::handover::Order;
use super::leave::micros;
use super::{Arrival, Arriving};
use crate::call::errno_of;
use crate::inspect::ProcessEvent;
use crate::node::{KILLED, Node};
use dunix_ids::NodeId;
use dunix_linux::Errno;
use dunix_migration::Input;
use dunix_wire::processes::{MoveId, Package, ProcessRecord, Refusal, Rusage};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

impl Node {
    /// Runs the move to its end.
    pub(super) async fn come(
        self: Arc<Node>,
        id: MoveId,
        from: NodeId,
        package: Package,
        mut orders: mpsc::Receiver<Order>,
    ) {
        let came = Instant::now();
        let Package { record, image, frozen_micros, .. } = package;
        let prepared = Arrival::prepare(&self, from, id, &record, &image).await;
        drop(image);
        let arrival = match prepared {
            Ok(arrival) => arrival,
            Err(refusal) => return self.advance_move(Input::Failed { id, refusal }),
        };
        self.advance_move(Input::Ready { id });
        // Anything else than the one order drops the arrival, and with it the host process.
        if let Some(Order::Adopt) = orders.recv().await {
            let pid = record.pid;
            let Some(arriving) = self.take_in(id, from, record, arrival) else { return };
            let frozen_micros = frozen_micros.saturating_add(micros(came.elapsed()));
            self.announce(|| ProcessEvent::Moved { pid, from, frozen_micros });
            // Pages that never come are the end of the process, which needs none then.
            let whole = arriving.complete().await;
            let (bytes, is_lost) = whole.map_or((0, true), |bytes| (bytes, false));
            self.advance_move(Input::Whole { id, bytes, is_lost });
            self.arrived.notify_waiters();
        }
    }

    /// Makes it a process of this node and lets it run.
    fn take_in(
        self: &Arc<Node>,
        id: MoveId,
        from: NodeId,
        record: ProcessRecord,
        mut arrival: Arrival,
    ) -> Option<Arriving> {
        let pid = record.pid;
        let adopted = self.with(|state, now| {
            if state.is_shutting_down {
                return Err(Refusal::ShuttingDown);
            }
            if arrival.has_ended() {
                return Err(Refusal::Ended);
            }
            let adopted = state.table.adopt_moving(now, from, record);
            adopted.map_err(|errno| refusal_of(errno_of(errno)))?;
            if let Err(errno) = arrival.bind(state, now) {
                // It is adopted, and whoever was told so cannot be told otherwise.
                tracing::error!(node = %self.id, %pid, %errno, "a process is lost at its arrival");
                state.table.exited(now, pid, KILLED, Rusage::default());
            }
            Ok(())
        });
        if let Err(refusal) = adopted {
            self.advance_move(Input::CannotAdopt { id, refusal });
            return None;
        }
        self.settle_effects();
        let bytes = arrival.bytes();
        let arriving = arrival.release();
        self.note(pid, format!("came from {from} while it ran"));
        self.advance_move(Input::Adopted { id, bytes, is_whole: false });
        Some(arriving)
    }
}

fn refusal_of(errno: Errno) -> Refusal {
    match errno {
        Errno::AGAIN => Refusal::TargetFull,
        Errno::HOSTUNREACH => Refusal::NodeNotLive,
        _ => Refusal::Protocol,
    }
}
