//! A lab whose nodes run a stand-in for the daemon: it answers on the admin socket with the numbers
//! of the nodes that it hears on the link. For the lab's own tests.
//!
//! ```text
//! lab-placeholder lab NAME NODES   builds a lab, prints its processes, runs until stdin closes
//! lab-placeholder node             process 1 of a node: starts the daemon, ends with it
//! lab-placeholder daemon           announces itself on the link, answers on the admin socket
//! ```

use dunix_admin_api::{DESCRIPTOR_ADMIN, DESCRIPTOR_CONFIG, DESCRIPTOR_LIFELINE, NodeConfig};
use dunix_lab::{Lab, LabConfig, LabError, NodeHandle};
use dunix_linux::descriptors::inherited;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, stdin};
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where the stand-ins announce themselves.
const PORT: u16 = 4711;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Between two announcements.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(50);
/// After so long without an announcement a node counts as gone.
const FORGET_AFTER: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    if let Some(code) = dunix_lab::run_role() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.get(1..).unwrap_or_default() {
        ["lab", name, nodes] => lab(name, nodes.parse().unwrap_or(0)),
        ["node"] => node(),
        ["daemon"] => daemon(),
        _ => Err("lab NAME NODES | node | daemon".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-placeholder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lab(name: &str, nodes: u32) -> Result<(), Box<dyn Error>> {
    let mut config = LabConfig::new(name, nodes);
    config.cpus_per_node = Some(0.5);
    config.node_arguments = vec!["node".into()];
    let lab = Lab::start(&config, &mut |node| hears(node, nodes))?;
    for node in lab.nodes() {
        println!("keeper {} {}", node.number, node.keeper.as_raw_nonzero());
    }
    println!("ready");
    for line in stdin().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["cut", node] => lab.cut(node.parse()?)?,
            ["mend", node] => lab.mend(node.parse()?)?,
            _ => break,
        }
        println!("done");
    }
    if let Some(end) = lab.shutdown() {
        println!("ended: {}", end.reason);
    }
    Ok(())
}

/// Tells whether a node hears so many nodes, itself included.
fn hears(node: &NodeHandle, wanted: u32) -> Result<bool, LabError> {
    let Ok(stream) = UnixStream::connect(&node.socket) else { return Ok(false) };
    let mut heard = String::new();
    let read = BufReader::new(stream).read_line(&mut heard);
    Ok(read.is_ok() && heard.split_whitespace().count() == wanted as usize)
}

/// Process 1: nothing but a parent.
fn node() -> Result<(), Box<dyn Error>> {
    let lifeline = inherited(DESCRIPTOR_LIFELINE).ok_or("no lifeline")?;
    rustix::io::fcntl_setfd(&lifeline, rustix::io::FdFlags::CLOEXEC)?;
    let mut daemon = Command::new("/proc/self/exe").arg("daemon").stdin(Stdio::null()).spawn()?;
    let pid = daemon.id();
    std::thread::spawn(move || {
        // Nothing is ever written: the read ends when the owner does.
        let _ = File::from(lifeline).read(&mut [0]);
        eprintln!("the owner is gone");
        std::process::exit(1);
    });
    let status = daemon.wait()?;
    Err(format!("the daemon, process {pid}, ended: {status}").into())
}

fn take(number: i32) -> Result<OwnedFd, Box<dyn Error>> {
    Ok(inherited(number).ok_or_else(|| format!("descriptor {number} is missing"))?)
}

fn daemon() -> Result<(), Box<dyn Error>> {
    let config: NodeConfig = serde_json::from_reader(File::from(take(DESCRIPTOR_CONFIG)?))?;
    let heard = Arc::new(Mutex::new(Vec::<(u32, Instant)>::new()));
    let interface =
        std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", config.interface))?;
    let interface: u32 = interface.trim().parse()?;
    let socket = UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0))?;
    socket.join_multicast_v6(&ALL_NODES, interface)?;
    let (listener, records) = (socket.try_clone()?, Arc::clone(&heard));
    std::thread::spawn(move || listen(&listener, &records));
    let everybody = SocketAddrV6::new(ALL_NODES, PORT, 0, interface);
    std::thread::spawn(move || {
        loop {
            // A link that is down drops it, as a link does.
            let _ = socket.send_to(&config.node.0.to_be_bytes(), everybody);
            std::thread::sleep(ANNOUNCE_EVERY);
        }
    });
    eprintln!("node n{} is up", config.node.0);
    for stream in UnixListener::from(take(DESCRIPTOR_ADMIN)?).incoming() {
        let mut stream = stream?;
        let alive = alive(&heard);
        // An asker that is gone wants no answer.
        let _ = writeln!(stream, "{}", alive.join(" "));
    }
    Ok(())
}

fn listen(socket: &UdpSocket, heard: &Mutex<Vec<(u32, Instant)>>) {
    let mut number = [0; 4];
    while socket.recv_from(&mut number).is_ok() {
        let Ok(mut heard) = heard.lock() else { return };
        heard.retain(|(node, _)| *node != u32::from_be_bytes(number));
        heard.push((u32::from_be_bytes(number), Instant::now()));
    }
}

fn alive(heard: &Mutex<Vec<(u32, Instant)>>) -> Vec<String> {
    let Ok(heard) = heard.lock() else { return Vec::new() };
    let fresh = heard.iter().filter(|(_, when)| when.elapsed() < FORGET_AFTER);
    fresh.map(|(node, _)| *node).collect::<BTreeSet<_>>().iter().map(u32::to_string).collect()
}
