//! A description under way: what the home keeps for it until the other node has said yes.

use super::capture::Unmovable;
use super::homes::Object;
use crate::node::Node;
use dunix_ids::{NodeId, ObjectId};
use dunix_linux::Errno;
use dunix_wire::processes::image::DescriptorKind;
use dunix_wire::processes::{DescriptorImage, ProcessesMessage};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Described descriptors. Dropped, everything is as it was before; [`Offer::was_taken`] ends that.
pub(crate) struct Offer {
    pub(super) node: Arc<Node>,
    pub(super) to: NodeId,
    kept: Vec<u64>,
    /// What the image carries; with [`Offer::announce`] it may be sent.
    pub(crate) descriptors: Vec<DescriptorImage>,
    /// Objects of third nodes that go along.
    passed_on: BTreeSet<ObjectId>,
    is_announced: bool,
    /// It goes in a message, which may outlive all that holds an object here: also the objects of the
    /// other node itself are held for it until it has them.
    is_message: bool,
}

impl Offer {
    pub(super) fn new(node: Arc<Node>, to: NodeId) -> Offer {
        let (kept, descriptors, passed_on) = (Vec::new(), Vec::new(), BTreeSet::new());
        Offer { node, to, kept, descriptors, passed_on, is_announced: false, is_message: false }
    }

    /// The same for descriptors of a message.
    pub(super) fn of_message(node: Arc<Node>, to: NodeId) -> Offer {
        let mut offer = Offer::new(node, to);
        offer.is_message = true;
        offer
    }

    /// Keeps an object of this node for the other.
    pub(super) fn keep(&mut self, object: Object) -> Result<u64, Unmovable> {
        let serial = self.node.homes.keep(object, self.to)?;
        self.kept.push(serial);
        Ok(serial)
    }

    /// An object of a third node goes along.
    pub(super) fn pass_on(&mut self, object: ObjectId) {
        if object.home != self.to || self.is_message {
            self.passed_on.insert(object);
        }
    }

    /// Tells third nodes that the other node is about to hold their objects too. To be called once,
    /// before the image is sent: they learn it before this node lets go of them.
    pub(crate) fn announce(&mut self) {
        debug_assert!(!self.is_announced);
        self.is_announced = true;
        for object in &self.passed_on {
            let shared = ProcessesMessage::RemoteShared { object: object.serial, with: self.to };
            self.node.tell(object.home, &shared);
        }
    }

    /// The paths of files as a process sees them whose root directory is `root` in the tree.
    pub(crate) fn see_from(&mut self, root: &[u8]) {
        for descriptor in &mut self.descriptors {
            if let DescriptorKind::File { path, .. } | DescriptorKind::SharedFile { path, .. } =
                &mut descriptor.kind
            {
                *path = inside(root, self.node.below_root(std::mem::take(path)));
            }
        }
    }

    /// The other node holds the objects now.
    pub(crate) fn was_taken(mut self) {
        self.kept.clear();
        self.is_announced = false;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        for serial in &self.kept {
            self.node.homes.release(*serial, self.to, 1);
        }
        if self.is_announced {
            for object in &self.passed_on {
                let unshared =
                    ProcessesMessage::RemoteUnshared { object: object.serial, with: self.to };
                self.node.tell(object.home, &unshared);
            }
        }
    }
}

impl Node {
    /// A path of the guests' mount namespace as a path below their root.
    pub(crate) fn below_root(&self, path: Vec<u8>) -> Vec<u8> {
        match path.strip_prefix(self.root.as_slice()) {
            Some(rest) if rest.starts_with(b"/") => rest.to_vec(),
            Some([]) => b"/".to_vec(),
            _ => path,
        }
    }
}

/// Whether the tree has this very file under a path that a descriptor or a mapping of a process shows.
/// What another node has renamed keeps its old name in this node's kernel, and that may be another
/// file's by now. A name that cannot be looked up from here counts as the file's.
pub(crate) fn is_named(node: &Node, host_pid: u32, path: &[u8], inode: u64) -> bool {
    let path = node.below_root(path.to_vec());
    let Ok(root) = crate::host::link(host_pid, "root") else { return false };
    let root = node.below_root(root);
    let seen = inside(&root, path.clone());
    if root != b"/" && seen == path {
        return true;
    }
    let path = [format!("/proc/{host_pid}/root").as_bytes(), &seen].concat();
    rustix::fs::stat(path).is_ok_and(|stat| stat.st_ino == inode)
}

/// The path of a process's `cwd` or `root`, as the host shows it.
///
/// # Errors
/// `ENOENT` if it has been removed, or another node has renamed it; what the host says.
pub(crate) fn directory(node: &Node, host_pid: u32, name: &str) -> Result<Vec<u8>, Errno> {
    let path = crate::host::link(host_pid, name)?;
    let inode = rustix::fs::stat(format!("/proc/{host_pid}/{name}"))?.st_ino;
    if path.ends_with(b" (deleted)") || !is_named(node, host_pid, &path, inode) {
        return Err(Errno::NOENT);
    }
    Ok(node.below_root(path))
}

/// A path as the process sees it, if it lies inside of the process's root.
pub(crate) fn inside(root: &[u8], path: Vec<u8>) -> Vec<u8> {
    match path.strip_prefix(root) {
        Some([]) => b"/".to_vec(),
        Some(rest) if rest.starts_with(b"/") => rest.to_vec(),
        _ => path,
    }
}
