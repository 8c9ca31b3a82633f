"""Locks of parts of a file (fcntl(2)) between two programs, told as lines that are the same wherever they run."""

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time

WRITE, READ, UNLOCK = fcntl.F_WRLCK, fcntl.F_RDLCK, fcntl.F_UNLCK
FLOCK = "hhqqi4x"


def lock(command, kind, start, length):
    """Returns 'ok', the name of an errno, or the lock that F_GETLK found."""
    flock = struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0)
    try:
        answer = fcntl.fcntl(fd, command, flock)
    except OSError as error:
        return errno.errorcode[error.errno]
    return struct.unpack(FLOCK, answer) if command == fcntl.F_GETLK else "ok"


def attempt(kind, start, length):
    return lock(fcntl.F_SETLK, kind, start, length)


def wait(kind, start, length):
    return lock(fcntl.F_SETLKW, kind, start, length)


def holder(how):
    attempt(WRITE, 10, 5)
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    # So that the other one waits already, as a rule.
    time.sleep(0.1)
    open("mark", "w").close()
    if how == "close":
        os.close(os.dup(fd))
    elif how == "unlock":
        attempt(UNLOCK, 10, 5)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exec":
        os.execvp("cat", ["cat"])
    elif how == "circle":
        print(wait(WRITE, 100, 1), flush=True)
        os._exit(0)
    if how != "exit":
        sys.stdin.readline()


def start(how):
    command = [sys.executable, sys.argv[0], how]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(other.stdout.readline())
    assert pid == other.pid
    return other


def end(other):
    other.stdin.close()
    answer = other.stdout.read().strip()
    other.wait()
    return answer


def meets(how):
    other = start(how)
    kind, _, first, length, pid = lock(fcntl.F_GETLK, WRITE, 0, 0)
    print(how, "found", kind == WRITE, first, length, pid == other.pid)
    print("inside", attempt(READ, 12, 1), attempt(WRITE, 14, 1), "beside", attempt(WRITE, 9, 1), attempt(WRITE, 15, 1))
    other.stdin.write("\n")
    other.stdin.flush()
    print("waited", wait(WRITE, 0, 0), os.path.exists("mark"))
    os.unlink("mark")
    attempt(UNLOCK, 0, 0)
    end(other)


class Alarm(Exception):
    pass


def on_alarm(*_):
    raise Alarm


def is_interrupted():
    other = start("exit")
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        print("not interrupted", wait(WRITE, 0, 0))
    except Alarm:
        print("interrupted; later", attempt(WRITE, 10, 5))
    end(other)
    print("then", attempt(WRITE, 10, 5))
    attempt(UNLOCK, 0, 0)


def circle():
    attempt(WRITE, 100, 1)
    other = start("circle")
    other.stdin.write("\n")
    other.stdin.flush()
    own = wait(WRITE, 10, 1)
    attempt(UNLOCK, 100, 1)
    print("circle", sorted([own, end(other)]))


fd = os.open("file", os.O_RDWR | os.O_CREAT)
if len(sys.argv) > 1:
    holder(sys.argv[1])
else:
    for how in ["close", "unlock", "exit", "kill", "exec"]:
        meets(how)
    is_interrupted()
    circle()
    os.unlink("mark")
