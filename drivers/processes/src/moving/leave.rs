//! The source's task of one move: freezes and packs the process, then does what it is ordered.

use super::freeze::{Freezing, Frozen};
use super::handover::Order;
use crate::inspect::ProcessEvent;
use crate::node::Node;
use dunix_ids::{NodeId, Pid};
use dunix_migration::Input;
use dunix_wire::processes::{Errno, MoveId, MoveReport, MoveWish, Package, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A move that leaves this node.
pub(super) struct Leaving {
    pub(super) node: Arc<Node>,
    pub(super) id: MoveId,
    pub(super) pid: Pid,
    pub(super) to: NodeId,
    pub(super) wish: MoveWish,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Who asked; he may have lost interest.
    pub(super) asker: Option<oneshot::Sender<Result<MoveReport, Refusal>>>,
}

impl Leaving {
    /// Runs the move to its end. `begun`: its threads have been asked to park already.
    pub(super) async fn run(mut self, begun: Option<Result<Freezing, Refusal>>) {
        let frozen = match begun {
            Some(Ok(freezing)) => freezing.parked().await,
            Some(Err(refusal)) => Err(refusal),
            None => self.node.freeze(self.pid).await,
        };
        let mut frozen = match frozen.map_err(gone_is_ended) {
            Ok(frozen) => frozen,
            Err(refusal) => {
                self.node.advance_move(Input::NotPacked { id: self.id, refusal: refusal.clone() });
                return self.refuse(refusal);
            }
        };
        let input = match self.pack(&mut frozen).await.map_err(gone_is_ended) {
            Ok(()) => Input::Packed { id: self.id },
            Err(refusal) => Input::NotPacked { id: self.id, refusal },
        };
        self.node.advance_move(input);
        self.node.ring_bell();
        match self.orders.recv().await {
            Some(Order::Thaw(refusal)) => {
                frozen.thaw().await;
                self.refuse(refusal);
            }
            Some(Order::Donate { bytes }) => self.donate(frozen, bytes).await,
            // It may run at the target, or may have: what is left here ends.
            Some(_) => {
                self.leave_table(frozen);
                self.refuse(Refusal::LostWithTarget);
            }
            // Without orders there is no node any more: the host process ends with it.
            None => {}
        }
    }

    /// Makes the table hold what comes for the process from now on, then describes it.
    async fn pack(&self, frozen: &mut Frozen) -> Result<(), Refusal> {
        let (node, id, pid, to) = (&self.node, self.id, self.pid, self.to);
        let record = node.with(|state, now| {
            if state.moves.leaving_by(pid) != Some(id) {
                return Err(Refusal::Ended);
            }
            state.refresh_credentials(pid, node.ids_base);
            let host_pid = state.host_pid(pid).ok_or(Refusal::Ended)?;
            state.table.begin_move(now, pid, to, crate::host::usage_of(host_pid))
        })?;
        // Signals that were decided before are the host's by now.
        node.settle_effects();
        let image = frozen.image(id, to, self.wish.safe).await?;
        let frozen_micros = micros(frozen.since().elapsed());
        let package = Package { id, order: 0, frozen_micros, record, image };
        node.with(|state, _| state.moves.put_package(package));
        Ok(())
    }

    /// It runs at the target; what remains gives its pages.
    async fn donate(mut self, frozen: Frozen, bytes_before: u64) {
        let frozen_for = frozen.since().elapsed();
        let report = MoveReport {
            source: self.node.id,
            target: self.to,
            frozen_micros: micros(frozen_for),
            bytes_before,
            bytes_after: None,
        };
        let donor = self.leave_table(frozen);
        self.tell_of(&report);
        if self.wish.no_wait {
            self.answer(Ok(report));
        }
        // The end of the donor before the last page is news for the machine.
        let given = tokio::select! {
            given = donor.finish() => given,
            order = self.orders.recv() => return self.end(order, report),
        };
        if given.is_err() {
            self.node.advance_move(Input::HostEnded { id: self.id });
        }
        let order = self.orders.recv().await;
        self.end(order, report);
    }

    fn end(&mut self, order: Option<Order>, report: MoveReport) {
        self.answer(match order {
            Some(Order::Finish { is_lost: true, .. }) => Err(Refusal::LostPages),
            Some(Order::Finish { bytes, .. }) => {
                Ok(MoveReport { bytes_after: Some(bytes), ..report })
            }
            _ => Err(Refusal::LostWithTarget),
        });
    }

    /// The process is the target's: the table lets go of it, the host process keeps its slot.
    fn leave_table(&self, frozen: Frozen) -> super::Donor {
        let donor = frozen.donate();
        self.node.with(|state, now| state.table.departed(now, self.pid));
        donor
    }

    fn tell_of(&self, report: &MoveReport) {
        self.node.counts.count_move();
        let time = Duration::from_micros(report.frozen_micros);
        let line = format!("moved to {} within {time:.1?}, {} bytes", self.to, report.bytes_before);
        tracing::info!(node = %self.node.id, pid = %self.pid, "{line}");
        self.node.note(self.pid, line);
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.node.counts.count_refusal(&refusal);
        let line = format!("did not move to {}: {refusal}", self.to);
        tracing::info!(node = %self.node.id, pid = %self.pid, "{line}");
        self.node.note(self.pid, line);
        let (pid, to, message) = (self.pid, self.to, refusal.to_string());
        self.node.announce(|| ProcessEvent::MoveRefused { pid, to, message });
        self.answer(Err(refusal));
    }

    fn answer(&mut self, result: Result<MoveReport, Refusal>) {
        if let Some(asker) = self.asker.take() {
            let _ = asker.send(result);
        }
    }
}

/// What the host does not find any more has ended, whatever was tried with it.
fn gone_is_ended(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Host { errno: Errno::SRCH, .. } | Refusal::NoSuchProcess => Refusal::Ended,
        refusal => refusal,
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
