"""Locks of whole files (flock(2)) between programs, told as lines that are the same wherever they run."""

import array
import ctypes
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

SH, EX, NB, UN = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN
libc = ctypes.CDLL(None, use_errno=True)


def lock(fd, how):
    """As the raw call: 'ok' or the name of an errno."""
    return "ok" if libc.flock(fd, how) == 0 else errno.errorcode[ctypes.get_errno()]


def opened():
    return os.open("file", os.O_RDWR | os.O_CREAT)


def attempt(how):
    """By a description of its own, which has nothing afterwards."""
    fd = opened()
    answer = lock(fd, how | NB)
    os.close(fd)
    return answer


def say(text):
    print(text, flush=True)


def hear():
    return sys.stdin.readline().strip()


def holder(how):
    """Has the file until it is told to go on, then ends having it in one of many ways."""
    fd = opened()
    say(lock(fd, SH if how == "share" else EX))
    hear()
    if how == "close":
        os.close(fd)
    elif how == "duplicate":
        os.close(os.dup(fd))
        say("kept")
        hear()
        lock(os.dup(fd), UN)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "fork":
        if os.fork() > 0:
            os._exit(0)
        say("kept")
        hear()
    elif how == "exec":
        os.set_inheritable(fd, True)
        say("kept")
        os.execvp("head", ["head", "-c", "1"])
    elif how == "convert":
        say(lock(fd, SH))
        hear()
    elif how != "exit":
        lock(fd, UN)
        hear()


class Other:
    def __init__(self, *words):
        command = [sys.executable, sys.argv[0], *words]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def hears(self):
        return self.process.stdout.readline().strip()

    def goes_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ends(self):
        self.process.stdin.close()
        rest = self.process.stdout.read().split()
        self.process.wait()
        return rest


def meets(how):
    other, fd = Other(how), opened()
    print(how, other.hears(), attempt(EX), attempt(SH), lock(fd, EX | NB))
    other.goes_on()
    if how in ("duplicate", "fork", "exec"):
        print(how, other.hears(), attempt(SH))
        other.goes_on()
    if how == "convert":
        print(how, other.hears(), attempt(SH), attempt(EX))
        other.goes_on()
    print(how, "waited", lock(fd, EX), attempt(SH))
    os.close(fd)
    other.ends()


def shares():
    other, fd = Other("share"), opened()
    print("share", other.hears(), attempt(SH), attempt(EX), lock(fd, SH | NB))
    # Who would have more and cannot has nothing: flock(2), 'Converting a lock'.
    print("more", lock(fd, EX | NB))
    other.goes_on()
    other.ends()
    print("nothing is left", attempt(EX))
    os.close(fd)


def is_interrupted():
    for restarts in (False, True):
        other, fd, came = Other("exit"), opened(), []
        other.hears()
        # The interpreter calls it after the call; that the call ends is for the kernel to do.
        signal.signal(signal.SIGALRM, lambda *_: came.append(1))
        signal.siginterrupt(signal.SIGALRM, not restarts)
        # Again and again: the first may come before the call.
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        if restarts:
            ends = "import os, sys, time; time.sleep(0.4); os.write(int(sys.argv[1]), b'\\n')"
            pipe = other.process.stdin.fileno()
            subprocess.Popen([sys.executable, "-c", ends, str(pipe)], pass_fds=[pipe])
        print("restarts" if restarts else "ends", lock(fd, EX), bool(came))
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not restarts:
            other.goes_on()
        other.ends()
        print("then", lock(fd, EX), attempt(SH))
        os.close(fd)


def sends():
    """The description goes in a message: the lock is where it is."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, sys.argv[0], "receive", str(theirs.fileno())]
    other = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    fd = opened()
    print("sender", lock(fd, EX))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    ours.sendmsg([b"x"], rights)
    os.close(fd)
    print("in the message or received", attempt(SH))
    print(ours.recv(9), attempt(SH))
    ours.send(b"x")
    print(ours.recv(9), attempt(EX))
    other.wait()


def receive(number):
    theirs = socket.socket(fileno=int(number))
    _, control, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
    fd = array.array("i", control[0][2])[0]
    theirs.send(lock(fd, EX | NB).encode())
    theirs.recv(1)
    os.close(fd)
    theirs.send(b"closed")


def inherits():
    """A program that has the descriptor from its parent has the lock, too."""
    fd = opened()
    os.set_inheritable(fd, True)
    print("parent", lock(fd, EX))
    inherited = [sys.executable, sys.argv[0], "inherited", str(fd)]
    print(subprocess.run(inherited, pass_fds=[fd], stdout=subprocess.PIPE, text=True).stdout.strip())
    # The child has given it up, for both.
    print("after the child", attempt(EX))
    os.close(fd)


def inherited(number):
    fd = int(number)
    print("child", attempt(SH), lock(fd, SH), attempt(SH), lock(fd, EX), lock(fd, UN))


def beside_others():
    """Locks of parts (fcntl(2)) and of files do not exclude each other."""
    other, fd = Other("exit"), opened()
    other.hears()
    fcntl.lockf(fd, EX | NB)
    print("parts are free", attempt(SH))
    other.goes_on()
    other.ends()
    print("the file is", attempt(EX))
    os.close(fd)


def counts():
    open("count", "w").write("0")
    others = [Other("count", "60") for _ in range(3)]
    for other in others:
        other.ends()
    print("counted", open("count").read())


def count(times):
    for number in range(int(times)):
        fd = opened()
        lock(fd, EX)
        with open("count", "r+") as file:
            now = int(file.read())
            file.seek(0)
            file.write(str(now + 1))
        lock(fd, UN) if number % 2 else None
        os.close(fd)


if len(sys.argv) > 1:
    words = sys.argv[1:]
    {"receive": receive, "inherited": inherited, "count": count}.get(words[0], lambda *_: holder(words[0]))(*words[1:])
else:
    for how in ["unlock", "close", "duplicate", "exit", "kill", "fork", "exec", "convert"]:
        meets(how)
    for case in [shares, is_interrupted, sends, inherits, beside_others, counts]:
        if case.__name__ != os.environ.get("WITHOUT"):
            case()
