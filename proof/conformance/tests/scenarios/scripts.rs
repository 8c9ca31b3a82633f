//! Scripts that must do in the fabric exactly what they do on the host: same output, same status.
//!
//! Each runs three times: natively, on one node, and with every program on the next node in turn.

use dunix_conformance::{Lab, Scenario, Scratch, Verdict};

macro_rules! scripts {
    ($($(#[doc = $why:literal])+ $name:ident = $script:expr;)+) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[$(Scenario::new(stringify!($name), $name)),+];
        $($(#[doc = $why])+ fn $name(lab: &Lab) -> Verdict { same_everywhere(lab, $script) })+
    };
}

pub(super) fn same_everywhere(lab: &Lab, script: &str) -> Verdict {
    same_with(lab, script, &["--local", "--spread"])
}

/// The same for some placements only.
pub(super) fn same_with(lab: &Lab, script: &str, placements: &[&str]) -> Verdict {
    let expected = Scratch::new()?.script(script)?;
    if expected.stdout.is_empty() {
        return Err(format!("the script shows nothing on the host: {expected}"));
    }
    for placement in placements {
        let found = lab.script(placement, script)?;
        if !found.agrees_with(&expected) {
            return Err(format!("{placement}: {found}; on the host: {expected}"));
        }
    }
    Ok(())
}

scripts! {
    /// close(2), dup2(2): what was known of a descriptor is forgotten with it, by rewritten calls as well.
    numbers_used_again = concat!(
        "cat > a.c <<'END'\n",
        include_str!("../../../../guest/programs/again.c"),
        "\nEND\ncc -w -O1 -o a a.c && ./a"
    );
    /// waitpid(2), `WUNTRACED`: of children that stop before they are named.
    children_stop_at_once = concat!(
        "cat > s.c <<'END'\n",
        include_str!("../../../../guest/programs/stops.c"),
        "\nEND\ncc -O1 -o s s.c && for i in 1 2 3 4 5; do ./s 100 & done; wait"
    );
    /// stat(2), proc_pid_mountinfo(5): files of one file system have one number of it, at every node.
    one_number_of_the_tree = "touch f; for how in 'stat -c %d f' 'stat -L -c %d f' 'stat -c %d .' \
        'python3 -c \"import os; print(os.fstat(os.open(chr(102), 0)).st_dev)\"' 'sh -c \"stat -L -c %d /dev/fd/0 <f\"' \
        'find f -printf %D\\\\n'; do for i in 1 2 3; do eval $how; done; done | sort | uniq -c | sed 's/ [0-9]*$//'
        m=$(findmnt -n -o MAJ:MIN -T .); test $(stat -c %d .) = $(python3 -c \"import os; print(os.makedev(${m/:/,}))\"); echo $?
        cp f g; cp g f; echo $?";
    /// exit(3), wait(2): the low eight bits.
    exit_status_of_children = "sh -c 'exit 7'; echo $?; sh -c 'exit 300'; echo $?; /bin/false; echo $?";
    /// wait(2): a signal as the end.
    death_by_signal = "sh -c 'kill -KILL $$'; echo $?; sh -c 'kill -TERM $$'; echo $?";
    /// cpuid: what the dynamic linker asks the processor before a program starts, and uses in it.
    processor_is_known = "getconf -a | grep -i cache; cat > p.c << 'END'
#include <stdio.h>
int main(void) {
    printf(\"%d %d %d %d\\n\", __builtin_cpu_is(\"amd\"), !!__builtin_cpu_supports(\"avx2\"), !!__builtin_cpu_supports(\"sse4.2\"), !!__builtin_cpu_supports(\"popcnt\"));
}
END
cc -o p p.c && ./p";
    /// execve(2): ENOENT and EACCES show as 127 and 126.
    programs_that_cannot_run = "no-such-program 2>&-; echo $?; /etc/passwd 2>&-; echo $?; /etc 2>&-; echo $?";
    /// execve(2): interpreter scripts, with one argument.
    interpreter_scripts = "printf '#!/bin/sh -e\necho script $0 $1; false; echo no\n' > s; chmod +x s; ./s x; echo $?";
    /// execve(2): a script of an interpreter that is missing.
    missing_interpreter = "printf '#!/no/such\n' > s; chmod +x s; ./s 2>&-; echo $?";
    /// pipe(7): all bytes, then end of file.
    pipeline_counts = "head -c 3000000 /dev/zero | tr '\\0' x | cat | wc -c";
    /// pipe(7): bytes in order.
    pipeline_order = "seq 200000 | cat | sha256sum";
    /// pipe(7): a writer whose reader left gets SIGPIPE, at once.
    writer_without_reader = "yes | head -1; echo ${PIPESTATUS[*]}";
    /// pipe(7): the same through several stages.
    writer_without_reader_far = "yes | cat | cat | head -2; echo ${PIPESTATUS[*]}";
    /// read(2): one pipe, several readers one after the other: nobody takes more than it reads.
    loop_keeps_its_input = "seq 6 | while read line; do /bin/echo got $line; done";
    /// The same with a program inside that does not read.
    loop_with_programs = "seq 4 | while read line; do /bin/true; sh -c 'echo $0' $line; done";
    /// read(2): what one reader left is there for the next.
    readers_in_turn = "seq 6 | { read a; read b; echo $a $b; cat; }";
    /// lseek(2), fork(2): the offset of an open file is shared by all who inherited it.
    shared_offset_read = "seq 5 > f; (head -1; echo then; cat) < f";
    /// The same for writers: nobody writes over another.
    shared_offset_write = "(/bin/echo a; /bin/echo b; sh -c 'echo c'; /bin/echo d) > f; cat f";
    /// Two writers at once through one open file description.
    shared_offset_concurrent = "(for w in 1 2; do bash -c 'for i in {1..200}; do echo line $0 $i; done' $w & done; wait) > f; sort f | sha256sum; wc -l < f";
    /// open(2), O_APPEND: no write is lost or torn, whoever writes.
    concurrent_append = "for w in 1 2 3 4; do bash -c 'for i in {1..150}; do echo line $0 $i; done' $w >> f & done; wait; sort f | sha256sum; wc -l < f";
    /// wait(2): what a child wrote before its exit is there after wait.
    written_before_exit = "for i in 1 2 3 4 5; do sh -c \"echo $i > f$i; exit $i\"; echo $? $(cat f$i); done";
    /// execve(2): the environment passes unchanged.
    environment_is_kept = "export A='x y' B=$'two\\nlines' C=; printenv A; printenv B; printenv C; printenv D; echo $?";
    /// execve(2): an empty environment stays empty.
    environment_can_be_empty = "env -i $(command -v env) | wc -l; env -i A=1 $(command -v env)";
    /// execve(2): long arguments.
    long_arguments = "x=$(head -c 100000 /dev/zero | tr '\\0' y); sh -c 'echo ${#1}' sh $x; sh -c 'echo $#' sh $(seq 5000)";
    /// execve(2): the working directory is kept.
    directory_is_kept = "mkdir -p d/e; cd d/e; /bin/pwd | sed 's/.*\\(d.e\\)$/\\1/'; cd /usr/bin; /bin/pwd; sh -c 'cd ..; /bin/pwd'";
    /// umask(2): kept over execve.
    umask_is_kept = "umask 027; sh -c umask; /usr/bin/touch f; stat -c %a f";
    /// getrlimit(2): kept over execve.
    limits_are_kept = "ulimit -n 77; ulimit -Sc 0; sh -c 'ulimit -n; ulimit -c'; sh -c 'ulimit -n 50; sh -c \"ulimit -n\"'";
    /// nice(2): kept over execve.
    nice_is_kept = "nice -n 5 nice; nice -n 5 sh -c 'nice -n 3 nice'";
    /// execve(2), signal(7): ignored signals stay ignored.
    ignored_signals_stay = "trap '' USR1; sh -c 'kill -USR1 $$; echo survived'; sh -c 'sh -c \"kill -USR1 \\$\\$; echo too\"'";
    /// execve(2), signal(7): handlers become the default.
    handlers_do_not_stay = "trap 'echo no' USR1; sh -c 'kill -USR1 $$; echo no'; echo $?";
    /// execve(2), signal(7): the mask of blocked signals is kept.
    blocked_signals_stay = "env --block-signal=USR1 sh -c 'kill -USR1 $$; echo survived'; echo $?";
    /// kill(2), wait(2): to and from other nodes.
    kill_and_wait = "sleep 100 & kill -TERM $!; wait $!; echo $?; sleep 100 & kill -KILL $!; wait $!; echo $?";
    /// kill(2): signal 0 and a process that is gone.
    kill_of_the_gone = "sleep 0 & p=$!; wait $p; kill -0 $p 2>&-; echo $?";
    /// kill(2): SIGSTOP and SIGCONT, seen by nobody but the stopped.
    stop_and_continue = "sh -c 'sleep 0.3; exit 4' & kill -STOP $!; kill -CONT $!; wait $!; echo $?";
    /// trap and kill between shells on different nodes.
    handlers_are_called = "sh -c 'trap \"echo caught; exit 9\" USR1; echo ready > r; while :; do sleep 0.05; done' & p=$!; while ! test -s r; do sleep 0.05; done; kill -USR1 $p; wait $p; echo $?";
    /// wait(2): every child's own status, in any order.
    many_children = "for i in $(seq 20); do sh -c \"exit $i\" & p=\"$p $!\"; done; for x in $p; do wait $x; printf '%s ' $?; done; echo";
    /// getppid(2): the parent is the parent, wherever it is.
    parents_are_seen = "test $(sh -c 'echo $PPID') = $$ && echo same; sh -c 'sh -c \"test \\$PPID = $$ && echo same\"; :'";
    /// PIDs are unique while their processes live.
    pids_are_unique = "for i in 1 2 3 4 5 6; do sleep 0.3 & echo $!; done | sort -u | wc -l; wait";
    /// Command substitution: pipe, fork, exec, wait.
    substitution = "x=$(echo a; sh -c 'echo b'; echo $(echo c | cat)); echo \"$x\"";
    /// A pipeline's status with pipefail.
    pipefail = "set -o pipefail; sh -c 'exit 3' | cat; echo $?; true | sh -c 'cat; exit 5'; echo $?";
    /// dup2(2): redirections of higher descriptors.
    descriptors_are_kept = "exec 7> f; sh -c 'echo seven >&7; echo more >&7'; exec 7>&-; cat f; sh -c 'echo x >&7' 2>&-; echo $?";
    /// unlink(2): an open file lives on.
    unlinked_files_live_on = "exec 5<> f; echo kept >&5; rm f; sh -c 'echo more >&5'; test -e f; echo $?; cat <(sh -c 'cat /dev/null') /dev/null; echo end";
    /// rename(2), link(2), symlink(2) seen from everywhere at once.
    names_change_at_once = "echo 1 > a; mv a b; cat b; ln b c; ln -s c d; sh -c 'echo 2 >> d'; cat b; stat -c %h b; readlink d";
    /// stat(2): the same file is the same everywhere.
    identity_of_files = "echo > f; a=$(stat -c %d:%i f); b=$(sh -c 'stat -c %d:%i f'); test $a = $b && echo same";
    /// System files and devices.
    devices = "echo x > /dev/null; head -c 5 /dev/zero | od -An -tx1; head -c 9 /dev/urandom | wc -c; sh -c 'cat < /dev/null' | wc -c";
    /// A make-like tree of processes.
    trees_of_processes = "f() { if [ $1 -gt 0 ]; then sh -c 'exit 0'; f $(($1 - 1)) & f $(($1 - 1)) & wait; fi; echo $1; }; f 3 | sort | uniq -c";
    /// execve(2): a standard descriptor that is closed is closed in the new program, too.
    closed_descriptors_stay_closed = "show='import os
for fd in range(3):
    try: os.fstat(fd)
    except OSError as error: os.open(\"/dev/null\", os.O_WRONLY); open(\"f\", \"a\").write(f\"{fd} {error}\\n\")'
for i in 1 2 3; do python3 -c \"$show\" <&-; python3 -c \"$show\" >&-; python3 -c \"$show\" <&- 2>&-; done; cat f";
    /// sched_getscheduler(2): the parent is there, though another node's kernel may not be asked.
    schedulers_of_parents = "for i in 1 2 3; do python3 -c 'import os
try: policy = os.sched_getscheduler(os.getppid())
except PermissionError: policy = os.SCHED_OTHER
print(policy)'; done";
    /// fcntl(2): locks of parts of a file exclude others wherever they run, until they end in any of the ways there are.
    parts_are_locked = concat!("cat > l.py <<'END'\n", include_str!("locks.py"), "END\npython3 l.py");
    /// flock(2): files are locked for descriptions wherever they are used, and shared, converted, waited for, interrupted,
    /// passed on, and given up in any of the ways there are.
    files_are_locked = concat!("cat > f.py <<'END'\n", include_str!("flock.py"), "END\npython3 f.py");
    /// fcntl(2), 'Open file description locks': parts of a file, for descriptions.
    parts_are_locked_for_descriptions = concat!("cat > o.py <<'END'\n", include_str!("ofd.py"), "END\npython3 o.py");
    /// flock(1): scripts lock by a descriptor that they keep, or for a command.
    scripts_lock = "exec 9> lock; flock 9; flock -n 9 && echo same; flock -n lock true; echo $?; flock -s -w 0.1 lock true; echo $?
flock -u 9; flock -n lock echo free; flock -s 9; flock -s -n lock echo shared; flock -n lock true; echo $?
(flock -n 8 && echo no; exec 9>&-; flock 8; cat kept) 8> lock & sleep 0.2; echo yes > kept; exec 9>&-; wait
flock lock sh -c 'flock -n lock true; echo $?; flock -n -E 5 lock true; echo $?'; flock -n -o lock sh -c 'sleep 0.1; echo done'";
    /// sqlite3: a journal that is rolled back, writers everywhere: no change is lost.
    databases_lose_nothing = "cat > d.py <<'END'
import sqlite3, subprocess, sys
def connect(): return sqlite3.connect('d.sqlite', timeout=60, isolation_level=None)
if len(sys.argv) > 1:
    c = connect()
    for i in range(20):
        c.execute('BEGIN IMMEDIATE' if i % 2 else 'BEGIN EXCLUSIVE')
        n, = c.execute('SELECT n FROM t').fetchone()
        c.execute('UPDATE t SET n = ?', (n + 1,))
        c.execute('INSERT INTO log VALUES (?, ?)', (sys.argv[1], i))
        c.execute('ROLLBACK' if i % 5 == 4 else 'COMMIT')
else:
    c = connect()
    print(c.execute('PRAGMA journal_mode = DELETE').fetchone())
    c.execute('CREATE TABLE t (n)'); c.execute('CREATE TABLE log (who, i)'); c.execute('INSERT INTO t VALUES (0)')
    c.close()
    others = [subprocess.Popen([sys.executable, 'd.py', str(who)]) for who in range(4)]
    print([other.wait() for other in others])
    c = connect()
    print(c.execute('SELECT n FROM t').fetchone(), c.execute('SELECT who, count(*), sum(i) FROM log GROUP BY who').fetchall())
    print(c.execute('PRAGMA integrity_check').fetchone())
END
python3 d.py";
    /// flock(2) excludes across nodes.
    locks_exclude = "echo 0 > n; for w in 1 2 3; do bash -c 'for i in {1..10}; do exec 9> lock; flock 9; x=$(cat n); echo $((x + 1)) > n; exec 9>&-; done' & done; wait; cat n";
    /// sem_overview(7): a program finds the named semaphores of the one that started it.
    named_semaphores = "cat > m.py <<'END'
import multiprocessing as m
def f(lock, queue):
    with lock: queue.put(7)
if __name__ == '__main__':
    c = m.get_context('spawn')
    lock, queue = c.Lock(), c.Queue()
    p = c.Process(target=f, args=(lock, queue))
    p.start(); print(queue.get()); p.join(); print(p.exitcode)
END
python3 m.py";
    /// getaddrinfo(3): `AI_ADDRCONFIG` leaves localhost its address.
    localhost_is_known = "python3 -c 'import socket as s; print(s.getaddrinfo(\"localhost\", 80, type=s.SOCK_STREAM, flags=s.AI_ADDRCONFIG) != [])'";
    /// getsockopt(2) in a process with a descriptor of another node.
    socket_options_are_read = "seq 4 > f; (for i in 1 2 3; do read x; python3 -c 'import socket
s = socket.socket()
print([s.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_TYPE, socket.SO_DOMAIN)])'; done; cat) < f";
    /// ip(7): a port that the kernel chose is reached from everywhere, whether bind(2) or listen(2) got it.
    any_port_is_reached = "cat > s.py <<'END'
import socket, sys
s = socket.socket()
if sys.argv[1] == 'bind': s.bind(('127.0.0.1', 0))
s.listen()
print(s.getsockname()[1], flush=True)
c, _ = s.accept()
c.sendall(c.recv(9)[::-1])
END
cat > c.py <<'END'
import socket, subprocess, sys
for how in 'bind', 'listen':
    p = subprocess.Popen([sys.executable, 's.py', how], stdout=subprocess.PIPE)
    with socket.create_connection(('127.0.0.1', int(p.stdout.readline()))) as c:
        c.sendall(b'abc'); print(how, c.recv(9))
    print(p.wait())
END
python3 c.py";
    /// epoll_ctl(2): EPERM for files and folders.
    files_cannot_be_watched = "python3 -c '
import os, select
e = select.epoll()
for path in \"f\", \".\", \"/proc/self/mounts\", \"/dev/null\":
    if path == \"f\": open(path, \"w\")
    try: e.register(os.open(path, os.O_RDONLY)); print(path, \"watched\")
    except OSError as error: print(path, error.errno)
'";
    /// pidfd_open(2), pidfd_send_signal(2), waitid(2): a descriptor that stands for a process, wherever.
    descriptors_of_processes = "cat > p.py <<'END'
import os, select, signal, subprocess
def ready(fd, wait=0): return bool(select.select([fd], [], [], wait)[0])
def fails(call, *arguments):
    try: call(*arguments); print('fine')
    except OSError as error: print(error.errno)
p = subprocess.Popen(['bash', '-c', 'sleep 60; :'])
fd = os.pidfd_open(p.pid)
print(ready(fd), os.get_inheritable(fd), os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG))
signal.pidfd_send_signal(fd, signal.SIGTERM)
r = (ready(fd, 10), os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT))
print(r[0], r[1].si_code, r[1].si_status, r[1].si_pid == p.pid)
fails(signal.pidfd_send_signal, fd, signal.SIGTERM)
print(p.wait(), ready(fd))
fails(signal.pidfd_send_signal, fd, 0)
fails(os.waitid, os.P_PIDFD, fd, os.WEXITED)
p = subprocess.Popen(['sleep', '0.3'])
fd = os.pidfd_open(p.pid, os.O_NONBLOCK)
fails(os.waitid, os.P_PIDFD, fd, os.WEXITED)
print(ready(fd, 10), os.waitid(os.P_PIDFD, fd, os.WEXITED).si_status)
for pid in 0, -1, 999999: fails(os.pidfd_open, pid)
fails(signal.pidfd_send_signal, 1, 0)
print(ready(os.pidfd_open(os.getppid())))
END
/usr/bin/python3 p.py";
    /// pthread_mutexattr_setprotocol(3), futex(2): locks that inherit priority, robust ones too.
    locks_that_inherit_priority = "cat > m.py <<'END'
import ctypes, threading, time
c = ctypes.CDLL(None)
def mutex(robust):
    attributes, lock = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    c.pthread_mutexattr_init(attributes)
    print(c.pthread_mutexattr_setprotocol(attributes, 1), c.pthread_mutexattr_setrobust(attributes, robust))
    print(c.pthread_mutexattr_settype(attributes, 2), c.pthread_mutex_init(lock, attributes))
    return lock
def later(seconds):
    t = time.time() + seconds
    return (ctypes.c_long * 2)(int(t), int(t % 1 * 1e9))
def on_thread(call, *arguments):
    found = []
    t = threading.Thread(target=lambda: found.append(call(*arguments))); t.start(); t.join()
    return found[0]
for robust in 0, 1:
    lock, total = mutex(robust), [0]
    print(c.pthread_mutex_lock(lock), c.pthread_mutex_lock(lock), on_thread(c.pthread_mutex_trylock, lock))
    print(on_thread(c.pthread_mutex_timedlock, lock, later(0.1)), on_thread(c.pthread_mutex_unlock, lock))
    def work():
        for _ in range(200):
            c.pthread_mutex_lock(lock)
            value = total[0]; time.sleep(0); total[0] = value + 1
            c.pthread_mutex_unlock(lock)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads: t.start()
    print(c.pthread_mutex_unlock(lock))
    for t in threads: t.join()
    print(total[0], c.pthread_mutex_trylock(lock), c.pthread_mutex_unlock(lock))
print(on_thread(c.pthread_mutex_lock, lock), c.pthread_mutex_lock(lock), c.pthread_mutex_consistent(lock), c.pthread_mutex_unlock(lock))
END
/usr/bin/python3 m.py";
    /// pidfd_getfd(2): the same open file description, whichever node it is on; who may take.
    descriptors_are_taken = concat!("cat > p.c << 'END'\n", include_str!("../../../../guest/programs/takes.c"), "\nEND\ncc -w -O1 -o p p.c && ./p; DUNIX_PLACE=local ./p here; echo $?");
    /// pidfd_send_signal(2): an open folder of `/proc` of a process stands for it, a thread's or another does not.
    signals_by_folder = "cat > s.py <<'END'
import errno, os, signal
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
for path in '/proc/%d' % os.getpid(), '/proc/self/task/' + os.listdir('/proc/self/task')[0], '/proc', '/proc/self/fd', '/etc':
    folder = os.open(path, os.O_DIRECTORY)
    try: signal.pidfd_send_signal(folder, signal.SIGUSR1)
    except OSError as error: print(errno.errorcode[error.errno])
    else: print(len(seen), 'sent')
END
/usr/bin/python3 s.py";
    /// capset(2), capget(2): a process that names itself, as programs do that give up privileges.
    privileges_given_up = "setpriv --reuid 1 --regid 1 --clear-groups sh -c 'id -u; id -G; grep CapEff /proc/self/status'; setpriv --dump | head -2";
    /// sched_getaffinity(2), sched_getscheduler(2): process 1 is there.
    first_process = "for ask in 'taskset -p' 'chrt -p'; do $ask 1 > answer; echo $? $(grep -c . answer); done";
    /// close(2): a connection is closed when its only descriptor is, although others looked at it before.
    closed_connections_are_closed = "cat > s.py <<'END'
import errno, socket, struct
kept = 0
for _ in range(40):
    with socket.create_server(('127.0.0.1', 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        client.close()
        try: accepted.getpeername()
        except OSError as error: assert error.errno == errno.ENOTCONN
        else: kept += 1
        accepted.close()
print(kept, 'kept')
END
/usr/bin/python3 s.py";
    /// Threads on all processors that fork, start programs, write code and fault, each interrupted 5,000 times a second.
    nothing_tears = concat!("cat > t.c << 'END'\n", include_str!("../../../../guest/programs/tears.c"), "\nEND\ncc -w -O1 -pthread -o t t.c && DUNIX_PLACE=local ./t 200; echo $?");
    /// bind(2): a port is one's alone, on whichever node the others are, and free as soon as it is given up.
    ports_come_free = "cat > b.py <<'END'
import os, signal, socket, sys
sock = socket.socket()
try: sock.bind(('127.0.0.1', int(sys.argv[1])))
except OSError as error: sys.exit(error.strerror)
print(sock.getsockname()[1], flush=True)
if len(sys.argv) > 2: sock.listen(), signal.pause()
END
/usr/bin/python3 b.py 0 stays > port & until [ -s port ]; do sleep 0.02; done; port=$(cat port)
/usr/bin/python3 b.py $port 2>&1; (/usr/bin/python3 b.py $port 2>&1); kill $!; wait $!; echo $?
for i in 1 2 3 4; do [ $(/usr/bin/python3 b.py $port) = $port ] && echo $i; done
for i in 1 2 3 4; do port=$(/usr/bin/python3 b.py 0); [ $(/usr/bin/python3 b.py $port) = $port ] && echo $i; done";
    /// fork(2) of a process that is killed meanwhile: its child is there, with a name and another parent, or never was.
    killed_while_forking = "cat > k.py <<'END'
import os, signal, time
wrong = 0
for round in range(30):
    ours, theirs = os.pipe()
    forker = os.fork()
    if forker == 0:
        while True:
            if os.fork(): continue
            time.sleep(0.1); os.kill(os.getpid(), 0); os.setpgid(0, 0)
            os.write(theirs, b'%d %d\\n' % (os.getpid(), os.getpgrp())); os._exit(0)
    os.close(theirs); time.sleep(0.005 + round * 0.0007); os.kill(forker, signal.SIGKILL)
    wrong += os.waitpid(forker, 0)[1] != signal.SIGKILL
    # Ends when all children have.
    said = [line.split() for line in open(ours)]
    wrong += sum(pid != group for pid, group in said) + (len({pid for pid, _ in said}) != len(said))
print(wrong)
END
/usr/bin/python3 k.py; echo $?";
    /// wait(2): what changes shows to a wait that does not block as soon as anything else tells of it; threads and
    /// handlers reap at the same time; a child with another exit signal is nobody's to an ordinary wait.
    children_are_reaped_once = "cat > w.py <<'END'
import os, signal, threading, time
def child(code=0): return os.fork() or os._exit(code)
def outcome(act, *args):
    try: return act(*args)
    except OSError as error: return error.strerror
print(outcome(os.wait), outcome(os.waitpid, -1, os.WNOHANG), outcome(os.waitpid, 1, 0))
pid = child(3); print(os.waitpid(pid, 0)[1], outcome(os.waitpid, pid, 0), outcome(os.wait))
# A handler that polls until there are no more.
reaped = []
def handler(*_):
    while True:
        found = outcome(os.waitpid, -1, os.WNOHANG)
        if isinstance(found, str) or found[0] == 0: return
        reaped.append(found[0])
signal.signal(signal.SIGCHLD, handler)
made = [child() for _ in range(40)]
while len(reaped) < 40: signal.sigtimedwait([], 0.01)
print(sorted(reaped) == sorted(made), outcome(os.wait)); signal.signal(signal.SIGCHLD, signal.SIG_DFL)
# What the end of a pipe, or another process, tells of is there to be waited for.
for i in range(20):
    pid = child(); os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT); assert os.waitpid(pid, os.WNOHANG)[0] == pid
# Several threads wait for all children that a further one makes: each is found once, then there are none.
found, lock = [], threading.Lock()
def reap():
    while True:
        got = outcome(os.wait)
        if isinstance(got, str): return
        with lock: found.append(got[0])
ours, theirs = os.pipe()
keeper = os.fork() or (os.close(theirs), os.read(ours, 1), os._exit(0))
threads = [threading.Thread(target=reap) for _ in range(4)]
for thread in threads: thread.start()
made = [child() for _ in range(60)]; os.close(theirs)
for thread in threads: thread.join(20)
print(sorted(found) == sorted(made + [keeper]), outcome(os.wait))
signal.signal(signal.SIGCHLD, signal.SIG_IGN); pid = child(); print(outcome(os.waitpid, pid, 0), outcome(os.waitpid, -1, os.WNOHANG))
END
/usr/bin/python3 w.py; timeout 5 sleep 0.1; echo $?; for i in 1 2 3 4 5 6 7 8; do timeout 5 /bin/true; done; echo $?";
    /// fifo(7): a named pipe joins whoever opens it, wherever.
    named_pipes = "mkfifo f; /bin/echo through > f & timeout 5 cat f; echo $?; wait";
    /// bash(1): process substitution and coprocesses.
    substitutions = "cat <(/bin/echo in); /bin/echo out | tee >(tr a-z A-Z > o) > /dev/null; \
        until [ -s o ]; do sleep 0.02; done; cat o; \
        coproc tr a-z A-Z; echo co >&${COPROC[1]}; exec {COPROC[1]}>&-; cat <&${COPROC[0]}";
}
