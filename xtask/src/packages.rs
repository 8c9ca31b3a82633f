//! Programs of the system that chores need; missing ones are installed by apt, and it says so.

use crate::interrupt;
use anyhow::{Context, Result, bail};
use std::{env, path::PathBuf, process::Command};

/// A program and the Debian package that brings it.
pub(crate) struct Tool<'a> {
    /// Its name, or the path of a file that the package brings.
    pub(crate) program: &'a str,
    pub(crate) package: &'a str,
}

pub(crate) const MAKE: Tool<'_> = Tool { program: "make", package: "make" };
pub(crate) const CC: Tool<'_> = Tool { program: "cc", package: "gcc" };
pub(crate) const PYTHON: Tool<'_> = Tool { program: "/usr/bin/python3", package: "python3" };
pub(crate) const IP: Tool<'_> = Tool { program: "ip", package: "iproute2" };
pub(crate) const STRACE: Tool<'_> = Tool { program: "strace", package: "strace" };
pub(crate) const GDB: Tool<'_> = Tool { program: "gdb", package: "gdb" };
pub(crate) const QEMU: Tool<'_> =
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };
pub(crate) const DEBOOTSTRAP: Tool<'_> = Tool { program: "debootstrap", package: "debootstrap" };
pub(crate) const MKE2FS: Tool<'_> = Tool { program: "mke2fs", package: "e2fsprogs" };
pub(crate) const SSHD: Tool<'_> = Tool { program: "sshd", package: "openssh-server" };
pub(crate) const DISTCC: Tool<'_> = Tool { program: "distccd", package: "distcc" };
pub(crate) const SSH: Tool<'_> = Tool { program: "ssh", package: "openssh-client" };

/// Makes sure that the tools are there.
pub(crate) fn ensure(tools: &[Tool<'_>]) -> Result<()> {
    let missing: Vec<&Tool<'_>> =
        tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    eprintln!("installing {} (apt-get install) ...", packages.join(", "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        // In run level 1 no package starts its service.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        command.arg("-qq").args(arguments);
        interrupt::output(&mut command)
    };
    apt(&["update"]).context("cannot install what is missing")?;
    apt(&[&["install", "--yes", "--no-install-recommends"], &*packages].concat())?;
    for tool in missing {
        if find(tool.program).is_none() {
            bail!("package {} brought no {}", tool.package, tool.program);
        }
    }
    Ok(())
}

/// Finds a program in `PATH` and where system programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}
