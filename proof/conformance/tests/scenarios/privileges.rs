//! Programs whose files give privileges (execve(2), capabilities(7), credentials(7)): what they get,
//! what they keep, and what others may do to them.

use super::scripts::same_everywhere;
use dunix_conformance::{Lab, Scenario, Verdict, wait_within};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

/// A program that shows what it has; `give NAME OWNER MODE` makes a copy; `$user` runs as nobody special.
macro_rules! with_program {
    ($script:literal) => {
        concat!(
            "cat > p.c <<'END'\n",
            include_str!("../../../../guest/programs/privileges.c"),
            r#"END
cc -w -o p p.c || exit
as='setpriv --reuid 1000 --regid 1000'; user="$as --clear-groups"
give() { cp p $1; chown $2 $1; chmod $3 $1; }
cap() { /usr/bin/python3 -c 'import os, struct, sys
one, permitted, inherited = sys.argv[1], int(sys.argv[2], 0), int(sys.argv[3], 0)
os.setxattr(one, "security.capability", struct.pack("<5I", 0x2000001, permitted, inherited, 0, 0))' "$@"; }
until_ready() { until grep -q ready $1; do sleep 0.02; done; }
"#,
            $script
        )
    };
}

macro_rules! scripts {
    ($($(#[doc = $why:literal])+ $name:ident = $script:expr;)+) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[
            $(Scenario::new(stringify!($name), $name),)+
            Scenario::new("privileged_processes_are_closed", privileged_processes_are_closed),
            Scenario::new("users_become_root_by_password", users_become_root_by_password),
            Scenario::new("privileges_move", privileges_move),
            Scenario::new("shims_that_were_kept_start_nothing", shims_that_were_kept_start_nothing),
        ];
        $($(#[doc = $why])+ fn $name(lab: &Lab) -> Verdict { same_everywhere(lab, $script) })+
    };
}

scripts! {
    /// execve(2): effective and saved ids, AT_SECURE, capabilities of root; set-group-ID needs the group's execute bit.
    files_give_ids = with_program!("
give root 0:0 4755; give group 0:5 2755; give both 7:8 6755; give weak 0:5 2745; give own 1000:1000 6755
for p in p root group both weak own; do echo - $p; $user ./$p; done
./both; $as --groups 5,6 ./root");
    /// execve(2): who may not execute the file gets nothing from it.
    files_give_to_those_who_may = with_program!("
give closed 0:0 4744; give team 0:5 4750
# Not at once: setpriv itself may still execute what root may.
for p in closed team; do $user sh -c \"./$p; echo \\$?\" 2>/dev/null; done; $as --groups 5 sh -c './team; echo $?'");
    /// capabilities(7): permitted and effective ones of files; inheritable ones count for who has them.
    files_give_capabilities = with_program!("
cp p a; cap a 0x2020 0; cp p b; cap b 0x2000 0x20; cp p c; cap c 0 0; give d 0:0 4755; cap d 0x2000 0
for p in a b c d; do echo - $p; $user ./$p; done
/usr/bin/python3 -c 'import os
data = bytearray(os.getxattr(\"b\", \"security.capability\")); data[0] = 0; os.setxattr(\"b\", \"security.capability\", bytes(data))'
$user ./b
setpriv --inh-caps +kill ./b; setpriv --inh-caps +kill --ambient-caps +kill --reuid 1000 --regid 1000 --clear-groups ./p");
    /// prctl(2), PR_SET_NO_NEW_PRIVS: nothing is given, to nobody below either.
    no_new_privileges = with_program!("
give root 0:0 4755; cp p a; cap a 0x2020 0
for p in root a; do $user --no-new-privs sh -c ./$p; done
$user --no-new-privs sh -c 'sh -c \"sh -c ./root; exec ./root\"'; $user sh -c 'sh -c \"sh -c ./root; exec ./root\"'");
    /// execve(2): a script's bits mean nothing, its interpreter's do.
    scripts_give_nothing = with_program!("
give root 0:0 4755; printf '#!%s\\n' $PWD/p > s; printf '#!%s\\n' $PWD/root > t; chmod 6755 s; chmod 755 t
$user ./s; $user ./t");
    /// ld.so(8): secure execution drops what could lead the program astray, and keeps the rest.
    environment_is_purged = with_program!("
give root 0:0 4755
printf '#include <stdio.h>\\n__attribute__((constructor)) static void f(void) { puts(\"loaded\"); }' > l.c
cc -shared -fPIC -o l.so l.c
for p in p root; do LD_PRELOAD=$PWD/l.so KEPT=yes $user ./$p stays 0 | grep -e loaded -e kept | sed s,/.*/,,; done
for p in p root; do LD_SHOW_AUXV=1 $user ./$p | grep -c AT_SECURE; done");
    /// execve(2): number, directory, mask, limits, descriptors, and signals that are ignored, blocked, pending.
    all_else_stays = with_program!("
give root 0:0 4755; mkdir -m 755 d; echo -n seven > f
$user /usr/bin/python3 -c 'import os, resource, signal
os.umask(0o27); os.chdir(\"d\"); resource.setrlimit(resource.RLIMIT_NOFILE, (77, 80))
os.dup2(os.open(\"../f\", os.O_RDONLY), 7)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}); os.kill(os.getpid(), signal.SIGUSR1)
os.execv(\"../root\", [\"root\", \"stays\", str(os.getpid())])'; echo $?
$user sh -c './root; test $PPID = '$$' && echo parent'");
    /// kill(2): the real or effective user of the sender must be the target's real or saved one.
    signals_of_others = with_program!("
give root 0:0 4755; give seven 7:7 4755
as() { setpriv --reuid $1 --regid $1 --clear-groups sh -c \"kill -$2 $pid\" 2>&-; echo $1 $2 $?; }
$user ./root wait > r1 & pid=$!; until_ready r1; as 1001 0; as 1001 TERM; as 1000 TERM; wait $pid; echo $?
$user ./root become > r2 & pid=$!; until_ready r2; as 1000 0; as 1000 TERM; as 0 TERM; wait $pid; echo $?
$user ./seven wait > r3 & pid=$!; until_ready r3; as 8 TERM; as 7 TERM; wait $pid; echo $?
setpriv --reuid 7 --regid 7 --clear-groups ./root wait > r4 & pid=$!; until_ready r4
$user ./seven drop /bin/sh -c \"kill $pid\" 2>&-; echo $?; kill $pid; wait $pid; echo $?");
    /// setresuid(2), execve(2): what was given can be put aside, taken up again, and given up for good.
    privileges_are_given_up = with_program!("
give root 0:0 4755; give both 7:8 6755
$user ./root swap; $user ./root drop ./p; $user ./root drop ./root; $user ./both drop ./p; $user ./both x ./p
$user ./root x ./p; $user ./root x ./both");
    /// chown(2), write(2): the bits go with the file's owner and its content.
    bits_go = with_program!("
give own 1000:1000 6755; give other 1000:1000 6755; give all 0:0 4777; cp p a; chown 1000 a; cap a 0x2020 0
$user ./all | head -1
for how in 'cat p > all' 'truncate -s 50000 all' 'fallocate -l 1 -o 60000 all' 'dd if=p of=all conv=notrunc status=none' 'cp p all'; do
chmod 4777 all; $user sh -c \"$how\"; echo $how: $(stat -c %a all) $($user ./all 2>&1 | head -1); done
$user sh -c 'echo >> own; echo >> a'; chown 1001 other; stat -c %a own other
/usr/bin/python3 -c 'import os; print(os.listxattr(\"a\"))'; $user ./a | tail -1");
}

/// ptrace(2), proc(5): who started it may not look into a program that has more than he. Tracers are on
/// the tracee's node.
fn privileged_processes_are_closed(lab: &Lab) -> Verdict {
    const SCRIPT: &str = with_program!("
give root 0:0 4755; give group 0:5 2755
for p in p root group; do
$user ./$p wait > r.$p & pid=$!; until_ready r.$p; echo - $p; $user ./p look $pid; kill -KILL $pid; wait $pid
done 2>&-
# Whether it should watch its environment is told otherwise here, for one who gets nothing.
($user strace -qq -o /dev/null ./root; $user strace -f -qq -o /dev/null sh -c './root; :') | sed 's/secure .//'
strace -f -qq -o /dev/null $user ./root");
    const OPEN: &str = "seize fine\nenviron open\nmaps open\nfd open\nexe open\nstat open\n";
    const CLOSED: &str = "seize Operation not permitted\nenviron closed\nmaps closed\nfd closed\nexe closed\nstat open\n";
    const NOBODY: &str = "uid 1000 1000 1000 1000 gid 1000 1000 1000 1000 groups 0\n\
        auxv 1000 1000 1000 1000  dumpable 1 bits 0 new 0\n effective 0 permitted 0 inheritable 0 ambient 0\n";
    const ROOT: &str = "uid 1000 0 0 0 gid 1000 1000 1000 1000 groups 0\n\
        auxv 1000 0 1000 1000 secure 1 dumpable 0 bits 0 new 0\n effective all permitted all inheritable 0 ambient 0\n";
    // Not compared with the host's own run: a machine was seen whose kernel refuses one attach in fifty.
    let shown = format!("- p\n{OPEN}- root\n{CLOSED}- group\n{CLOSED}{NOBODY}{NOBODY}{ROOT}");
    let outcome = lab.script("--local", SCRIPT)?;
    if outcome.stdout == shown { Ok(()) } else { Err(format!("{outcome}; expected {shown:?}")) }
}

/// su(1) as it is, with users and passwords of the fabric.
fn users_become_root_by_password(lab: &Lab) -> Verdict {
    const SCRIPT: &str = r#"cp /usr/bin/su . && chmod 4755 su
user='setpriv --reuid 4242 --regid 4242 --clear-groups'
word=$(perl -e 'print crypt("secret", "\$6\$abcdefgh")')
(grep -v ^tester: /etc/passwd; echo tester:x:4242:4242::/tmp:/bin/sh) > passwd; cp passwd /etc/passwd
printf '%s:%s:19000:0:99999:7:::\n' root "$word" tester "$word" > shadow; chmod 640 shadow; mv shadow /etc/shadow
for said in secret wrong; do echo $said | $user ./su -c 'id -u; id -ru; id -g' 2>/dev/null; echo $?; done
./su tester -c 'id -u; echo secret | ./su root -c "id -u"' 2>/dev/null"#;
    for placement in ["--local", "--spread"] {
        let outcome = lab.script(placement, SCRIPT)?;
        if outcome.stdout != "0\n0\n0\n0\n1\n4242\n0\n" {
            return Err(format!("{placement}: {outcome}"));
        }
    }
    Ok(())
}

/// How programs start that are moved then, with privileges that differ.
const STARTS: [&str; 7] = [
    "$user ./root x",
    "$user ./both x",
    "$user ./a x",
    "$user ./root odd",
    "$user ./root swap",
    "$as --groups 5,6 ./root drop",
    "setpriv --inh-caps +kill,+net_raw --ambient-caps +kill --reuid 1000 --regid 1000 --clear-groups ./p x",
];

/// A process has after a move what it had before: ids, groups, capabilities, secure bits.
fn privileges_move(lab: &Lab) -> Verdict {
    const GIVEN: &str = with_program!(
        "
give root 0:0 4755; give both 7:8 6755; cp p a; cap a 0x2020 0
export PAUSE=1; "
    );
    STARTS.iter().try_for_each(|start| {
        let moved = moved(lab, &format!("{GIVEN}exec {start}"));
        moved.map_err(|error| format!("{start}: {error}"))
    })
}

fn moved(lab: &Lab, script: &str) -> Verdict {
    let text = |error: std::io::Error| error.to_string();
    let script = format!("d=$(mktemp -d /var/tmp/XXXXXX); chmod 755 $d; cd $d\n{script}");
    let local = ["run", "--node", "n1", "--env", "DUNIX_PLACE=local", "--", "bash", "-c"];
    let mut command = lab.command(&[&local[..], &[&script]].concat());
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(text)?;
    let mut hear = BufReader::new(run.stdout.take().ok_or("no output")?);
    let mut before = Vec::new();
    let pid = loop {
        let mut line = String::new();
        if hear.read_line(&mut line).map_err(text)? == 0 {
            return Err(format!("it ended after {before:?}"));
        }
        match line.trim_end() {
            pid if pid.parse::<u32>().is_ok() => break pid.to_owned(),
            line => before.push(line.to_owned()),
        }
    };
    let moved = lab.dunix(&["move", &pid, "n2"])?;
    // Its end of input lets it go on.
    drop(run.stdin.take());
    let mut after = String::new();
    hear.read_to_string(&mut after).map_err(text)?;
    let _ = wait_within(&mut run, Duration::from_secs(10));
    let shown: Vec<&str> = before.iter().rev().take(3).rev().map(String::as_str).collect();
    let again: Vec<&str> = after.lines().take(3).collect();
    match (moved.status, shown == again && again.len() == 3) {
        (0, true) => Ok(()),
        (0, false) => Err(format!("before its move {before:?}, then {after:?}")),
        _ => Err(format!("dunix move: {moved}")),
    }
}

/// Only the shim that was made for a program starts it: a hostile guest that rings by itself gets no
/// more than what it executes gives.
fn shims_that_were_kept_start_nothing(lab: &Lab) -> Verdict {
    const SCRIPT: &str = concat!(
        with_program!("give root 0:0 4755\n"),
        "cat > keeps.c <<'END'\n",
        include_str!("../../../../guest/programs/keeps.c"),
        "END\ncc -w -o keeps keeps.c || exit\n\
        $user sh -c './keeps ./root ./p' 2>&- | grep -e ^- -e ^uid -e ^status"
    );
    let wanted = "- as it should be\nuid 1000 0 0 0 gid 1000 1000 1000 1000 groups 0\nstatus 0\n\
                  - plain\nuid 1000 1000 1000 1000 gid 1000 1000 1000 1000 groups 0\nstatus 0\n\
                  - the other one's shim\nstatus 9\n- a plain shim\nstatus 9\n\
                  - passed on, for the same\nstatus 9\n- passed on, for another\nstatus 9\n\
                  - passed on, for nothing\nstatus 7d00\n";
    let outcome = lab.script("--local", SCRIPT)?;
    if outcome.stdout == wanted { Ok(()) } else { Err(outcome.to_string()) }
}
