//! Real programs under the shim alone, compared with the same programs run natively.

mod both_ways;
mod storm;

use both_ways::{
    checker, compare, has, native, python, same, same_script, scratch, shim, under_shim,
    under_shim_without_rewriting,
};

#[test]
fn small_programs() {
    assert_eq!(same(&["/bin/echo", "hello", ""]), "hello \n");
    assert!(!under_shim(&["/bin/false"]).status.success());
    same(&["/usr/bin/env", "-i", "A=b", "/usr/bin/env"]);
    same(&["/bin/cat", "/proc/self/cmdline"]);
    same(&["/bin/cat", "/proc/self/comm"]);
    same(&["/bin/readlink", "/proc/self/exe"]);
    same(&["/bin/ls", "-ld", "/etc", "/nonexistent"]);
    same(&["/usr/bin/find", "/usr/share", "-name", "*.gz"]);
}

#[test]
fn the_filter_is_there() {
    let status = under_shim(&["/bin/grep", "Seccomp:", "/proc/self/status"]);
    assert_eq!(String::from_utf8_lossy(&status.stdout).trim(), "Seccomp:\t2");
}

#[test]
fn shells() {
    same_script("for i in 1 2 3; do echo $i; done | tac | while read x; do echo got $x; done");
    same_script("x=$(echo a; exit 3); echo $? $x; (exit 9); echo $?; ! true; echo $?");
    same_script("trap 'echo usr1' USR1; kill -USR1 $$; trap 'echo bye' EXIT; kill -TERM $BASHPID");
    same_script("sleep 10 & kill %1; wait %1; echo $?; kill -0 $! 2>/dev/null || echo gone");
    same_script("cat <<< here; diff <(seq 5) <(seq 6); echo ${PIPESTATUS[@]}");
    same_script("yes | head -1; seq 100000 | tail -1; echo ${PIPESTATUS[@]}");
    same_script("ulimit -c 0; { bash -c 'kill -SEGV $$'; } 2>/dev/null; echo $?");
    same_script("nofile; /etc/passwd; /tmp; echo $?");
    same_script("exec 3< <(echo x); read y <&3; echo $y; exec /bin/echo replaced");
}

