//! bash's and busybox's own tests, of the sources that Debian's packages are built from.

use super::{Module, debian};
use crate::{
    interrupt,
    packages::{self, CC, Tool},
};
use anyhow::Result;
use std::{fs, path::Path, process::Command};

/// Programs that bash's tests bring along.
const HELPERS: [&str; 4] = ["recho", "zecho", "printenv", "xcase"];
/// How long one run may take in seconds.
const BASH_SECONDS: u64 = 900;
const BUSYBOX_SECONDS: u64 = 600;

/// Fetches and builds them.
pub(super) fn prepare(folder: &Path) -> Result<Vec<Module>> {
    packages::ensure(&[CC, Tool { program: "busybox", package: "busybox" }])?;
    Ok(vec![bash(folder)?, busybox(folder)?])
}

fn bash(folder: &Path) -> Result<Module> {
    let sources = debian::sources("bash", folder)?;
    for helper in HELPERS {
        let mut cc = Command::new("cc");
        cc.args([
            "-w",
            "-DHAVE_STRING_H",
            "-DHAVE_STDLIB_H",
            "-DHAVE_UNISTD_H",
            "-I.",
            "-Iinclude",
        ]);
        cc.args(["-o", &format!("tests/{helper}"), &format!("support/{helper}.c")]);
        interrupt::run(cc.current_dir(&sources))?;
    }
    let script = BASH.replace("TESTS", &sources.join("tests").to_string_lossy());
    Ok(Module { name: "shells-bash".to_owned(), seconds: BASH_SECONDS, script })
}

fn busybox(folder: &Path) -> Result<Module> {
    let sources = debian::sources("busybox", folder)?;
    fs::copy(sources.join("debian/config/pkg/deb"), sources.join(".config"))?;
    let script = BUSYBOX.replace("SOURCES", &sources.to_string_lossy());
    Ok(Module { name: "shells-busybox".to_owned(), seconds: BUSYBOX_SECONDS, script })
}

/// A case is a file whose name begins with `run-`; it compares and says by its status how that went. Some want
/// a terminal, some files of a certain size in the build's folder.
const BASH: &str = r#"
cp -r TESTS tests && cd tests || exit
export PATH=$PWD:$PATH THIS_SH=/bin/bash BUILD_DIR=$TMPDIR BASH_TSTOUT=$TMPDIR/found
seq 20000 > "$TMPDIR/config.h" && seq 900 > "$TMPDIR/version.h"
for name in ${CASES:-$(ls | sed -n 's/^run-//p' | grep -vx 'all\|minimal\|gprof')}; do
    printf 'began\t%s\t\n' "$name" >> "$RESULTS"
    timeout --signal KILL 60 script -qec "sh ./run-$name" /dev/null > "$TMPDIR/said" 2>&1 && verdict=ok || verdict=failed
    cat "$TMPDIR/said"
    printf '%s\t%s\t%s\n' $verdict "$name" "$(grep -m 3 '^[<>]' "$TMPDIR/said" | tr '\n\t' '  ')" >> "$RESULTS"
done
"#;

/// All run again if one is asked for: their names hold spaces.
const BUSYBOX: &str = r#"
set -o pipefail
cp -r SOURCES/testsuite SOURCES/scripts SOURCES/.config . && cp /bin/busybox . && cd testsuite || exit
timeout --signal KILL 500 sh ./runtest 2>&1 | tee /dev/stderr | awk -v OFS='\t' '
    /^PASS: / { sub(/^PASS: /, ""); print "ok", $0, "" }
    /^FAIL: / { sub(/^FAIL: /, ""); print "failed", $0, "" }
    /^(SKIPPED|UNTESTED): / { sub(/^[A-Z]*: /, ""); print "skipped", $0, "" }
    { fflush() }
' >> "$RESULTS"
"#;
