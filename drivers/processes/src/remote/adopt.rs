//! The target's side of a remote exec.

use super::rebuild::{Owner, Rebuilt};
use crate::launch::{Launch, LaunchError, Origin};
use crate::node::Node;
use dunix_ids::NodeId;
use dunix_keeper::protocol::{Program, SpawnSpec};
use dunix_linux::Errno;
use dunix_wire::processes::ExecImage;
use dunix_wire::processes::image::{ARGUMENT_BYTES_MAX, REASON_BYTES_MAX, UNDRAINED_MAX};
use std::sync::Arc;

/// Most supplementary groups of a process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65536;

impl Node {
    /// Becomes the node of a process; on an error nothing has changed.
    pub(crate) async fn adopt(
        self: &Arc<Node>,
        from: NodeId,
        image: ExecImage,
    ) -> Result<(), LaunchError> {
        check(&image).map_err(LaunchError::Table)?;
        let pid = image.record.pid;
        let credentials = image.record.credentials;
        let owner = Owner {
            uid: self
                .ids_base
                .checked_add(credentials.euid)
                .ok_or(LaunchError::Table(Errno::PROTO))?,
            gid: self.ids_base.checked_add(image.egid).ok_or(LaunchError::Table(Errno::PROTO))?,
        };
        let rebuilt = self.rebuild(owner, &image.descriptors).map_err(LaunchError::Table)?;
        // An image keeps no descriptor that is to be closed on exec, and no epoll set.
        let Rebuilt { descriptors, numbers, opens, mut table, relays, late: _ } = rebuilt;
        table.must_drain(&self.homes, self.id, image.undrained);
        let limits = (0_u32..).zip(&image.rlimits);
        // A root is searched for where it starts; an exec has found its program already.
        let is_root = image.exec_fn.is_empty();
        let path = image.envp.iter().find_map(|v| v.strip_prefix(b"PATH="));
        let search = is_root.then(|| path.unwrap_or(crate::run::DEFAULT_PATH).to_vec());
        let spec = SpawnSpec {
            program: Program { path: image.exe_path, search },
            argv: image.argv,
            envp: image.envp,
            root: [self.root.as_slice(), root_below(&image.root)].concat(),
            cwd: image.cwd,
            uids: [credentials.uid, credentials.euid, credentials.suid],
            gids: [image.gid, image.egid, image.sgid],
            groups: Some(image.groups),
            forbidden: !image.bounding,
            no_new_privs: image.no_new_privs,
            umask: image.umask,
            nice: i32::from(image.nice),
            limits: limits.map(|(resource, &(soft, hard))| (resource, soft, hard)).collect(),
            signals_ignored: image.signals_ignored,
            signals_blocked: image.signals_blocked,
            signals_pending: image.signals_pending,
            descriptors: numbers,
            opens,
            ..SpawnSpec::default()
        };
        let origin = Origin::Adopted { from, record: Box::new(image.record) };
        let exec_fn = Some(image.exec_fn).filter(|_| !is_root);
        let (remote, is_pinned) = (table, image.is_pinned);
        self.launch(Launch { pid, origin, spec, descriptors, remote, exec_fn, is_pinned }).await?;
        self.with(|state, _| {
            // It may have ended already.
            if let Some(local) = state.locals.get_mut(&pid) {
                local.placed = image.reason.into();
            }
        });
        for relay in relays {
            self.start_relay(pid, relay);
        }
        Ok(())
    }
}

fn root_below(root: &[u8]) -> &[u8] {
    if root == b"/" { &[] } else { root }
}

/// What a peer says is sound enough to be tried.
fn check(image: &ExecImage) -> Result<(), Errno> {
    let bytes: usize = image.argv.iter().chain(&image.envp).map(|s| s.len() + 1).sum();
    let paths = [&image.exe_path, &image.exec_fn, &image.cwd, &image.root];
    let sound = bytes <= ARGUMENT_BYTES_MAX
        && image.groups.len() <= GROUPS_MAX
        && image.rlimits.len() <= dunix_linux::identity::LIMITS
        && paths.iter().all(|path| path.len() < dunix_guest_abi::doorbell::PATH_BYTES)
        && image.reason.len() <= REASON_BYTES_MAX
        && image.undrained.len() <= UNDRAINED_MAX
        && image.cwd.starts_with(b"/")
        && image.root.starts_with(b"/")
        && (image.exe_path.starts_with(b"/") || image.exec_fn.is_empty());
    if sound { Ok(()) } else { Err(Errno::PROTO) }
}