#[test]
fn scripts_find_their_interpreters() {
    use std::os::unix::fs::PermissionsExt;
    let write = |name: &str, text: &str| {
        let path = scratch().join(name);
        std::fs::write(&path, text).expect("writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    };
    write("one", "#!/bin/sh -e\necho $0 \"$@\"\n");
    write("two", "#! ./one  a b \n");
    write("none", "echo plain $0\n");
    write("loop", "#!./loop\n");
    write("lost", "#!/no/such/interpreter\n");
    same_script("./one x y; ./two x; ./none; ./loop 2>&1 | tail -1; ./lost; echo $?");
}

#[test]
fn job_control_on_a_terminal() {
    if !has("script") {
        return;
    }
    let jobs = "set -m; sleep 100 & kill -STOP %1; wait %1; jobs; kill -KILL %1; wait %1; dash -c \"sleep 0.1; exit 6\" & fg %dash >/dev/null; echo $?; tty | cut -c1-8";
    let inner = |shim: &str| format!("{shim} /bin/bash --norc -ic '{jobs}' 2>/dev/null");
    let output = |prefix: &str| {
        let found = native(&["/usr/bin/script", "-qec", &inner(prefix), "/dev/null"]);
        String::from_utf8_lossy(&found.stdout)
            .lines()
            .filter(|l| !l.starts_with("[1] "))
            .collect::<String>()
    };
    assert_eq!(output(&shim().display().to_string()), output(""));
}

#[test]
fn the_shims_memory_is_not_the_guests() {
    if let Some(program) = checker("unmaps") {
        assert_eq!(same(&[&program]).lines().count(), 11);
    }
}

#[test]
fn rare_mappings_and_core_dumps() {
    if let Some(program) = checker("mappings") {
        assert!(same(&[&program]).contains("lio_listio done written"));
    }
}

#[test]
fn filters_of_the_programs_own_are_obeyed() {
    if let Some(program) = checker("filters") {
        assert!(same(&[&program]).ends_with("wrong EINVAL\n"));
    }
}

#[test]
fn strict_mode_is_the_kernels() {
    let status = native(&["/bin/grep", "Seccomp:", "/proc/self/status"]);
    if String::from_utf8_lossy(&status.stdout).trim() != "Seccomp:\t0" {
        eprintln!("skipped: there is a filter here, which excludes strict mode");
    } else if let Some(program) = checker("strict") {
        assert!(same(&[&program]).ends_with("nobody exited 2\n"));
    }
}

#[test]
fn waits_end_as_signal7_says() {
    if let Some(program) = checker("restart") {
        assert_eq!(same(&[&program]).lines().count(), 46);
    }
}

#[test]
fn nothing_is_lost_in_a_storm_of_signals() {
    if let Some(program) = checker("storm") {
        assert!(same(&[&program]).ends_with("alarms ok\n"));
    }
}

#[test]
fn nothing_tears_on_all_processors() {
    if let Some(program) = checker("tears") {
        assert_eq!(same(&[&program, "120"]), "tears ok\n");
    }
}

#[test]
#[ignore = "takes a minute: part of `cargo xtask test --full`"]
fn nothing_tears_in_thousands_of_rounds() {
    if let Some(program) = checker("tears") {
        assert_eq!(same(&[&program, "6000"]), "tears ok\n");
    }
}

/// Thousands of sites are rewritten while other threads call from them.
#[test]
fn rewritten_sites_lose_nothing() {
    if let Some(program) = checker("sites") {
        assert_eq!(same(&[&program, "80"]), "sites ok\n");
    }
}

#[test]
fn sites_that_are_not_rewritten_lose_nothing_either() {
    for name in ["sites", "storm", "handlers", "restart"] {
        if let Some(program) = checker(name) {
            let words = [&*program];
            let found = under_shim_without_rewriting(&words);
            assert!(!compare(&words, &native(&words), &found).contains("FAILED"));
        }
    }
}

#[test]
fn handlers_see_what_they_should() {
    if let Some(program) = checker("handlers") {
        assert!(!same(&[&program]).contains("FAILED"));
    }
}

#[test]
fn children_in_the_same_memory_are_processes_of_their_own() {
    if let Some(program) = checker("shares") {
        assert!(!same(&[&program]).contains("FAILED"));
    }
}

#[test]
fn threads_live_and_die() {
    if let Some(program) = checker("threads") {
        assert!(!same(&[&program]).contains("FAILED"));
    }
}

#[test]
fn programs_are_compiled_and_linked_in_every_way() {
    if !has("gcc") {
        return;
    }
    std::fs::write(
        scratch().join("h.c"),
        "#include <stdio.h>\nint main(){puts(\"hi\");return 7;}\n",
    )
    .expect("writable");
    same_script(
        "gcc -O2 -o h h.c && ./h; gcc -static -o hs h.c && ./hs; gcc -static-pie -o hp h.c && ./hp; \
                 gcc -no-pie -o hn h.c && ./hn; gcc -z execstack -o hx h.c 2>/dev/null && ./hx; echo $?",
    );
    if has("make") {
        std::fs::write(scratch().join("m.mk"), "all: a1 a2 a3\na1 a2 a3: h.c\n\tgcc -o $@ h.c\n")
            .expect("writable");
        same_script("rm -f a1 a2 a3; make -s -j3 -f m.mk && ./a2");
    }
}

/// Threads, processes, signals and an event loop.
const PYTHON: &str = r"
import asyncio, multiprocessing, os, signal, subprocess, sys, threading, time
print(subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3'], capture_output=True))
done = []
threads = [threading.Thread(target=lambda: done.append(1)) for _ in range(50)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(done))
with multiprocessing.get_context('fork').Pool(3) as pool: print(pool.map(abs, range(-9, 0)))
seen = []
signal.signal(signal.SIGALRM, lambda *a: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
time.sleep(0.3)
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(seen) > 5)
async def main():
    p = await asyncio.create_subprocess_exec('cat', stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print(await p.communicate(b'through cat')); await asyncio.sleep(0.01)
asyncio.run(main())
r, w = os.pipe()
if os.fork() == 0: os.write(w, b'child'); os._exit(0)
print(os.read(r, 10), os.wait()[1])
print(os.path.exists('/proc/%d/exe' % os.getpid()), os.readlink('/proc/self/exe') == os.path.realpath(sys.executable))
";

#[test]
fn python_threads_processes_and_signals() {
    if let Some(python) = python() {
        same(&[&python, "-c", PYTHON]);
    }
}

#[test]
fn perl_and_tar_and_git() {
    same_script("tar -C /usr/share/doc -cf - . 2>/dev/null | tar -tf - | sort | md5sum");
    if has("perl") {
        same_script(
            "perl -e '$SIG{CHLD}=sub{$c++}; for(1..5){if(!fork){exit $_}} while((my $p=wait())>0){$s+=$?>>8} print \"$s\\n\"'",
        );
    }
    if has("git") {
        same_script(
            "rm -rf repo; git init -q repo && cd repo && echo x > f && git add f && \
                     git -c user.name=a -c user.email=b commit -qm m && git log --format=%s && git status --short",
        );
    }
}

#[test]
fn go_programs_with_their_own_system_calls() {
    if !has("go") {
        return;
    }
    let source = "package main\nimport (\"fmt\"; \"os/exec\"; \"sync\"; \"time\")\nfunc main() {\n\
        var w sync.WaitGroup; c := make(chan int, 100)\n\
        for i := 0; i < 100; i++ { w.Add(1); go func(i int) { defer w.Done(); time.Sleep(time.Millisecond); c <- i }(i) }\n\
        w.Wait(); o, e := exec.Command(\"echo\", \"from go\").Output(); fmt.Println(len(c), string(o), e)\n}\n";
    std::fs::write(scratch().join("g.go"), source).expect("writable");
    let built = native(&["/bin/sh", "-c", "CGO_ENABLED=0 HOME=$PWD go build -o g g.go"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    same(&["./g"]);
}
