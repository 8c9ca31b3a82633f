//! Arithmetic on the entries of one file.

use crate::{Entry, Held};
use alloc::vec::Vec;
use dunix_ids::NodeId;
use dunix_wire::locks::{Lock, LockKind, LockOwner};

/// Whether an entry is in the way of a lock that is wanted.
pub(crate) fn excludes(entry: Held, wanted: Held) -> bool {
    let (one, other) = (entry.lock, wanted.lock);
    let is_of_file = |lock: Lock| matches!(lock.owner, LockOwner::Flocks(_));
    let is_kernels = entry.node == wanted.node && (is_many(one.owner) || is_many(other.owner));
    let is_other_sort = is_of_file(one) != is_of_file(other);
    let is_shared = one.kind == LockKind::Read && other.kind == LockKind::Read;
    let may_clash = one.owner != other.owner && !is_other_sort && !is_kernels && !is_shared;
    may_clash && overlap(one, other).is_some()
}

fn overlap(one: Lock, other: Lock) -> Option<(u64, u64)> {
    let (first, last) = (one.first.max(other.first), one.last.min(other.last));
    (first <= last).then_some((first, last))
}

/// Whether the owner is many, whose locks do not replace each other: a node's kernel tells them apart.
fn is_many(owner: LockOwner) -> bool {
    matches!(owner, LockOwner::Descriptions(_) | LockOwner::Flocks(_))
}

/// Puts a lock in, in place of what its owner has of these bytes, joined to what it has beside them. What excludes more
/// stays where descriptions of the node have locks: it may be another one's, or the kernel may refuse the new lock.
pub(crate) fn put(entries: &mut Vec<Entry>, new: Entry) {
    let (mut joined, own) = (new, new.held.lock);
    let is_kernels = entries.iter().any(|entry| {
        let lock = entry.held.lock;
        is_many(lock.owner) && entry.held.node == new.held.node && overlap(lock, own).is_some()
    });
    let mut kept = Vec::with_capacity(entries.len() + 2);
    for entry in entries.drain(..) {
        let lock = entry.held.lock;
        if lock.owner != own.owner || !is_near(lock, own) {
            kept.push(entry);
        } else if lock.kind == own.kind && entry.held.node == new.held.node {
            joined.held.lock.first = joined.held.lock.first.min(lock.first);
            joined.held.lock.last = joined.held.lock.last.max(lock.last);
        } else if is_kernels && lock.kind > own.kind {
            // The new one is noted beside it: an answer that ends this one may be older than that.
            kept.push(entry);
        } else {
            kept.extend(outside(entry, own));
        }
    }
    kept.push(joined);
    *entries = kept;
}

/// Whether two overlap or lie side by side.
fn is_near(one: Lock, other: Lock) -> bool {
    one.first <= other.last.saturating_add(1) && other.first <= one.last.saturating_add(1)
}

impl Entry {
    fn part(self, first: u64, last: u64) -> Entry {
        let lock = Lock { first, last, ..self.held.lock };
        Entry { held: Held { lock, ..self.held }, ..self }
    }
}

/// What is left of an entry without some bytes.
fn outside(entry: Entry, without: Lock) -> impl Iterator<Item = Entry> {
    let lock = entry.held.lock;
    let before = without.first.checked_sub(1).map(|last| (lock.first, last));
    let after = without.last.checked_add(1).map(|first| (first, lock.last));
    let part = move |(first, last): (u64, u64)| {
        let (first, last) = (first.max(lock.first), last.min(lock.last));
        (first <= last).then(|| entry.part(first, last))
    };
    before.into_iter().chain(after).filter_map(part)
}

/// Reduces a node's entries of the first `grants` to what it says that their owners hold.
pub(crate) fn shrink(entries: &mut Vec<Entry>, node: NodeId, truth: &[Lock], grants: u64) {
    let truth = joined(truth);
    for entry in core::mem::take(entries) {
        if entry.held.node != node || entry.grant > grants {
            entries.push(entry);
            continue;
        }
        let lock = entry.held.lock;
        for own in truth.iter().filter(|own| own.owner == lock.owner) {
            let Some((first, last)) = overlap(*own, lock) else { continue };
            let mut part = entry.part(first, last);
            part.held.lock.kind = own.kind.min(lock.kind);
            // A node names what is about to be locked beside what is.
            if !entries.contains(&part) {
                entries.push(part);
            }
        }
    }
}

/// The same locks, but those of one owner and kind do not overlap: descriptions may share bytes, and with every
/// answer that cuts entries by them there would be more.
fn joined(locks: &[Lock]) -> Vec<Lock> {
    let mut locks = locks.to_vec();
    locks.sort_unstable_by_key(|lock| (lock.owner, lock.kind, lock.first));
    locks.dedup_by(|next, lock| {
        let is_one = (next.owner, next.kind) == (lock.owner, lock.kind) && is_near(*next, *lock);
        if is_one {
            lock.last = lock.last.max(next.last);
        }
        is_one
    });
    locks
}
