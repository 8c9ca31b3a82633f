//! The daemon's start and end.

use super::{
    backend::Backend, extension::GuestCalls, local::ThisNode, overview::Overview, place::ByLoad,
    terminals::NodeTerminals, tree,
};
use crate::admin::server;
use anyhow::{Context, Result, bail};
use dunix_admin_api::{DESCRIPTOR_ADMIN, DESCRIPTOR_CONFIG, NodeConfig};
use dunix_guest_abi::doorbell::PROCESS_FILES;
use dunix_keeper::KEEPER_FD;
use dunix_linux::{
    descriptors::inherited,
    guest_space::{GuestNamespaces, GuestSpaceConfig, UnservedGuestNamespaces},
};
use dunix_load::{Load, SampleConfig};
use dunix_locks::Locks;
use dunix_names::Names;
use dunix_processes::{FilePrivileges, Processes, ProcessesConfig};
use dunix_transport::{Mesh, MeshConfig};
use std::{
    fs::{self, File, Permissions},
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
    process::ExitCode,
    sync::Arc,
};
use tokio::signal::unix::{SignalKind, signal};

/// Greatest bytes of a configuration.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Threads of the daemon's runtime: the doorbell and FUSE have threads of their own.
const RUNTIME_THREADS: usize = 2;
/// Where the daemon keeps the shim: its own copy, in the node's private root.
const SHIM: &str = "/run/shim";

/// Runs the daemon until its node ends.
pub fn run_daemon() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DUNIX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the node cannot run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What must happen while the daemon has one thread; then the rest.
fn start() -> Result<()> {
    let given = |number, what| inherited(number).with_context(|| format!("{what} is missing"));
    let admin = UnixListener::from(given(DESCRIPTOR_ADMIN, "the admin socket")?);
    let config = read_config(given(DESCRIPTOR_CONFIG, "the configuration")?)?;
    let keeper = given(KEEPER_FD, "the socket to the keeper")?;
    // The keeper ends the node when its socket closes: not before this process has said why.
    std::mem::forget(keeper.try_clone()?);
    let space = GuestSpaceConfig {
        clock_zero_s: config.clock_zero_s,
        source: tree::source(&config),
        processes: Some(PROCESS_FILES.into()),
        ..GuestSpaceConfig::default()
    };
    let (unserved, fuse) = UnservedGuestNamespaces::create(&space)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()?;
    let start = Start { config, admin, keeper, space, unserved, fuse };
    let result = runtime.block_on(serve_node(start));
    // Threads of a half-started node may wait for what never comes: they end with the process.
    runtime.shutdown_background();
    result
}

struct Start {
    config: NodeConfig,
    admin: UnixListener,
    keeper: OwnedFd,
    space: GuestSpaceConfig,
    unserved: UnservedGuestNamespaces,
    /// `None`: the kernel serves the tree.
    fuse: Option<OwnedFd>,
}

fn read_config(pipe: OwnedFd) -> Result<NodeConfig> {
    let mut text = String::new();
    File::from(pipe).take(CONFIG_BYTES_MAX).read_to_string(&mut text)?;
    serde_json::from_str(&text).context("the configuration is malformed")
}

