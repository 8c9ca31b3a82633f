//! The janitor: a process that outlives a killed owner for as long as cleaning takes.
//!
//! It holds the lab's lock beside the owner. When the owner's socket closes, every process of the
//! lab is killed and all that the manifest names is removed.

use crate::error::LabError;
use crate::packets::Packets;
use crate::roles::{Role, start};
use crate::state::{Manifest, State};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsFd;
use std::process::Child;
use std::time::Duration;

/// How long the janitor may take to start.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// What to remove; the lock comes beside.
    Watch(Manifest),
    /// The owner has removed everything itself.
    Dismiss,
}

/// The owner's hold on the janitor.
#[derive(Debug)]
pub(crate) struct Janitor {
    pub(crate) process: Child,
    socket: Packets,
}

impl Janitor {
    pub(crate) fn start(state: &State) -> Result<Janitor, LabError> {
        let (process, socket) =
            start(Role::Janitor, None).map_err(LabError::step("start the janitor"))?;
        let janitor = Janitor { process, socket };
        let told = janitor.tell(&Request::Watch(state.manifest.clone()), state);
        told.map_err(LabError::step("instruct the janitor"))?;
        let heard: io::Result<()> = janitor.socket.receive_within(ANSWER_WITHIN);
        heard.map_err(LabError::step("hear the janitor"))?;
        Ok(janitor)
    }

    fn tell(&self, request: &Request, state: &State) -> io::Result<()> {
        self.socket.send(request, &[state.lock.as_fd()])
    }

    /// Ends the janitor, which then touches nothing; waits for its end.
    pub(crate) fn dismiss(&mut self) {
        // A janitor that is dead already has nothing to be told.
        let _ = self.socket.send(&Request::Dismiss, &[]);
        let _ = self.process.wait();
    }
}

/// The janitor's whole life.
pub(crate) fn run(owner: &Packets) -> io::Result<()> {
    let Some((Request::Watch(manifest), lock)) = owner.receive()? else { return Ok(()) };
    owner.send(&(), &[])?;
    match owner.receive::<Request>() {
        Ok(Some((Request::Dismiss, _))) => Ok(()),
        // The owner is gone, or mad.
        Ok(_) | Err(_) => {
            let outcome = manifest.remove();
            drop(lock);
            outcome
        }
    }
}
