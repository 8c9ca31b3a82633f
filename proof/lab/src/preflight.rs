//! What a host must have for a lab, checked before anything is made.

use dunix_linux::cgroup;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::fs;
use std::path::Path;

/// The oldest kernel with all that is needed.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Descriptors that the owner needs apart from those for its nodes.
const DESCRIPTORS_BASE: u64 = 64;
/// Descriptors of the owner that a node costs (pidfds, lifeline, the installer's socket).
const DESCRIPTORS_PER_NODE: u64 = 8;

/// Something that the host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is missing.
    pub missing: String,
    /// Where it would come from.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.missing, self.remedy)
    }
}

/// Returns what this host lacks for a lab of so many nodes, with or without processor limits.
#[must_use]
pub fn check_host(nodes: u32, limited: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut need = |present: bool, missing: &str, remedy: &str| {
        if !present {
            found.push(Finding { missing: missing.into(), remedy: remedy.into() });
        }
    };
    need(rustix::process::geteuid().is_root(), "root", "run as root: devices, bridges, id maps");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    need(
        kernel_version(&release).is_some_and(|version| version >= KERNEL_MIN),
        "a kernel that is new enough",
        &format!("Linux 6.1 or newer, this is {}", release.trim()),
    );
    check_namespaces(&mut need);
    check_seccomp(&mut need);
    need(is_character_device("/dev/fuse"), "/dev/fuse", "load the module fuse (CONFIG_FUSE_FS)");
    need(Path::new("/proc/sys/net/ipv6").exists(), "IPv6", "enable it (CONFIG_IPV6)");
    if limited {
        let hierarchies = cgroup::hierarchies().unwrap_or_default();
        let has_cpu = hierarchies.iter().any(|found| found.controllers.contains(&"cpu"));
        need(has_cpu, "a cpu controller", "mount cgroup v1 or v2 with it (--cpus-per-node)");
    }
    let wanted = DESCRIPTORS_BASE + DESCRIPTORS_PER_NODE * u64::from(nodes);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    need(limit >= wanted, "descriptors", &format!("raise their limit to {wanted} (ulimit -n)"));
    found
}

fn check_namespaces(need: &mut impl FnMut(bool, &str, &str)) {
    let kinds = [
        ("user", "CONFIG_USER_NS"),
        ("mnt", "every kernel has them"),
        ("pid", "CONFIG_PID_NS"),
        ("net", "CONFIG_NET_NS"),
        ("ipc", "CONFIG_IPC_NS"),
        ("uts", "CONFIG_UTS_NS"),
        ("cgroup", "Linux 4.6, CONFIG_CGROUPS"),
    ];
    for (kind, option) in kinds {
        let present = Path::new(&format!("/proc/self/ns/{kind}")).exists();
        need(present, &format!("{kind} namespaces"), option);
    }
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    need(most.trim() != "0", "user namespaces", "raise user.max_user_namespaces");
}

fn check_seccomp(need: &mut impl FnMut(bool, &str, &str)) {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    need(
        actions.split_whitespace().any(|action| action == "user_notif"),
        "seccomp user notification",
        "Linux 5.0 with CONFIG_SECCOMP_FILTER; its WAIT_KILLABLE_RECV has 5.19",
    );
}

fn is_character_device(path: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device())
}

/// Reads the first two numbers of a kernel release such as `6.18.4-generic`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(kernel_version("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(kernel_version("6.1-rc3"), Some((6, 1)));
        assert_eq!(kernel_version("nonsense"), None);
        assert!(Some((5, 19)) < Some(KERNEL_MIN) && Some((10, 0)) > Some(KERNEL_MIN));
    }
}
