//! Which fabrics this machine takes part in: directories below the run directory, each with one
//! socket a node (`n1.sock`, `n2.sock`, ...). A socket that refuses connections is a dead node's.

use anyhow::{Result, bail};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where fabrics keep their sockets.
pub const RUN_DIR: &str = "/run/dunix";
/// Overrides [`RUN_DIR`], for tests.
pub const RUN_DIR_VARIABLE: &str = "DUNIX_RUN_DIR";

/// A fabric with at least one socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fabric {
    pub name: String,
    /// Sockets by node number.
    pub sockets: Vec<PathBuf>,
}

/// The directory that holds the fabrics of this machine.
#[must_use]
pub fn run_dir() -> PathBuf {
    std::env::var_os(RUN_DIR_VARIABLE).map_or_else(|| RUN_DIR.into(), PathBuf::from)
}

/// Finds the fabric that a command means: the named one, or the only one.
pub fn find(run_dir: &Path, name: Option<&str>) -> Result<Fabric> {
    let mut fabrics = live(run_dir)?;
    let names = |fabrics: &[Fabric]| {
        fabrics.iter().map(|fabric| fabric.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    match name {
        _ if fabrics.is_empty() => match name {
            Some(name) => bail!("no fabric {name:?} runs here; {START_ONE} --name {name}"),
            None => bail!("no fabric runs here; {START_ONE}"),
        },
        Some(name) => match fabrics.iter().position(|fabric| fabric.name == name) {
            Some(index) => Ok(fabrics.swap_remove(index)),
            None => bail!("no fabric {name:?} runs here; running: {}", names(&fabrics)),
        },
        None if fabrics.len() > 1 => bail!(
            "several fabrics run here: {}; choose one with --fabric NAME or DUNIX_FABRIC",
            names(&fabrics)
        ),
        None => Ok(fabrics.swap_remove(0)),
    }
}

const START_ONE: &str = "start one with: dunix lab --nodes 3";

/// Lists the fabrics that have a socket which takes connections, by name.
pub fn live(run_dir: &Path) -> Result<Vec<Fabric>> {
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{}: permission denied; run dunix as root", run_dir.display())
        }
        Err(error) => bail!("{}: {error}", run_dir.display()),
    };
    let mut fabrics: Vec<Fabric> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let sockets = sockets(&entry.path());
            let lives = sockets.iter().any(|socket| may_answer(socket));
            lives.then_some(Fabric { name, sockets })
        })
        .collect();
    fabrics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(fabrics)
}

fn sockets(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut numbered: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix('n')?.strip_suffix(".sock")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    numbered.sort();
    numbered.into_iter().map(|(_, path)| path).collect()
}

/// A socket that the caller may not open counts: the command then says so.
fn may_answer(socket: &Path) -> bool {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn fabric(root: &Path, name: &str) -> UnixListener {
        fs::create_dir_all(root.join(name)).unwrap();
        UnixListener::bind(root.join(name).join("n1.sock")).unwrap()
    }

    #[test]
    fn errors_say_what_to_do() {
        let root = std::env::temp_dir().join(format!("dunix-discovery-{}", std::process::id()));
        let error = |name| find(&root, name).unwrap_err().to_string();
        assert!(error(None).contains("start one with: dunix lab"));
        let a = fabric(&root, "a");
        assert_eq!(find(&root, None).unwrap().name, "a");
        assert!(error(Some("x")).contains("running: a"));
        let b = fabric(&root, "b");
        assert!(error(None).contains("a, b"));
        assert_eq!(find(&root, Some("b")).unwrap().name, "b");
        drop(b);
        // The socket file is still there, but nobody listens.
        assert_eq!(find(&root, None).unwrap().name, "a");
        drop(a);
        fs::remove_dir_all(&root).unwrap();
    }
}
