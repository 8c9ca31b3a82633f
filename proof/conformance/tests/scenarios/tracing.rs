//! ptrace(2): strace and gdb see what they see on the host, numbers and addresses apart.
//!
//! Whoever attaches to what it has not made runs on the same node: those scripts run there only.

use super::scripts::{same_everywhere, same_with};
use dunix_conformance::{Lab, Scenario, Verdict};

macro_rules! scripts {
    ($($(#[doc = $why:literal])+ $name:ident = $script:expr;)+) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[
            $(Scenario::new(stringify!($name), $name),)+
            Scenario::new("strace_attaches", strace_attaches),
            Scenario::new("gdb_attaches", gdb_attaches),
        ];
        $($(#[doc = $why])+ fn $name(lab: &Lab) -> Verdict { same_everywhere(lab, $script) })+
    };
}

/// A shell's functions: traces without what differs from run to run (a call that a signal
/// interrupts is shown twice, on the host too: whether one is depends on the moment).
macro_rules! with_tools {
    ($script:literal) => {
        concat!(
            r#"
export LC_ALL=C; unset LD_LIBRARY_PATH
plain() { sed -E '/= \? ERESTART/d; s/0x[0-9a-f]+/ADDRESS/g; s/= [0-9]+$/= N/; s/(LWP|process) [0-9]+/\1 N/g; s/"\\x[^"]*", 8, GRND/R, 8, GRND/; s/ +=/ =/; s/vars \*/vars/; s/[0-9]+ vars/vars/; s/expected=[0-9]+/expected=N/' "$@"; }
traces() { for trace in $(ls t.* | sort -t. -k2n); do echo "-- $((at += 1))"; plain $trace; done; }
"#,
            $script
        )
    };
}

scripts! {
    /// ptrace(2) by itself: calls, results, signals, events, steps, attaching, the end of a tracer.
    traces_by_hand = concat!("cat > p.c << 'END'\n", include_str!("../../../../guest/programs/traces.c"), "\nEND\ncc -w -O1 -o p p.c && DUNIX_PLACE=local ./p; echo $?");
    /// strace -f of a pipeline: every process with its calls and their results.
    strace_of_a_pipeline = with_tools!("strace -qq -ff -e signal=none -e trace=%process,openat,read,write,close -o t sh -c 'echo a | cat'; echo $?; traces");
    /// strace of all calls of one program.
    strace_of_all_calls = with_tools!("echo text > f; strace -qq -o t.1 cat f > out; echo $?; traces");
    /// The status of the program is strace's.
    strace_and_statuses = "strace -qq -o /dev/null sh -c 'exit 5'; echo $?; strace -qq -f -o t sh -c 'kill -9 $$'; echo $?; grep -c 'killed by SIGKILL' t";
    /// gdb: break, step, threads, values, finish, to the end.
    gdb_runs_a_program = with_tools!(r#"
cat > p.c << 'END'
#include <pthread.h>
#include <stdio.h>
int counter;
static int twice(int x) {
    counter += x;
    return x * 2;
}
static void *work(void *a) {
    return (void *)(long)twice((int)(long)a);
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, work, (void *)4);
    pthread_join(thread, 0);
    int r = twice(21);
    printf("done %d %d\n", r, counter);
    return 7;
}
END
cc -g -O0 -pthread -o p p.c || exit
export HOME=$PWD
gdb -q -nx -batch -iex 'set debuginfod enabled off' -ex 'break twice' -ex run -ex 'bt 2' -ex 'info threads' -ex c -ex bt -ex finish -ex step -ex 'print counter' -ex 'watch counter' -ex c --args ./p 2>&1 | grep -v -e '^\[' -e '^Using' -e libthread | sed -E "s/Thread ADDRESS//; s/Thread 0x[0-9a-f]+//; s,$PWD,.,g; s/^Watchpoint .*//; s/ +Frame//; s/(LWP [0-9]+\\) \"p\") .*/\\1/" | plain
"#);
}

/// strace -p: from a call that waits to its end, and off again.
fn strace_attaches(lab: &Lab) -> Verdict {
    const SCRIPT: &str = r#"
mkfifo f; cat f > out & pid=$!; exec 9> f
strace -e trace=read,write -o t -p $pid 2> said 9>&- & tracer=$!
until grep -q attached said; do :; done
echo hello >&9; exec 9>&-; wait $pid; echo $?; wait $tracer; echo $?
grep -o 'write(1, .*' t; cat out"#;
    same_with(lab, SCRIPT, &["--local"])
}

/// gdb -p: threads that wait and run, a breakpoint, a watchpoint, and away.
fn gdb_attaches(lab: &Lab) -> Verdict {
    const SCRIPT: &str = with_tools!(
        r#"
cat > p.c << 'END'
#include <pthread.h>
#include <unistd.h>
volatile int n;
int bump(int x) {
    return n += x;
}
void *work(void *a) {
    for (;;) {
        usleep(1000);
        bump(1);
    }
}
int main(void) {
    pthread_t thread;
    char c;
    pthread_create(&thread, 0, work, 0);
    write(1, "r\n", 2);
    return read(0, &c, 1) == 1 ? c : 1;
}
END
cc -g -O0 -pthread -o p p.c || exit
export HOME=$PWD
mkfifo in out; ./p < in > out & pid=$!; exec 8> in 9< out; read -u 9 ready
gdb -q -nx -batch -iex 'set debuginfod enabled off' -ex 'break bump' -ex c -ex 'bt 2' -ex 'thread apply 1 bt -2' -ex 'print n >= 0' -ex delete -ex 'watch n' -ex c -ex detach -p $pid 2>&1 | grep -e '^#' -e '^\$' -e 'hit' | sed -E "s,$PWD,.,g; s/Thread 0x[0-9a-f]+//" | plain
printf '*' >&8; wait $pid; echo $?
"#
    );
    same_with(lab, SCRIPT, &["--local"])
}