async fn serve_node(start: Start) -> Result<()> {
    let Start { config, admin, keeper, space, mut unserved, fuse } = start;
    let mesh = join_mesh(&config).await?;
    let tree = match fuse {
        Some(fuse) => Some(tree::serve(&config, &mesh, fuse, space.id_first).await?),
        None => None,
    };
    let process_files = unserved.take_processes();
    // Looks into the tree, so it may wait for the authority's node.
    let namespaces = tokio::task::spawn_blocking(move || unserved.finish()).await??;
    let load = Load::start(
        mesh.clone(),
        SampleConfig { cpus_centi: cpus_centi(config.cpus), ..SampleConfig::default() },
    );
    let names = Names::start(mesh.clone(), config.node, config.authority);
    let locks = Locks::start(&mesh, config.node, config.authority);
    let runtime = tokio::runtime::Handle::current();
    let calls = Arc::new(GuestCalls::new(names.clone(), locks.clone(), runtime, tree.clone()));
    let processes =
        start_processes(&config, &mesh, &load, keeper, namespaces, &space, calls.clone())?;
    let woken = processes.clone();
    locks.set_wake(move |pid| woken.wake(pid));
    let recalled = processes.clone();
    locks.set_recall(move || recalled.recall_locks());
    let settled = processes.clone();
    names.set_settled(move |port| settled.settle_port(port));
    if let Some(tree) = &tree {
        let openers = processes.clone();
        tree.set_fifo_gate(move |ino, thread| openers.lets_open(ino, thread));
    }
    let (served, name, zero) = (processes.clone(), config.name.clone(), config.clock_zero_s);
    let served = move || served.serve_files(process_files, &name, zero);
    let _process_files = tokio::task::spawn_blocking(served).await??;
    let terminals = NodeTerminals::start(config.node, processes.clone(), space.id_first)?;
    calls.set_terminals(terminals.clone());
    let local = Arc::new(ThisNode::new(config.clone(), mesh.clone(), load, processes.clone()));
    let overview = Overview::start(mesh.clone(), config.node, local);
    admin.set_nonblocking(true)?;
    let admin = tokio::net::UnixListener::from_std(admin)?;
    let backend = Backend::new(config, processes.clone(), overview, terminals);
    let mut ended = signal(SignalKind::terminate())?;
    tokio::select! {
        () = server::serve(admin, Arc::new(backend)) => bail!("the admin socket closed"),
        _ = ended.recv() => {}
    }
    processes.shut_down();
    mesh.stop().await;
    drop(tree);
    Ok(())
}

async fn join_mesh(config: &NodeConfig) -> Result<Mesh> {
    let mesh = Mesh::start(MeshConfig {
        fabric: config.fabric.clone(),
        node: config.node,
        name: config.name.clone(),
        interface: config.interface.clone(),
        ca_pem: config.ca_pem.clone(),
        cert_pem: config.cert_pem.clone(),
        key_pem: config.key_pem.clone(),
    });
    mesh.await.context("cannot join the fabric's link")
}

fn start_processes(
    config: &NodeConfig,
    mesh: &Mesh,
    load: &Load,
    keeper: OwnedFd,
    namespaces: GuestNamespaces,
    space: &GuestSpaceConfig,
    calls: Arc<GuestCalls>,
) -> Result<Processes> {
    Ok(Processes::start(ProcessesConfig {
        node: config.node,
        founder: config.authority,
        mesh: Some(mesh.clone()),
        keeper,
        shim: install_shim(Path::new(SHIM))?,
        privileges: Some(FilePrivileges {
            tree_mount: namespaces.tree_mount,
            vault: namespaces.vault,
        }),
        namespaces: [Some(namespaces.user), namespaces.time, Some(namespaces.mount)]
            .into_iter()
            .flatten()
            .collect(),
        root: Vec::new(),
        tree_device: namespaces.tree_device,
        ids_base: space.id_first,
        policy: Arc::new(ByLoad::new(config.node, load.clone(), config.spread)),
        extension: calls,
    })?)
}

/// Writes the shim where guests can execute it, and opens it for reading: the writing descriptor
/// must be closed before the first exec (`ETXTBSY`).
fn install_shim(path: &Path) -> Result<OwnedFd> {
    fs::write(path, dunix_shim_image::SHIM)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(File::open(path)?.into())
}

/// Hundredths of a processor; `None` if the configuration sets no limit.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped first")]
fn cpus_centi(cpus: f64) -> Option<u32> {
    (cpus > 0.0).then(|| (cpus * 100.0).clamp(1.0, 1e9) as u32)
}
