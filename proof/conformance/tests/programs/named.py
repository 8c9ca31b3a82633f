"""What programs do with what they find by its name in the tree, each case in some lines.

A case is a parent and other programs, which inherit nothing but their standard streams:
    named.py CASE...             runs the parents of these cases
    named.py child CASE WORD...  is another program
"""
import errno, os, select, signal, stat, subprocess, sys

CASES, CHILDREN = {}, {}
SELF = os.path.abspath(__file__)


def case(function):
    CASES[function.__name__] = function
    return function


def child(function):
    CHILDREN[function.__name__] = function
    return function


class Other:
    """Another program, told line by line what to do; its answers are lines, too."""

    def __init__(self, name, *words):
        words = [sys.executable, SELF, "child", name, *words]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def tell(self, line):
        self.process.stdin.write(line + "\n")

    def hear(self):
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, line):
        self.tell(line)
        return self.hear()

    def end(self):
        self.process.stdin.close()
        return self.process.wait()


def say(*words):
    print(*words, flush=True)


def name_of(call, *arguments):
    """What a call returned, or the name of its error."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def ready(fd, events, wait=5000):
    poller = select.poll()
    poller.register(fd, events)
    return [found for _, found in poller.poll(wait)]


@child
def user():
    """Does with FIFOs what the lines say."""
    fds = {}
    for line in sys.stdin:
        word, name, *rest = line.split()
        if word == "open":
            fd = name_of(os.open, name, eval(rest[0], vars(os)))
            if isinstance(fd, int):
                fds[name], fd = fd, "open"
            say(fd)
        elif word == "write":
            say(name_of(os.write, fds[name], rest[0].encode()))
        elif word == "read":
            say(name_of(os.read, fds[name], 100))
        elif word == "poll":
            say(ready(fds[name], select.POLLIN, int(rest[0])))
        elif word == "close":
            os.close(fds.pop(name))
            say("closed")


@case
def fifo_meets():
    """Who opens waits for the other end, in both directions; then the end."""
    os.mkfifo("f")
    other = Other("user")
    other.tell("open f O_WRONLY")
    fd = os.open("f", os.O_RDONLY)
    say(other.hear(), other.ask("write f hello"), os.read(fd, 100))
    say(other.ask("close f"), os.read(fd, 100))
    os.close(fd)
    other.tell("open f O_RDONLY")
    fd = os.open("f", os.O_WRONLY)
    say(other.hear(), os.write(fd, b"back"), other.ask("read f x"))
    shown, named = os.fstat(fd), os.stat("f")
    say(stat.S_ISFIFO(shown.st_mode), shown.st_ino == named.st_ino, name_of(os.lseek, fd, 0, 1))
    os.close(fd)
    say(other.ask("read f x"), other.end())


@case
def fifo_at_once():
    """O_NONBLOCK, O_RDWR."""
    os.mkfifo("f")
    other = Other("user")
    say(other.ask("open f O_WRONLY|O_NONBLOCK"), name_of(os.open, "f", os.O_WRONLY | os.O_NONBLOCK))
    fd = os.open("f", os.O_RDONLY | os.O_NONBLOCK)
    say(os.read(fd, 9), other.ask("open f O_WRONLY|O_NONBLOCK"), name_of(os.read, fd, 9))
    say(other.ask("write f %s" % ("x" * 3000)), len(os.read(fd, 9999)), other.ask("close f"))
    os.close(fd)
    say(other.ask("open f O_RDWR"), other.ask("write f kept"))
    fd = os.open("f", os.O_RDWR)
    say(os.read(fd, 9), os.write(fd, b"own"), other.ask("read f x"), other.end())
    os.close(fd)


@case
def fifo_breaks():
    """A writer whose readers have left, until another comes."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.mkfifo("f")
    other = Other("user")
    other.tell("open f O_RDONLY")
    fd = os.open("f", os.O_WRONLY)
    say(other.hear(), os.write(fd, b"1"), other.ask("read f x"), other.ask("close f"))
    say(name_of(os.write, fd, b"2"), ready(fd, select.POLLOUT))
    say(other.ask("open f O_RDONLY"), os.write(fd, b"3"), other.ask("read f x"))
    os.close(fd)
    say(other.ask("read f x"), other.end())
    say(subprocess.run("exec 3<> f; exec 4> f 3<&-; echo x >&4; echo no", shell=True).returncode)


