//! CPython's own tests, as Debian packages them for the installed Python.

use super::Module;
use crate::{
    interrupt,
    packages::{self, PYTHON, Tool},
};
use anyhow::{Context, Result};
use std::{fs, path::Path, process::Command};

const RUNNER: &str = include_str!("runner.py");
/// Modules, and how long one run may take in seconds.
const MODULES: [(&str, u64); 61] = [
    ("test_wait3", 60),
    ("test_wait4", 60),
    ("test_fork1", 60),
    ("test_time", 60),
    ("test_resource", 60),
    ("test_fcntl", 60),
    ("test_mmap", 60),
    ("test_pty", 60),
    ("test_tempfile", 60),
    ("test_select", 60),
    ("test_selectors", 120),
    ("test_poll", 60),
    ("test_epoll", 60),
    ("test_posix", 60),
    ("test_posixpath", 60),
    ("test_os", 120),
    ("test_signal", 180),
    ("test_threadsignals", 120),
    ("test_eintr", 120),
    ("test_io", 240),
    ("test_fileio", 60),
    ("test_file", 60),
    ("test_file_eintr", 60),
    ("test_largefile", 120),
    ("test_ioctl", 60),
    ("test_openpty", 60),
    ("test_faulthandler", 120),
    ("test_subprocess", 240),
    ("test_popen", 60),
    ("test_pipes", 60),
    ("test_thread", 60),
    ("test_threading", 240),
    ("test_threading_local", 60),
    ("test_queue", 60),
    ("test_gc", 60),
    ("test_sys", 120),
    ("test_site", 120),
    ("test_cmd_line", 240),
    ("test_atexit", 60),
    ("test_venv", 240),
    ("test_glob", 60),
    ("test_pathlib", 120),
    ("test_shutil", 120),
    ("test_stat", 60),
    ("test_mailbox", 120),
    ("test_logging", 240),
    ("test_syslog", 60),
    ("test_socket", 240),
    ("test_timeout", 60),
    ("test_socketserver", 120),
    ("test_ssl", 300),
    ("test_httpservers", 120),
    ("test_ftplib", 120),
    ("test_poplib", 120),
    ("test_smtplib", 120),
    ("test_asyncio", 480),
    ("test_concurrent_futures", 600),
    ("test_multiprocessing_fork", 480),
    ("test_multiprocessing_spawn", 600),
    ("test_multiprocessing_forkserver", 600),
    ("test_multiprocessing_main_handling", 240),
];

/// Installs the tests of the machine's Python.
pub(super) fn prepare(folder: &Path) -> Result<Vec<Module>> {
    packages::ensure(&[PYTHON])?;
    let ask = "import sys; print('python%d.%d' % sys.version_info[:2])";
    let answer = interrupt::output(Command::new(PYTHON.program).args(["-c", ask]))?;
    let version = String::from_utf8(answer).context("python3")?.trim().to_owned();
    packages::ensure(&[Tool {
        program: &format!("/usr/lib/{version}/test/test_os.py"),
        package: &format!("lib{version}-testsuite"),
    }])?;
    let runner = folder.join("runner.py");
    fs::write(&runner, RUNNER)?;
    let module = |(name, seconds): (&str, u64)| Module {
        name: name.to_owned(),
        seconds,
        script: format!(
            "exec {} -X faulthandler {} {name} \"$RESULTS\" $CASES",
            PYTHON.program,
            runner.display()
        ),
    };
    Ok(MODULES.map(module).into())
}
