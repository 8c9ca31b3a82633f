//! Tests of Go's standard library, as Debian packages its sources.

use super::Module;
use crate::{
    interrupt,
    packages::{self, Tool},
};
use anyhow::{Context, Result};
use std::{fs, path::Path, process::Command};

/// Packages, and how long one run may take in seconds.
const PACKAGES: [(&str, u64); 5] =
    [("os", 120), ("os/exec", 120), ("os/signal", 240), ("syscall", 120), ("net", 240)];

/// Builds the tests with Go's own cache below the folder.
pub(super) fn prepare(folder: &Path) -> Result<Vec<Module>> {
    packages::ensure(&[Tool { program: "go", package: "golang-go" }])?;
    let root = interrupt::output(Command::new("go").args(["env", "GOROOT"]))?;
    let root = String::from_utf8(root).context("go env GOROOT")?;
    let sources = Path::new(root.trim()).join("src");
    let binaries = folder.join("go");
    fs::create_dir(&binaries)?;
    PACKAGES.iter().map(|package| build(*package, &sources, &binaries)).collect()
}

fn build((package, seconds): (&str, u64), sources: &Path, binaries: &Path) -> Result<Module> {
    let name = format!("go-{}", package.replace('/', "-"));
    let binary = binaries.join(&name);
    let mut compile = Command::new("go");
    compile.args(["test", "-c", "-o"]).arg(&binary).arg(package);
    compile.env("GOCACHE", binaries.join("cache")).env("GOFLAGS", "-mod=mod");
    interrupt::run(compile.current_dir(sources))?;
    let place = sources.join(package);
    let script = RUN.replace("PLACE", &place.to_string_lossy());
    Ok(Module { name, seconds, script: script.replace("BINARY", &binary.to_string_lossy()) })
}

/// Tells of each test when it begins and how it ended.
const RUN: &str = r#"
set -o pipefail
export GOCACHE=$TMPDIR/cache
cases=${CASES// /|}
cd "PLACE" && "BINARY" -test.v -test.short -test.run "^(${cases:-.*})\$" 2>&1 | tee /dev/stderr |
    awk -v OFS='\t' '
        /^=== RUN +[^\/]*$/ { print "began", $3, "" }
        /^--- PASS: / { print "ok", $3, "" }
        /^--- SKIP: / { print "skipped", $3, "" }
        /^--- FAIL: / { print "failed", $3, "" }
        { fflush() }
    ' >> "$RESULTS"
"#;
