//! Storms of the move signal: to each thread of a tree of processes, a thousand times a second and
//! in bursts. Without a request to park none of it may show, so each command is compared with its
//! native run.

use super::PYTHON;
use super::both_ways::{checker, compare, has, native, python, shim};
use std::process::Output;

const USUAL_RATE: &str = "1000";
/// So fast that many a signal of the program's own comes together with a move signal.
const FAST_RATE: &str = "3000";

fn poked(rate: &str, words: &[&str]) -> Option<Output> {
    let poke = checker("poke")?;
    let shim = shim().display().to_string();
    let mut all = vec![poke.as_str(), rate, &shim];
    all.extend_from_slice(words);
    Some(native(&all))
}

#[track_caller]
fn same_in_storm(words: &[&str]) -> Option<String> {
    let found = poked(USUAL_RATE, words)?;
    Some(compare(words, &native(words), &found))
}

#[track_caller]
fn same_script(script: &str) {
    same_in_storm(&["/bin/bash", "-c", script]);
}

#[test]
fn waits_keep_their_time() {
    let Some(program) = checker("waits") else { return };
    let text = same_in_storm(&[&program]).unwrap_or_default();
    assert!(text.lines().count() > 40 && !text.contains("FAILED"), "{text}");
}

#[test]
fn counts_are_whole_and_limits_hold() {
    let Some(program) = checker("counts") else { return };
    let text = same_in_storm(&[&program]).unwrap_or_default();
    assert!(text.lines().count() > 50 && !text.contains("FAILED"), "{text}");
}

#[test]
fn a_signal_of_the_programs_own_ends_what_it_would_end() {
    let Some(program) = checker("ends") else { return };
    let expected = native(&[&program]);
    for rate in [USUAL_RATE, FAST_RATE] {
        if let Some(found) = poked(rate, &[&program]) {
            let text = compare(&[&program], &expected, &found);
            assert!(!text.is_empty() && text.lines().all(is_good), "{text}");
        }
    }
}

fn is_good(line: &str) -> bool {
    line.ends_with("0 not EINTR, 0 without its signal") || line.ends_with("1 after 60 signals")
}

#[test]
fn the_shims_other_checkers_notice_nothing() {
    for name in ["restart", "storm", "handlers", "threads", "sites", "tears"] {
        if let Some(program) = checker(name) {
            let text = same_in_storm(&[&program]).unwrap_or_default();
            assert!(!text.contains("FAILED"), "{text}");
        }
    }
}

/// Whatever a hot call is answered by, no move signal ends it.
#[test]
fn hot_calls_have_their_results() {
    let Some(program) = checker("hot") else { return };
    for rate in [USUAL_RATE, FAST_RATE] {
        if let Some(found) = poked(rate, &[&program, "3"]) {
            assert_eq!(compare(&[&program], &native(&[&program, "0.2"]), &found), "hot ok\n");
        }
    }
}

#[test]
fn shells() {
    same_script("for i in 1 2 3; do echo $i; done | tac | while read x; do echo got $x; done");
    same_script("x=$(echo a; exit 3); echo $? $x; (exit 9); echo $?; ! true; echo $?");
    same_script("trap 'echo usr1' USR1; kill -USR1 $$; trap 'echo bye' EXIT; kill -TERM $BASHPID");
    same_script("sleep 10 & kill %1; wait %1; echo $?; kill -0 $! 2>/dev/null || echo gone");
    same_script("trap 'echo caught' USR1; (sleep 0.2; kill -USR1 $$) & sleep 0.4; wait; echo $?");
    same_script("trap 'echo chld' CHLD; sleep 0.1 & wait; sleep 0.05; echo $?");
    same_script("set -m; sleep 0.3 & kill -STOP %1; kill -CONT %1; wait %1; echo $?");
    same_script("yes | head -1; seq 100000 | tail -1; echo ${PIPESTATUS[@]}");
    same_script(
        "seq 200000 | sort -R | sort -n | md5sum; dd if=/dev/zero bs=4M count=8 2>/dev/null | wc -c",
    );
    same_script("dd if=/dev/zero of=/dev/null bs=16M count=8 2>&1 | head -2");
    same_script(
        "timeout 0.2 sleep 5; echo $?; timeout 5 sleep 0.1; echo $?; read -t 0.2 x < <(sleep 1); echo $?",
    );
    same_script(
        "coproc cat; echo hi >&${COPROC[1]}; read x <&${COPROC[0]}; echo $x; kill $COPROC_PID",
    );
    same_script(
        "exec 9>lock; flock 9; (flock -w 0.2 9 || echo busy) 9>lock; flock -u 9; cat <(seq 3)",
    );
    same_script(
        "for i in $(seq 40); do (exit $((i % 7))) & p+=($!); done; for j in ${p[@]}; do wait $j; s=$((s + $?)); done; echo $s",
    );
}

