//! Chores of the workspace: `cargo xtask <chore>`.
//!
//! ```text
//! layers   who may depend on whom, where unsafe may be          (no build)
//! ci       format, lints, layers, then test                     (what .ci/run runs)
//! test     builds, then every test; ends with a line of figures
//! sim      the machines of many nodes together in one deterministic simulation
//! demo     a parallel build, a pipeline and a moved computation, compared with native ones
//! bench    figures as ratios to their peers in the same run
//! compat   public test suites, natively and in a fabric, compared case by case
//! unpack   the C code base that demo and tests build
//! ```

mod bench;
mod ci;
mod compat;
mod demo;
mod fabric;
mod interrupt;
mod layers;
mod packages;
mod sim;
mod source;
mod test;
mod vm;
mod watched;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask CHORE

  layers            check dependencies between layers and where unsafe code is
  ci                format, lints, layers, test
  test [--full]     build and run every test; --full: long ones too
  test --vm         a fabric of two virtual machines (QEMU, software emulation, Linux 6.1)
  sim --nodes N --seed S [--steps K] ...
                    the machines of N nodes together, simulated: the same seed gives the same trace
                    (`sim --help`: nodes that die, networks that fall apart, idle nodes)
  demo              build zstd over a fabric of three nodes and compare with a native build
  compat [NAME...] [--local] [--spread] [--storm]
                    public test suites (python, go, stress, shells, daily) or some of their modules, natively and
                    in labs of one node and of three, compared case by case
  unpack DIR        put the C code base of the demo into a new folder
  bench [GROUP...]  measure starts, streams, moves, files and CPU time against ssh, TCP and native programs
  bench --check     measure what has a bound; fails if one is missed";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = interrupt::listen() {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    let result = match *arguments {
        ["layers"] => layers::run(),
        ["ci"] => ci::run(),
        ["test"] => test::run(false),
        ["test", "--full"] => test::run(true),
        ["test", "--vm"] => vm::run(),
        ["sim", ref arguments @ ..] => sim::run(arguments),
        ["demo"] => demo::run(),
        ["unpack", folder] => source::unpack(folder.as_ref()).map(drop),
        ["compat", ref arguments @ ..] => compat::run(arguments),
        ["bench", ref arguments @ ..] => bench::run(arguments),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
