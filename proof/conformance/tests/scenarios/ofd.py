"""Locks of parts of a file for open file descriptions (fcntl(2), F_OFD_SETLK) between programs."""

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys

GETLK, SETLK, SETLKW, F_SETLEASE = 36, 37, 38, 1024
READ, WRITE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
FLOCK = "hhqqi4x"


def lock(fd, kind, start, length, command=SETLK):
    """'ok', the name of an errno, or the lock that F_OFD_GETLK found."""
    flock = struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0)
    try:
        answer = fcntl.fcntl(fd, command, flock)
    except OSError as error:
        return errno.errorcode[error.errno]
    return struct.unpack(FLOCK, answer) if command == GETLK else "ok"


def opened():
    return os.open("parts", os.O_RDWR | os.O_CREAT)


def start(*words, fds=()):
    pipe = subprocess.PIPE
    command = [sys.executable, sys.argv[0], *words]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=fds)


def told(other):
    other.stdin.write("\n")
    other.stdin.flush()


def holder(how):
    fd = opened()
    first = lock(fd, WRITE, 10, 10)
    # Another description of this node: it is refused, and takes nothing from the first.
    second = opened()
    print(first, lock(second, READ, 10, 10), lock(second, READ, 0, 5), flush=True)
    sys.stdin.readline()
    if how == "close":
        os.close(fd)
        os.close(second)
    elif how == "unlock":
        lock(fd, UNLOCK, 0, 0)
        lock(second, UNLOCK, 0, 0)
    elif how == "closes another":
        # Unlike the locks of a process, it stays.
        os.close(opened())
        print("kept", flush=True)
        sys.stdin.readline()
        os._exit(0)
    if how != "exit":
        sys.stdin.readline()


def meets(how):
    other, fd = start("hold", how), opened()
    print(how, other.stdout.readline().strip(), lock(fd, READ, 10, 1), lock(fd, READ, 19, 5))
    print("beside", lock(fd, WRITE, 8, 2), lock(fd, WRITE, 20, 2), lock(fd, READ, 2, 2), lock(fd, WRITE, 2, 1))
    print("found", lock(fd, WRITE, 9, 0, GETLK))
    told(other)
    if how == "closes another":
        print(other.stdout.readline().strip(), lock(fd, READ, 12, 1))
        told(other)
    print("waited", lock(fd, WRITE, 0, 0, SETLKW))
    os.close(fd)
    other.stdin.close()
    other.wait()


def inherited(number):
    """It is the parent's description: there is nothing in the way, and what it gives up is given up."""
    fd, own = int(number), opened()
    print(lock(fd, WRITE, 0, 5), lock(own, READ, 0, 5), lock(fd, UNLOCK, 0, 3), lock(own, READ, 0, 3))


def inherits():
    fd = opened()
    os.set_inheritable(fd, True)
    print("parent", lock(fd, WRITE, 0, 10))
    other = start("inherited", str(fd), fds=[fd])
    print("child", other.communicate()[0].strip(), other.returncode)
    third = opened()
    print("then", lock(third, WRITE, 0, 3), lock(third, READ, 3, 1))
    os.close(fd)
    print("closed", lock(third, WRITE, 0, 0))


def leases():
    """A lease (F_SETLEASE) is had only if it tells of every open, wherever that is."""
    open("leased", "w").close()
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open("leased", os.O_RDONLY)
    try:
        fcntl.fcntl(fd, F_SETLEASE, READ)
        is_had = True
    except OSError as error:
        is_had = error.errno != errno.EINVAL
    opens = "import os; os.open('leased', os.O_WRONLY | os.O_NONBLOCK)"
    is_told = subprocess.run([sys.executable, "-c", opens], stderr=subprocess.DEVNULL).returncode != 0
    print("a lease tells of opens", is_had == is_told)
    os.close(fd)


if len(sys.argv) > 1:
    {"hold": holder, "inherited": inherited}[sys.argv[1]](sys.argv[2])
else:
    for how in ["close", "unlock", "exit", "closes another"]:
        meets(how)
    inherits()
    leases()
