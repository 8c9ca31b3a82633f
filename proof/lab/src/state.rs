//! What a lab leaves on the host while it runs, and its removal.
//!
//! `/run/dunix/<lab>/` holds the nodes' sockets and the manifest, `/var/lib/dunix/<lab>/` logs and
//! what guests write. The manifest names both and the cgroups, and is written before anything else
//! is made. The lock on the first directory says that somebody looks after the lab: its owner, or
//! its janitor. Whoever gets the lock of a lab that they did not make may remove it.

use crate::config::name_fits;
use crate::error::LabError;
use dunix_linux::cgroup::{self, Hierarchy};
use dunix_linux::guest_space::names_descriptor;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Sockets and manifests of labs, one directory each.
pub(crate) const RUN_DIRECTORY: &str = "/run/dunix";
/// Logs and stores of labs, one directory each.
pub const STORE_DIRECTORY: &str = "/var/lib/dunix";
const MANIFEST: &str = "manifest.json";
/// Says in a store directory that it is a lab's and may be removed.
const STORE_MARK: &str = "lab";
/// How long the removal of a lab waits for its killed processes to be gone.
const REMOVE_WITHIN: Duration = Duration::from_secs(10);
/// How long a dead lab of the wanted name may take to be removed by its janitor.
const TAKEOVER_WITHIN: Duration = Duration::from_secs(3);

/// What must be removed when a lab ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The lab.
    pub(crate) name: String,
    /// The process that started it.
    pub(crate) owner: u32,
    /// Its cgroups, one directory a hierarchy.
    pub(crate) groups: Vec<PathBuf>,
}

impl Manifest {
    /// Of a lab whose cgroups are called `group`.
    pub(crate) fn new(name: &str, group: &str, hierarchies: &[Hierarchy]) -> Manifest {
        Manifest {
            name: name.to_owned(),
            owner: std::process::id(),
            groups: hierarchies.iter().map(|hierarchy| hierarchy.base.join(group)).collect(),
        }
    }

    pub(crate) fn run_directory(&self) -> PathBuf {
        Path::new(RUN_DIRECTORY).join(&self.name)
    }

    pub(crate) fn store_directory(&self) -> PathBuf {
        Path::new(STORE_DIRECTORY).join(&self.name)
    }

    /// Removes all that the lab put on the host, killing what still runs in its groups. Goes on
    /// after a failure, so that as little as possible is left; reports the first.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + REMOVE_WITHIN;
        let mut outcome = Ok(());
        for group in &self.groups {
            outcome = outcome.and(cgroup::kill_and_remove(group, deadline));
        }
        outcome = outcome.and(remove_store(&self.store_directory()));
        // Last, since it holds the manifest and the lock.
        outcome = outcome.and(remove_directory(&self.run_directory()));
        for parent in [STORE_DIRECTORY, RUN_DIRECTORY] {
            // Fails while another lab or fabric is there, as it should.
            let _ = fs::remove_dir(parent);
        }
        outcome
    }
}

/// The name of a lab's cgroup.
pub(crate) fn group_name(lab: &str) -> String {
    format!("dunix-{lab}")
}

/// A lab's directories, locked for as long as the value or a duplicate of its descriptor lives.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) manifest: Manifest,
    pub(crate) lock: File,
}

impl State {
    /// Makes the directories of a lab and writes its manifest.
    pub(crate) fn create(manifest: Manifest) -> Result<State, LabError> {
        let run = manifest.run_directory();
        let lock = claim(&run, &manifest.name)?;
        // With the lock held, what lies here is left over from a dead lab.
        if let Some(old) = read_manifest(&run) {
            for group in &old.groups {
                let deadline = Instant::now() + REMOVE_WITHIN;
                cgroup::kill_and_remove(group, deadline).map_err(LabError::state(group))?;
            }
        }
        empty_directory(&run).map_err(LabError::state(&run))?;
        let state = State { manifest, lock };
        let store = state.manifest.store_directory();
        remove_store(&store).map_err(LabError::state(&store))?;
        state.write_manifest().map_err(LabError::state(&run))?;
        make_private(&store).map_err(LabError::state(&store))?;
        fs::write(store.join(STORE_MARK), "").map_err(LabError::state(&store))?;
        Ok(state)
    }