#[test]
fn python_threads_processes_sockets_and_timers() {
    let Some(python) = python() else { return };
    same_in_storm(&[&python, "-c", PYTHON]);
    let text = same_in_storm(&[&python, "-c", SOCKETS]).unwrap_or_default();
    assert!(!text.contains("WRONG"), "{text}");
}

/// Each line but the first few tells whether a wait took its time.
const SOCKETS: &str = r"
import asyncio, queue, select, selectors, signal, socket, subprocess, threading, time
def took(seconds, act):
    start = time.monotonic()
    try: result = act()
    except Exception as error: result = type(error).__name__
    print(result, 'in time' if seconds <= time.monotonic() - start < seconds + 4 else 'WRONG')
took(0.1, lambda: time.sleep(0.1))
took(0.1, lambda: threading.Event().wait(0.1))
took(0.1, lambda: queue.Queue().get(timeout=0.1))
took(0.1, lambda: select.select([], [], [], 0.1))
a, b = socket.socketpair()
a.settimeout(0.1)
took(0.1, lambda: a.recv(1))
took(0.1, lambda: subprocess.run(['sleep', '5'], timeout=0.1))
took(0.1, lambda: signal.sigtimedwait([signal.SIGUSR1], 0.1))
p = select.poll(); p.register(a, select.POLLIN)
took(0.1, lambda: p.poll(100))
e = select.epoll(); e.register(a, select.EPOLLIN)
took(0.1, lambda: e.poll(0.1))
server = socket.create_server(('127.0.0.1', 0))
def serve():
    peer, _ = server.accept()
    with peer:
        while data := peer.recv(65536): peer.sendall(data)
threading.Thread(target=serve, daemon=True).start()
client = socket.create_connection(server.getsockname())
sent = bytes(range(256)) * 8192
threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))).start()
back = b''
while data := client.recv(100000): back += data
print(back == sent)
async def main():
    server = await asyncio.start_server(echo, '127.0.0.1', 0)
    results = await asyncio.gather(*(ask(server.sockets[0].getsockname(), n) for n in range(20)))
    print(sum(results))
    try: await asyncio.wait_for(asyncio.sleep(5), 0.1)
    except asyncio.TimeoutError: print('timed out')
async def echo(reader, writer):
    writer.write(await reader.readline()); await writer.drain(); writer.close()
async def ask(name, n):
    reader, writer = await asyncio.open_connection(*name)
    writer.write(b'%d\n' % n); await asyncio.sleep(0.01)
    answer = int(await reader.readline()); writer.close()
    return answer
asyncio.run(main())
";

#[test]
fn builds_perl_git_and_tar() {
    same_script("tar -C /usr/share/doc -cf - . 2>/dev/null | tar -tf - | sort | md5sum");
    if has("perl") {
        same_script(
            "perl -e '$SIG{CHLD}=sub{$c++}; for(1..5){if(!fork){exit $_}} while((my $p=wait())>0){$s+=$?>>8} print \"$s\\n\"'",
        );
        same_script(
            "perl -e '$SIG{ALRM}=sub{die \"late\\n\"}; alarm 1; eval{select(undef,undef,undef,9)}; print $@'",
        );
    }
    if has("git") {
        same_script(
            "rm -rf storm-repo; git init -q storm-repo && cd storm-repo && seq 20000 > f && git add f && \
             git -c user.name=a -c user.email=b commit -qm m && git clone -q . c && git -C c log --format=%s && git gc -q",
        );
    }
    if has("gcc") && has("make") {
        same_script(
            "mkdir -p storm-make && cd storm-make && echo 'int main(){return 0;}' > h.c && \
             printf 'all: %s\\n%%: h.c\\n\\tgcc -O2 -o $@ h.c\\n' \"$(echo a{1..6})\" > Makefile && \
             rm -f a? && make -s -j3 && ./a6; echo $?; ls",
        );
    }
}
