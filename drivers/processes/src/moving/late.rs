//! Pages that follow a process: which may, how the target asks its kernel to miss them, and what
//! happens to processes that will never have them.

use super::calls::{CLOSE, IOCTL};
use super::hall::Hall;
use super::mappings::Look;
use super::pager::{Incoming, Lost, Paging, PagingEnd};
use super::script::{Particulars, Script, host};
use super::shell::FIRST;
use crate::node::{Local, Node, State};
use dunix_guest_abi::doorbell::{NR, OP_MOVE_DESCRIPTORS};
use dunix_guest_abi::moving::ParkRecord;
use dunix_ids::Pid;
use dunix_linux::Errno;
use dunix_linux::userfault::{DEVICE, MAKE, MAKE_FLAGS, PAGE, Userfault};
use dunix_wire::processes::Refusal;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a move waits for the pages of the last one before it is refused.
pub(crate) const ARRIVING_WAIT: Duration = Duration::from_secs(1);

/// Pages that every thread touches as it resumes, or the kernel for it: its thread control block
/// (thread-local storage lies below), its rseq area, the word that is cleared at its end. And what
/// the kernel shows in `/proc`, `shown`: it waits for no pager there, and shows nothing instead.
pub(crate) fn touched_at_once(
    records: &[ParkRecord],
    shown: &Range<u64>,
    areas: &[Look],
) -> Vec<Range<u64>> {
    let mut pages = Vec::new();
    if !shown.is_empty() {
        pages.push(shown.start & !(PAGE - 1)..shown.end.saturating_add(PAGE - 1) & !(PAGE - 1));
    }
    for record in records {
        let around = record.fs_base.saturating_sub(PAGE)..record.fs_base.saturating_add(PAGE);
        for range in [around, word(record.rseq_area), word(record.clear_tid)] {
            pages.push(range.start & !(PAGE - 1)..range.end.saturating_add(PAGE - 1) & !(PAGE - 1));
        }
    }
    pages.sort_unstable_by_key(|range| range.start);
    let mut within = Vec::new();
    let mut done = 0;
    for page in pages {
        for look in areas.iter().filter(|look| look.may_follow) {
            let start = page.start.max(look.range.start).max(done);
            let end = page.end.min(look.range.end);
            if start < end {
                within.push(start..end);
                done = end;
            }
        }
    }
    within
}

fn word(address: u64) -> Range<u64> {
    address..address.saturating_add(u64::from(address != 0) * 8)
}

/// Has the shell make a userfaultfd of its memory and takes it. The shell has no descriptor before;
/// one remains open in it.
pub(super) async fn userfault_of(node: &Node, hall: &Hall) -> Result<Userfault, Refusal> {
    let doing = "preparing for pages that follow";
    let device = File::options().read(true).write(true).open(DEVICE);
    let device = device.map_err(|e| host(Errno::from_io_error(&e).unwrap_or(Errno::IO), doing))?;
    hall.offer_descriptors(vec![(device.into(), vec![0])]);
    let mut script = Script::new();
    script.must("taking a device", NR, [OP_MOVE_DESCRIPTORS, 0, 0, 0, 0, 0]);
    let made = script.must("making a userfaultfd", IOCTL, [0, MAKE, MAKE_FLAGS, 0, 0, 0]);
    script.must("closing a device", CLOSE, [0; 6]);
    let outcome = node.run_script(hall, FIRST, &script, &Particulars::default()).await?;
    let number = outcome.value(made).ok().and_then(|number| i32::try_from(number).ok());
    Userfault::take(hall.host_pid, number.ok_or(Refusal::Protocol)?).map_err(|e| host(e, doing))
}

/// The pages of an arrival that does not run yet. Dropped, they are given up.
#[derive(Default)]
pub(super) struct Unreleased(Option<Paging>);

impl Unreleased {
    pub(super) fn get(&self) -> Option<Paging> {
        self.0.clone()
    }

    /// The process runs from now on.
    pub(super) fn release(mut self) -> Option<Paging> {
        let paging = self.0.take();
        if let Some(paging) = &paging {
            paging.set_running();
        }
        paging
    }
}