    fn write_manifest(&self) -> io::Result<()> {
        let directory = self.manifest.run_directory();
        let fresh = directory.join("manifest.new");
        fs::write(&fresh, serde_json::to_vec_pretty(&self.manifest)?)?;
        fs::rename(fresh, directory.join(MANIFEST))
    }

    /// The socket of a node.
    pub(crate) fn socket(&self, node: u32) -> PathBuf {
        self.manifest.run_directory().join(format!("n{node}.sock"))
    }

    /// The log of a node.
    pub(crate) fn log(&self, node: u32) -> PathBuf {
        self.manifest.store_directory().join(format!("n{node}.log"))
    }
}

/// Makes (or finds) a lab's directory and locks it; waits a little for a dead lab's janitor.
fn claim(run: &Path, name: &str) -> Result<File, LabError> {
    let deadline = Instant::now() + TAKEOVER_WITHIN;
    loop {
        make_private(run).map_err(LabError::state(run))?;
        if let Some(lock) = try_lock(run).map_err(LabError::state(run))? {
            return Ok(lock);
        }
        let owner = read_manifest(run).map_or(0, |manifest| manifest.owner);
        if Instant::now() >= deadline || (owner != 0 && is_alive(owner)) {
            return Err(LabError::NameTaken { name: name.to_owned(), owner });
        }
        // A lock gives no notice when it is tried without waiting for ever.
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z')))
        .unwrap_or(false)
}

/// Locks a lab's directory; `None` if somebody has it, or removed it meanwhile.
fn try_lock(run: &Path) -> io::Result<Option<File>> {
    let lock = match File::open(run) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        other => other?,
    }
    let path = run.to_str().ok_or(ErrorKind::InvalidInput)?;
    Ok(names_descriptor(path, lock.as_fd()).unwrap_or(false).then_some(lock))
}

fn read_manifest(run: &Path) -> Option<Manifest> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(run.join(MANIFEST)).ok()?).ok()?;
    // The directory's name counts, not what a file in it says.
    (run.file_name()?.to_str()? == manifest.name).then_some(manifest)
}

/// Removes what labs left that nobody looks after any more; returns their names.
///
/// # Errors
/// The first failure; the other labs are cleaned nevertheless.
pub fn sweep() -> Result<Vec<String>, LabError> {
    let mut swept = Vec::new();
    let mut outcome = Ok(());
    for name in left_names(RUN_DIRECTORY) {
        let run = Path::new(RUN_DIRECTORY).join(&name);
        match sweep_one(&run, &name) {
            Ok(true) => swept.push(name),
            Ok(false) => {}
            Err(error) => outcome = outcome.and(Err(LabError::state(run)(error))),
        }
    }
    outcome.and(sweep_stores()).map(|()| swept)
}

/// Removes the stores of labs whose other directory is gone (a host that restarted).
fn sweep_stores() -> Result<(), LabError> {
    for name in left_names(STORE_DIRECTORY) {
        let store = Path::new(STORE_DIRECTORY).join(&name);
        // A lab makes its store last and removes it first, so this one has nobody.
        if store.join(STORE_MARK).exists() && !Path::new(RUN_DIRECTORY).join(&name).exists() {
            remove_store(&store).map_err(LabError::state(&store))?;
        }
    }
    Ok(())
}

fn sweep_one(run: &Path, name: &str) -> io::Result<bool> {
    let Some(_lock) = try_lock(run)? else { return Ok(false) };
    // A directory without a manifest is that of a fabric which is no lab, or of a lab that died
    // before it made anything else.
    let Some(manifest) = read_manifest(run) else {
        return Ok(fs::remove_dir(run).is_ok());
    };
    debug_assert_eq!(manifest.name, name);
    manifest.remove()?;
    Ok(true)
}

fn left_names(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name_fits(name)).collect()
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a lab's store, but never that of a fabric that is no lab.
fn remove_store(path: &Path) -> io::Result<()> {
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if path.exists() && !is_empty && !path.join(STORE_MARK).exists() {
        let what = "holds the state of something that is no lab; choose another name";
        return Err(io::Error::new(ErrorKind::AlreadyExists, what));
    }
    remove_directory(path)
}

fn empty_directory(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
