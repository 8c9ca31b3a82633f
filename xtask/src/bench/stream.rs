//! One pipe between two nodes against TCP, plain and with TLS, between the same namespaces.

use super::{
    meter::Meter,
    ratio,
    stats::{Ratio, Series},
};
use crate::{fabric::Fabric, interrupt};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

const RUNS: usize = 5;
const BYTES: u64 = 512 << 20;
const GIB: f64 = (1u64 << 30) as f64;
/// Against blocking threads with TLS, the least that an encrypted stream costs: relays on both
/// sides copy twice more.
const BOUND_TIME: f64 = 2.0;
const BOUND_CPU: f64 = 2.5;

struct Run {
    seconds: f64,
    cpu_seconds: f64,
}

struct Figures {
    time: Series,
    cpu: Series,
}

impl Figures {
    fn new(time: &'static str, cpu: &'static str) -> Figures {
        Figures { time: Series::new(time, "s/GiB"), cpu: Series::new(cpu, "CPU s/GiB") }
    }

    fn push(&mut self, run: &Run) {
        let gib = BYTES as f64 / GIB;
        self.time.push(run.seconds / gib);
        self.cpu.push(run.cpu_seconds / gib);
    }
}

pub(super) fn measure(binaries: &Path) -> Result<Vec<Ratio>> {
    println!("\na stream from node to node, {} MiB", BYTES >> 20);
    let (meter, fabric) = Meter::start(binaries, 2, &[])?;
    let peers = Peers::find(binaries, &fabric)?;
    let mut pipe = Figures::new("pipe of the fabric", "  its CPU");
    let mut tcp = Figures::new("TCP", "  its CPU");
    let mut tls = Figures::new("TCP with TLS", "  its CPU");
    for _ in 0..RUNS {
        pipe.push(&across(&fabric, &meter)?);
        tcp.push(&peers.run("tcp")?);
        tls.push(&peers.run("tls")?);
    }
    for figures in [&pipe, &tcp, &tls] {
        println!("{}\n{}", figures.time, figures.cpu);
    }
    Ok(vec![
        ratio("time of a pipe between nodes / TCP with TLS", &pipe.time, &tls.time, BOUND_TIME),
        ratio("CPU of a pipe between nodes / TCP with TLS", &pipe.cpu, &tls.cpu, BOUND_CPU),
        ratio("CPU of a pipe between nodes / TCP", &pipe.cpu, &tcp.cpu, 2.0 * BOUND_CPU),
    ])
}

/// A writer on one node, a reader on the other.
fn across(fabric: &Fabric, meter: &Meter) -> Result<Run> {
    let script = format!("head -c {BYTES} /dev/zero | wc -c");
    let (before, start) = (meter.seconds()?, Instant::now());
    let text = interrupt::output(&mut fabric.dunix(&["run", "--spread", "bash", "-c", &script]))?;
    let run =
        Run { seconds: start.elapsed().as_secs_f64(), cpu_seconds: meter.seconds()? - before };
    if text != format!("{BYTES}\n").into_bytes() {
        bail!("the pipe lost bytes: {}", String::from_utf8_lossy(&text));
    }
    Ok(run)
}

/// The plain streams' two ends, in the nodes' network namespaces.
struct Peers {
    program: PathBuf,
    /// A process in each node's namespace.
    from: u32,
    to: u32,
    address: String,
}

impl Peers {
    fn find(binaries: &Path, fabric: &Fabric) -> Result<Peers> {
        let nodes = fabric.nodes()?;
        let address = |id: u64| {
            let node = nodes.iter().find(|node| node["id"] == id);
            node.and_then(|node| node["address"].as_str()).unwrap_or_default().to_owned()
        };
        let daemons = daemons(fabric.pid());
        let own = |id: u64| {
            let hex = hex_of(&address(id));
            daemons
                .iter()
                .copied()
                .find(|pid| hex.as_ref().is_some_and(|hex| has_address(*pid, hex)))
        };
        let (from, to) = own(1).zip(own(2)).context("the nodes' namespaces are not found")?;
        let program = binaries.join("dunix-bench-peer");
        Ok(Peers { program, from, to, address: address(2) })
    }

    fn command(&self, pid: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid.to_string()]).arg(&self.program).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, kind: &str) -> Result<Run> {
        let mut server = self.command(self.to, &["serve", kind]).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(server.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (port, certificate) = words.split_first().context("the peer did not start")?;
        let bytes = BYTES.to_string();
        let address = self.address.split('%').next().unwrap_or_default();
        let mut arguments = vec!["send", kind, address, port, &bytes];
        arguments.extend(certificate);
        let sent = interrupt::output(&mut self.command(self.from, &arguments));
        if sent.is_err() {
            // It would wait for ever.
            let _ = server.kill();
        }
        let mut received = String::new();
        output.read_to_string(&mut received)?;
        server.wait()?;
        let (sender, receiver) = (figures(&String::from_utf8(sent?)?)?, figures(&received)?);
        Ok(Run { seconds: sender.0, cpu_seconds: sender.1 + receiver.1 })
    }
}

fn figures(text: &str) -> Result<(f64, f64)> {
    let (seconds, cpu) = text.trim().split_once(' ').context("the peer printed no figures")?;
    Ok((seconds.parse()?, cpu.parse()?))
}

/// An address as `/proc/net/if_inet6` writes it.
fn hex_of(address: &str) -> Option<String> {
    let address: std::net::Ipv6Addr = address.split('%').next()?.parse().ok()?;
    Some(address.octets().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn has_address(pid: u32, hex: &str) -> bool {
    let list = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).unwrap_or_default();
    list.lines().any(|line| line.starts_with(hex))
}

/// Host PIDs of the lab's daemons.
fn daemons(lab: u32) -> Vec<u32> {
    let mut found = vec![lab];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found.retain(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == b"--daemon")
    });
    found
}