@case
def fifo_waits():
    """poll(2): nothing, bytes, the end, and again."""
    os.mkfifo("f")
    fd = os.open("f", os.O_RDONLY | os.O_NONBLOCK)
    other = Other("user")
    say(ready(fd, select.POLLIN, 0), other.ask("open f O_WRONLY"), ready(fd, select.POLLIN, 0))
    other.tell("write f x")
    say(ready(fd, select.POLLIN), other.hear(), os.read(fd, 9), ready(fd, select.POLLIN, 0))
    other.tell("close f")
    say(ready(fd, select.POLLIN), other.hear())
    say(other.ask("open f O_WRONLY"), ready(fd, select.POLLIN, 0), other.ask("close f"))
    os.close(fd)
    say(other.ask("open f O_RDONLY|O_NONBLOCK"), other.ask("poll f 0"))
    fd = os.open("f", os.O_WRONLY)
    say(other.ask("poll f 0"), os.write(fd, b"x"), other.ask("poll f 5000"), other.ask("read f x"))
    os.close(fd)
    say(other.ask("poll f 5000"), other.end())


@case
def fifo_many():
    """Several writers: lines stay whole, the last one's end is the end."""
    os.mkfifo("f")
    script = "for i in $(seq 200); do printf '%%0500d\\n' %d; done > f"
    writers = [subprocess.Popen(["bash", "-c", script % number]) for number in range(4)]
    with open("f") as source:
        lines = source.read().split("\n")
    say(sorted((found, lines.count(found)) for found in set(lines)) == sorted(
        [("", 1)] + [("%0500d" % number, 200) for number in range(4)]))
    say([writer.wait() for writer in writers])


@case
def fifo_flows():
    """More bytes than a pipe holds, from one to the next."""
    os.mkfifo("f"), os.mkfifo("g")
    first = subprocess.Popen("head -c 3000000 /dev/zero | tr '\\0' x > f", shell=True)
    second = subprocess.Popen("cat f > g", shell=True)
    say(subprocess.check_output("cat g | wc -c", shell=True), first.wait(), second.wait())


@child
def opens(path):
    """Waits to open a FIFO until a signal comes."""
    def come(number, frame):
        raise InterruptedError(errno.EINTR, "")
    signal.signal(signal.SIGALRM, come)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    say(name_of(os.open, path, os.O_RDONLY))
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    say(name_of(os.read, os.open(path, os.O_RDONLY), 9))


@case
def fifo_interrupted():
    """A wait for the other end that a signal ends, and one that goes on behind it; one that is killed."""
    os.mkfifo("f"), os.mkfifo("g")
    os.close(os.open("f", os.O_RDWR)), os.close(os.open("g", os.O_RDWR))
    other = Other("opens", "f")
    say(other.hear())
    fd = os.open("f", os.O_WRONLY)
    say(os.write(fd, b"late"), other.hear(), other.end())
    os.close(fd)
    waiting = subprocess.Popen(["cat", "g"])
    waiting.kill()
    say(waiting.wait(), name_of(os.open, "g", os.O_WRONLY | os.O_NONBLOCK))


@child
def stranger(path):
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    for flags in os.O_RDONLY | os.O_NONBLOCK, os.O_RDWR:
        found = name_of(os.open, path, flags)
        say("open" if isinstance(found, int) else found)


@case
def fifo_belongs():
    """Permissions; names that change while it is open."""
    for mode in 0o600, 0o604, 0o666:
        name = "%o" % mode
        os.mkfifo(name), os.chmod(name, mode)
        os.close(os.open(name, os.O_RDWR))
        other = Other("stranger", name)
        say(name, other.hear(), other.hear(), other.end())
    os.mkfifo("f")
    other = Other("user")
    say(other.ask("open f O_RDWR"))
    os.rename("f", "g")
    fd = os.open("g", os.O_RDWR)
    os.unlink("g"), os.mkfifo("f")
    say(other.ask("write f x"), os.read(fd, 9), name_of(os.open, "f", os.O_WRONLY | os.O_NONBLOCK))
    say(other.end())


if __name__ == "__main__":
    sys.stdout.flush()
    if sys.argv[1:2] == ["child"]:
        CHILDREN[sys.argv[2]](*sys.argv[3:])
    else:
        for name in sys.argv[1:] or CASES:
            CASES[name]()
