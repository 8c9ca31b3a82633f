//! The node's part in the tree: the authority serves its host's root copy-on-write, every node
//! mounts it. A fabric of one node may leave it to its kernel.

use anyhow::{Context, Result};
use dunix_admin_api::{NodeConfig, Root};
use dunix_files::{Files, LowerConfig, SetIdProgram, VolumeConfig};
use dunix_lab::{SET_IDS_FILE, STORE_DIRECTORY};
use dunix_linux::guest_space::TreeSource;
use dunix_transport::Mesh;
use dunix_wire::{
    Topic,
    files::{FileCall, FileRequest, pack},
};
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Where the lab binds the host's root and the directory for changes.
const LOWER: &str = "/host";
const UPPER: &str = "/upper";
/// How long a node may wait for the authority's node to appear on the link: people start nodes of
/// several machines by hand.
const AUTHORITY_WITHIN: Duration = Duration::from_secs(600);
/// How long one question to it may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who serves the guests' tree.
pub(super) fn source(config: &NodeConfig) -> TreeSource {
    match config.root {
        Root::Cow => TreeSource::Server,
        Root::Host => TreeSource::Overlay {
            lower: LOWER.to_owned(),
            upper: UPPER.to_owned(),
            hidden: vec![STORE_DIRECTORY.to_owned()],
        },
    }
}

/// Serves the mount behind `fuse`, in whose namespace the guests' id 0 is `id_first`; returns once the kernel and the authority can talk.
pub(super) async fn serve(
    config: &NodeConfig,
    mesh: &Mesh,
    fuse: OwnedFd,
    id_first: u32,
) -> Result<Files> {
    let volume = if config.node == config.authority { Some(volume()?) } else { None };
    let files = Files::start(mesh, config.node, config.authority, volume)
        .context("the tree cannot be opened")?;
    wait_for_authority(config, mesh).await?;
    let served = files.clone();
    let mount = tokio::task::spawn_blocking(move || served.mount_shifted(fuse, id_first));
    let features = mount.await?.context("the tree cannot be mounted")?;
    tracing::info!(?features, "the tree is mounted");
    Ok(files)
}

/// Waits until the authority answers: it may still be on its way to the link, or opening its volume.
async fn wait_for_authority(config: &NodeConfig, mesh: &Mesh) -> Result<()> {
    let question = pack(&FileCall::Ask(FileRequest::Statfs), &[]);
    let answers = async {
        loop {
            let question = question.clone();
            let call = mesh.call(config.authority, Topic::Files, question, ANSWER_WITHIN);
            if call.await.is_ok() {
                return;
            }
            // It may be on the link and not serve yet, which nothing announces.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(AUTHORITY_WITHIN, answers).await.with_context(|| {
        format!("node {}, which serves the tree, does not answer on the link", config.authority)
    })
}

/// The host's root, copy-on-write.
fn volume() -> Result<VolumeConfig> {
    let set_ids = set_ids().with_context(|| format!("{SET_IDS_FILE} cannot be read"))?;
    Ok(VolumeConfig {
        lower: LOWER.into(),
        upper: UPPER.into(),
        shown: LowerConfig { set_ids, ..LowerConfig::default() },
    })
}

/// The set-id programs that the host's root has told of.
fn set_ids() -> Result<Vec<SetIdProgram>> {
    let told: Vec<dunix_lab::SetIdProgram> = serde_json::from_slice(&fs::read(SET_IDS_FILE)?)?;
    Ok(told
        .into_iter()
        .map(|one| SetIdProgram {
            path: one.path,
            device: one.device,
            inode: one.inode,
            bits: one.bits,
            uid: one.uid,
            gid: one.gid,
        })
        .collect())
}