impl Drop for Unreleased {
    fn drop(&mut self) {
        if let Some(paging) = &self.0 {
            paging.give_up();
        }
    }
}

/// Registers the ranges whose pages follow and starts to serve them.
pub(super) fn page_in(
    node: &Arc<Node>,
    pid: Pid,
    pages: Incoming,
    fault: Userfault,
    late: &[(u64, u64)],
) -> Result<Unreleased, Refusal> {
    let ranges: Vec<Range<u64>> = late.iter().map(|&(start, end)| start..end).collect();
    let known = Arc::new(std::sync::OnceLock::<Paging>::new());
    let _threads = node.page_threads.enter();
    let (node, ours) = (Arc::downgrade(node), known.clone());
    let kill = move |lost: &Lost| {
        if let (Some(node), Some(paging)) = (Weak::upgrade(&node), ours.get()) {
            node.kill_who_lacks(paging, lost);
        }
        // Nobody lacks them if the move was given up, or the process has ended meanwhile.
        tracing::debug!(%pid, %lost, "no more pages come");
    };
    let paging = pages.page_in(fault, &ranges, kill);
    let paging = paging.map_err(|errno| host(errno, "registering pages that follow"))?;
    // Before anything of it runs; until then there is nobody to kill but the arrival, which its
    // owner ends.
    let _ = known.set(paging.clone());
    Ok(Unreleased(Some(paging)))
}

impl Node {
    /// Kills all processes that lack pages of a move.
    fn kill_who_lacks(&self, paging: &Paging, lost: &Lost) {
        let lacking: Vec<(Pid, Option<u32>)> = self.look(|state| {
            let lacks = |local: &Local| local.paging.as_ref().is_some_and(|p| p.is_same(paging));
            let pids = state.locals.iter().filter(|(_, local)| lacks(local)).map(|(pid, _)| *pid);
            pids.map(|pid| (pid, state.host_pid(pid))).collect()
        });
        for (pid, host_pid) in lacking {
            tracing::error!(%pid, %lost, "a process is killed: its pages will not come");
            self.note(pid, format!("it was killed: {lost}"));
            if let Some(host_pid) = host_pid {
                crate::launch::kill(host_pid);
            }
        }
    }
}

impl State {
    /// The pages that a process and what it forks still lack.
    pub(crate) fn paging_of(&self, pid: Pid) -> Option<Paging> {
        let paging = self.locals.get(&pid)?.paging.clone()?;
        (paging.end() != Some(PagingEnd::Complete)).then_some(paging)
    }

    /// Whether a process lacks pages that will not come: it must not run.
    pub(crate) fn lacks_lost_pages(&self, pid: Pid) -> bool {
        let paging = self.locals.get(&pid).and_then(|local| local.paging.as_ref());
        matches!(paging.and_then(Paging::end), Some(PagingEnd::Lost(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(range: Range<u64>, may_follow: bool) -> Look {
        Look { range, is_whole: false, may_follow }
    }

    #[test]
    fn what_is_touched_at_once_lies_in_what_may_follow() {
        let zero = ParkRecord {
            tid: 1,
            flags: 0,
            stack_pointer: 0,
            fs_base: 0,
            clear_tid: 0,
            rseq_area: 0,
            rseq_bytes: 0,
            rseq_signature: 0,
            robust_head: 0,
            altstack_start: 0,
            altstack_bytes: 0,
            altstack_flags: 0,
        };
        let looks = [look(0x10_000..0x20_000, true), look(0x30_000..0x40_000, false)];
        assert!(touched_at_once(&[zero], &(0..0), &looks).is_empty());
        let inside = ParkRecord { fs_base: 0x15_740, rseq_area: 0x15_fe0, ..zero };
        let outside = ParkRecord { fs_base: 0x35_740, clear_tid: 0x10_010, ..zero };
        let pages = touched_at_once(&[inside, outside], &(0x1f_100..0x21_000), &looks);
        assert_eq!(pages, [0x10_000..0x11_000, 0x14_000..0x17_000, 0x1f_000..0x20_000]);
    }
}
