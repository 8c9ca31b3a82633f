//! One pipe between two nodes against TCP, plain and with TLS, between the same namespaces.

use super::{
    meter::Meter,
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
const BYTES: u64 = 1 << 30;
const GIB: f64 = (1u64 << 30) as f64;

struct Run {
    seconds: f64,
    cpu_seconds: f64,
}

struct Figures {
    speed: Series,
    cpu: Series,
}

impl Figures {
    fn new(name: &'static str) -> Figures {
        Figures { speed: Series::new(name, "GiB/s"), cpu: Series::new("  its CPU", "s/GiB") }
    }

    fn push(&mut self, run: &Run) {
        let gib = BYTES as f64 / GIB;
        self.speed.push(gib / run.seconds);
        self.cpu.push(run.cpu_seconds / gib);
    }
}

pub(super) fn measure(binaries: &Path) -> Result<Vec<Ratio>> {
    println!("\na stream from node to node, {} MiB", BYTES >> 20);
    let meter = Meter::start(binaries, "bench", 2, &[])?;
    let peers = Peers::find(binaries, &meter.fabric)?;
    let mut pipe = Figures::new("pipe of the fabric");
    let mut tcp = Figures::new("TCP");
    let mut tls = Figures::new("TCP with TLS");
    for _ in 0..RUNS {
        pipe.push(&across(&meter)?);
        tcp.push(&peers.run("tcp")?);
        tls.push(&peers.run("tls")?);
    }
    for figures in [&pipe, &tcp, &tls] {
        println!("{}\n{}", figures.speed, figures.cpu);
    }
    Ok(vec![
        Ratio::new("GiB/s of a pipe between nodes / TCP with TLS", &pipe.speed, &tls.speed),
        Ratio::new("GiB/s of a pipe between nodes / TCP", &pipe.speed, &tcp.speed),
        Ratio::new("CPU of a pipe between nodes / TCP with TLS", &pipe.cpu, &tls.cpu),
        Ratio::new("CPU of a pipe between nodes / TCP", &pipe.cpu, &tcp.cpu),
    ])
}

/// A writer on one node, a reader on the other; like the peers they use 64 KiB at a time.
fn across(meter: &Meter) -> Result<Run> {
    let chunks = BYTES >> 16;
    let script =
        format!("dd if=/dev/zero bs=64k count={chunks} status=none | dd of=/dev/null bs=64k 2>&1");
    let (before, start) = (meter.seconds()?, Instant::now());
    let text =
        interrupt::output(&mut meter.fabric.dunix(&["run", "--spread", "bash", "-c", &script]))?;
    let run =
        Run { seconds: start.elapsed().as_secs_f64(), cpu_seconds: meter.seconds()? - before };
    let text = String::from_utf8_lossy(&text).into_owned();
    if !text.contains(&format!("\n{BYTES} bytes")) {
        bail!("the pipe lost bytes: {text}");
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
        // A node knows the addresses of the others, not its own.
        let address = nodes.iter().find_map(|node| {
            node["address"].as_str().filter(|address| !address.is_empty()).map(str::to_owned)
        });
        let address = address.context("no node has an address")?;
        let hex = hex_of(&address).with_context(|| format!("{address} is no address"))?;
        let (to, from): (Vec<u32>, Vec<u32>) =
            daemons(fabric.pid()).into_iter().partition(|pid| has_address(*pid, &hex));
        let (from, to) = from.first().zip(to.first()).context("the nodes are not found")?;
        let program = binaries.join("dunix-bench-peer");
        Ok(Peers { program, from: *from, to: *to, address })
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
