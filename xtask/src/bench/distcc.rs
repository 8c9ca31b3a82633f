//! A peer of builds over nodes: distcc(1), its daemons in network namespaces and control groups of their own.

use super::{
    limited::Limited,
    script::{Times, times},
};
use crate::interrupt;
use anyhow::{Context, Result, ensure};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where the machines' addresses are, in namespaces alone.
const NETWORK: &str = "10.83.0";
const PORT: u16 = 3632;
/// Compilers at a time on each.
const JOBS: u32 = 4;
/// How long the daemons may take until they listen.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Machines in one network; the first is where the build is started. Taken down when dropped.
pub(super) struct Farm {
    machines: Vec<Machine>,
    _switch: Namespace,
}

/// Dropped in this order.
struct Machine {
    limited: Limited,
    namespace: Namespace,
    /// A zombie then, which ends with this process.
    _daemon: Child,
}

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Farm {
    /// Starts a daemon on each.
    pub(super) fn start(count: u32, cpus: f64) -> Result<Farm> {
        let switch = Namespace::new(0)?;
        switch.ip("link add bridge type bridge")?;
        switch.ip("link set bridge up")?;
        let machines = (1..=count).map(|number| Machine::start(number, cpus, &switch));
        let farm = Farm { machines: machines.collect::<Result<_>>()?, _switch: switch };
        farm.wait_until_up()?;
        Ok(farm)
    }

    /// Runs a script that times itself on the first machine, with all of them to compile on.
    pub(super) fn times(&self, script: &str) -> Result<Times> {
        let first = self.machines.first().context("no machines")?;
        let count = self.machines.len();
        let hosts = (1..=count).map(|number| match number {
            1 => format!("localhost/{JOBS}"),
            number => format!("{NETWORK}.{number}/{JOBS}"),
        });
        let hosts = hosts.collect::<Vec<_>>().join(" ");
        let script = format!("{}; export DISTCC_HOSTS='{hosts}'; {script}", first.limited.enter());
        times(&mut first.namespace.command(&["bash"]), &script)
    }

    fn wait_until_up(&self) -> Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        let probe = |number| format!("(exec 3<> /dev/tcp/{NETWORK}.{number}/{PORT}) 2> /dev/null");
        let probes: Vec<_> = (1..=self.machines.len()).map(probe).collect();
        let first = self.machines.first().context("no machines")?;
        let script = probes.join(" && ");
        while !first.namespace.command(&["bash", "-c", &script]).status()?.success() {
            ensure!(Instant::now() < deadline, "distccd does not listen on every machine");
            interrupt::sleep(Duration::from_millis(100))?;
        }
        Ok(())
    }
}

impl Machine {
    fn start(number: u32, cpus: f64, switch: &Namespace) -> Result<Machine> {
        let namespace = Namespace::new(number)?;
        let peer = format!("type veth peer name eth0 netns {}", namespace.0);
        switch.ip(&format!("link add port{number} {peer}"))?;
        switch.ip(&format!("link set port{number} master bridge up"))?;
        namespace.ip(&format!("addr add {NETWORK}.{number}/24 dev eth0"))?;
        namespace.ip("link set eth0 up")?;
        namespace.ip("link set lo up")?;
        let limited = Limited::new(&format!("distcc{number}"), cpus)?;
        let serve = format!(
            "{}; exec distccd --daemon --no-detach --enable-tcp-insecure --allow {NETWORK}.0/24 \
             --allow 127.0.0.1 --port {PORT} --jobs {JOBS} --user nobody --log-level error --log-stderr",
            limited.enter()
        );
        let mut command = namespace.command(&["bash", "-c", &serve]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let daemon = command.spawn().context("distccd")?;
        Ok(Machine { limited, namespace, _daemon: daemon })
    }
}

impl Namespace {
    fn new(number: u32) -> Result<Namespace> {
        let name = format!("dunix-distcc-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"))?;
        Ok(Namespace(name))
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.0))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(words);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns delete {}", self.0)) {
            eprintln!("xtask: {error:#}");
        }
    }
}

fn ip(arguments: &str) -> Result<()> {
    interrupt::run(Command::new("ip").args(arguments.split(' '))).map(drop)
}
