//! What programs see of other processes: the whole fabric's, wherever they run.

use super::scripts::{same_everywhere, same_with};
use dunix_conformance::{Lab, Scenario, Verdict};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("programs_list_the_fabric", programs_list_the_fabric),
    Scenario::new("files_of_processes_elsewhere", files_of_processes_elsewhere),
    Scenario::new("processes_that_end_leave_the_list", processes_that_end_leave_the_list),
    Scenario::new("files_of_others_are_theirs", files_of_others_are_theirs),
    Scenario::new("only_the_fabric_is_listed", only_the_fabric_is_listed),
    Scenario::new("memory_is_advised_about", memory_is_advised_about),
    Scenario::new("groups_have_priorities", groups_have_priorities),
    Scenario::new("ipc_objects_name_processes", ipc_objects_name_processes),
];

/// Three children on the nodes in turn, which have executed.
const CHILDREN: &str = "for i in 1 2 3; do sleep 4242$i & done
until [ $(pgrep -cP $$ -x sleep) = 3 ]; do :; done
";

fn shows(lab: &Lab, script: &str, wanted: &str) -> Verdict {
    let outcome = lab.script("--spread", &format!("{CHILDREN}{script}"))?;
    if outcome.status == 0 && outcome.stdout == wanted {
        return Ok(());
    }
    Err(format!("{outcome}; expected {wanted:?}"))
}

/// ps, pgrep, pstree, top and pkill, unmodified, with children on other nodes.
fn programs_list_the_fabric(lab: &Lab) -> Verdict {
    let script = "cat $(printf '/proc/%s/status ' $(jobs -p)) | grep ^Node: | sort -u | awk 'END { print (NR > 1) }'
ps -ef | awk -v me=$$ '$3 == me && $8 == \"sleep\" { print $1, $8, $9 }'
ps -eo ppid,pgid,sid,stat,comm | awk -v me=$$ '$1 == me && $5 == \"sleep\" { print $2 == me, $3 == me, substr($4, 1, 1) }'
pgrep -aP $$ -x sleep | cut -d' ' -f2-
pstree -A $$ | grep -c 3.*sleep
top -b -n1 -w200 | awk '$NF == \"sleep\" && $2 == \"root\"' | grep -cwf <(jobs -p)
killall -s 0 sleep && echo all
pkill -P $$ -x sleep; wait; pgrep -P $$ -x sleep; echo $?";
    let wanted = "1\nroot sleep 42421\nroot sleep 42422\nroot sleep 42423\n\
                  1 1 S\n1 1 S\n1 1 S\nsleep 42421\nsleep 42422\nsleep 42423\n1\n3\nall\n1\n";
    shows(lab, script, wanted)
}

/// proc(5): what is in the folder of a process does not depend on who looks from where.
fn files_of_processes_elsewhere(lab: &Lab) -> Verdict {
    let script = "for p in $(jobs -p); do cd /proc/$p
tr '\\0' ' ' < cmdline; cat comm; readlink exe; [ $(readlink cwd) = $OLDPWD ] && echo there
echo $(ls fd) $(ls task | grep -cx $p) $(awk '{ print NF }' stat) $(cut -d' ' -f1 task/$p/stat | grep -cx $p)
grep -acz ^PATH= environ; grep -c '^Max open files' limits; cat statm | wc -w; cd $OLDPWD
done; kill $(jobs -p)";
    let one = |number: u32| {
        format!("sleep 4242{number} sleep\n/usr/bin/sleep\nthere\n0 1 2 1 52 1\n1\n1\n7\n")
    };
    let wanted: String = (1..=3).map(one).collect();
    shows(lab, script, &wanted)
}

/// A zombie is listed until its parent has waited for it, then its files are ENOENT, and those open ESRCH.
fn processes_that_end_leave_the_list(lab: &Lab) -> Verdict {
    let script = "exec python3 -c '
import os, signal, subprocess
kids = [subprocess.Popen([\"sleep\", \"1000\"]) for _ in range(3)]
held = [open(f\"/proc/{kid.pid}/stat\") for kid in kids]
listed = lambda: [kid.pid in map(int, filter(str.isdigit, os.listdir(\"/proc\"))) for kid in kids]
print(listed())
for kid in kids: kid.kill(); os.waitid(os.P_PID, kid.pid, os.WEXITED | os.WNOWAIT)
print(listed(), [open(f\"/proc/{kid.pid}/stat\").read().split()[2] for kid in kids])
for kid in kids: kid.wait()
print(listed())
for kid, file in zip(kids, held):
    file.seek(0); file.read()
    for what in file.seek, lambda _: open(f\"/proc/{kid.pid}/stat\"), lambda _: os.listdir(f\"/proc/{kid.pid}\"):
        try: what(0); print(len(file.read()))
        except OSError as error: print(error.errno)
' | tail -n +1";
    let wanted = "[True, True, True]\n[True, True, True] ['Z', 'Z', 'Z']\n[False, False, False]\n\
                  3\n2\n2\n3\n2\n2\n3\n2\n2\n";
    shows(lab, script, wanted)
}

/// proc(5): what only the owner may read, and root.
fn files_of_others_are_theirs(lab: &Lab) -> Verdict {
    let script = "cat > as.py <<'END'
import os, sys
os.setgroups([]); os.setgid(1000); os.setuid(1000)
os.execvp(sys.argv[1], sys.argv[1:])
END
for p in $(jobs -p); do python3 as.py sh -c '
cd /proc/$0
head -c 0 stat && echo public
for f in environ io maps; do head -c 1 $f > /dev/null 2>&1 && echo $f is open; done
ls fd > /dev/null 2>&1 && echo descriptors are open
readlink exe; readlink cwd; stat -c %u .' $p 2> /dev/null
head -c 0 /proc/$p/environ && readlink /proc/$p/exe; done; kill $(jobs -p)";
    shows(lab, script, &"public\n0\n/usr/bin/sleep\n".repeat(3))
}

/// No guest sees a process of the host: not the daemon's and the keeper's, which its node's PID namespace has.
fn only_the_fabric_is_listed(lab: &Lab) -> Verdict {
    let script = "grep -lx dunix /proc/[0-9]*/comm; ls /proc | grep -cx $$; ls /proc | grep -cx 1; kill $(jobs -p)";
    shows(lab, script, "/proc/1/comm\n1\n1\n")
}

/// process_madvise(2), process_mrelease(2): of itself as on the host; of another as in a user namespace, and not if it is
/// of another node.
fn memory_is_advised_about(lab: &Lab) -> Verdict {
    macro_rules! with_program {
        ($script:literal) => {
            concat!(
                "cat > p.c << 'END'\n",
                include_str!("../../../../guest/programs/advises.c"),
                "\nEND\ncc -w -O1 -o p p.c || exit\n",
                $script
            )
        };
    }
    same_everywhere(lab, with_program!("./p > shown; echo $?; sed '/^- a child/,$d' shown"))?;
    const HERE: &str = with_program!("./p > shown; echo $?; sed '1,/^- a child/d' shown");
    let wanted = "0\ncold EPERM\npageout EPERM\nwillneed EPERM\nnothing EPERM\nunaligned EPERM\nunaligned first EPERM\n\
                unmapped EPERM\nan advice that is none EINVAL\nflags EINVAL\nnowhere EFAULT\ntoo many EINVAL\n\
                release EINVAL\nrelease with flags EINVAL\nloss EINVAL\nas a user EACCES\nits memory as it was\n\
                ended ESRCH\nrelease of the ended ESRCH\nkilled released\nsignal 9\n";
    let outcome = lab.script("--local", HERE)?;
    if outcome.stdout != wanted {
        return Err(outcome.to_string());
    }
    const ELSEWHERE: &str = with_program!(
        r#"children=$(jobs -p); for c in $children; do [ "$(grep ^Node: /proc/$c/status)" = "$here" ] || ./p $c; done | sort -u
kill $children"#
    );
    let here = "here=$(grep ^Node: /proc/$$/status); export DUNIX_PLACE=local";
    shows(lab, &format!("{here}\n{ELSEWHERE}"), "cold EPERM\nrelease EPERM\n")
}

/// setpriority(2), ioprio_set(2): of all processes of a group.
fn groups_have_priorities(lab: &Lab) -> Verdict {
    const SCRIPT: &str = r#"set -m; sh -c 'sleep 30 & sleep 30; :' & g=$!
until [ $(pgrep -cg $g -x sleep) = 2 ]; do :; done
renice -n 7 -g $g | cut -d' ' -f2-; ionice -c 3 -P $g; ionice -P $g; ionice
for p in $(pgrep -g $g); do ps -o ni= $p; ionice -p $p; done; nice
renice -n 9 -g $$ > /dev/null; nice; renice -n 3 -g 4194000 2>&1 | tail -c 17; ionice -P 4194000 2>&1 | tail -c 17
kill -- -$g"#;
    same_with(lab, SCRIPT, &["--local"])
}

/// svipc(7), mq_notify(3): who made, changed and sent, also after its end. The objects are a node's, so all stay there.
fn ipc_objects_name_processes(lab: &Lab) -> Verdict {
    let script = concat!(
        "cat > i.c <<'END'\n",
        include_str!("../../../../guest/programs/ipc.c"),
        "\nEND\ncc -w -O1 -o i i.c -lrt && ./i"
    );
    same_with(lab, script, &["--local"])
}
