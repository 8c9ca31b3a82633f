"""What programs do with what they find by its name in the tree, each case in some lines.

A case is a parent and other programs, which inherit nothing but their standard streams:
    named.py CASE...             runs the parents of these cases
    named.py child CASE WORD...  is another program
"""
import array, errno, os, re, select, signal, socket, stat, struct, subprocess, sys

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
    # Abstract names are the machine's: each run has its own.
    print(re.sub(r"named-\d+", "named", " ".join(map(str, words))), flush=True)


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
    script = "exec 3> f; echo ready; read go; for i in $(seq 200); do printf '%%0500d\\n' %d; done >&3"
    fd, pipe = os.open("f", os.O_RDONLY | os.O_NONBLOCK), subprocess.PIPE
    writers = [subprocess.Popen(["bash", "-c", script % number], stdin=pipe, stdout=pipe)
               for number in range(4)]
    say([writer.stdout.readline() for writer in writers])
    for writer in writers:
        writer.stdin.write(b"go\n"), writer.stdin.close()
    os.set_blocking(fd, True)
    with open(fd) as source:
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
    say(waiting.wait())
    # It waits no more, as soon as all nodes know.
    while (found := name_of(os.open, "g", os.O_WRONLY | os.O_NONBLOCK)) != "ENXIO":
        if isinstance(found, int):
            os.close(found)
    say(found)


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


KINDS = {"stream": socket.SOCK_STREAM, "packets": socket.SOCK_SEQPACKET, "datagrams": socket.SOCK_DGRAM}


def unix(kind="stream"):
    return socket.socket(socket.AF_UNIX, KINDS[kind])


def address_of(word):
    return "\0" + word[1:] if word.startswith("@") else word


@child
def client():
    """Does with sockets what the lines say."""
    socks = {}
    for line in sys.stdin:
        word, name, *rest = line.split()
        if word == "make":
            socks[name] = unix(rest[0])
            say("made")
        elif word == "connect":
            say(name_of(socks[name].connect, address_of(rest[0])))
        elif word == "bind":
            say(name_of(socks[name].bind, address_of(rest[0])))
        elif word == "listen":
            say(socks[name].listen())
        elif word == "accept":
            socks[rest[0]] = socks[name].accept()[0]
            say("accepted")
        elif word == "send":
            say(name_of(socks[name].send, rest[0].encode()))
        elif word == "receive":
            say(name_of(socks[name].recv, 100))
        elif word == "names":
            say(socks[name].getsockname(), name_of(socks[name].getpeername))
        elif word == "peer":
            pid, uid, gid = struct.unpack("3i", socks[name].getsockopt(socket.SOL_SOCKET, 17, 12))
            say(pid == int(rest[0]), uid, gid)
        elif word == "close":
            socks.pop(name).close()
            say("closed")


def talk(kind, here, there, other):
    """Both ways over two connected sockets, until one closes."""
    say(other.ask("send s to"), here.recv(9), here.send(b"back"), other.ask("receive s x"))
    say(other.ask("send s one"), other.ask("send s two"), ready(here.fileno(), select.POLLIN))
    say(here.recv(100) if kind == "packets" else [here.recv(3), here.recv(3)])
    say(other.ask("close s"), here.recv(9))


def meet(kind, name):
    """A server here and a client there, then the other way round."""
    server, other = unix(kind), Other("client")
    server.bind(address_of(name)), server.listen()
    say(other.ask("make s " + kind), other.ask("connect s " + name), other.ask("names s x"))
    here, peer = server.accept()
    uid, gid = struct.unpack("3i", here.getsockopt(socket.SOL_SOCKET, 17, 12))[1:]
    say(peer, uid, gid, other.ask("peer s %d" % os.getpid()))
    talk(kind, here, name, other)
    here.close(), server.close()
    say(other.ask("make s " + kind), other.ask("connect s " + name), other.ask("close s"))
    if not name.startswith("@"):
        os.unlink(name)
    say(other.ask("make l " + kind), other.ask("bind l " + name), other.ask("listen l"))
    here = unix(kind)
    here.connect(address_of(name))
    say(other.ask("accept l s"), here.getsockname(), here.getpeername(), here.getblocking())
    talk(kind, here, name, other)
    say(other.end(), name_of(unix(kind).connect, address_of(name)))


@case
def unix_streams():
    """Connections by a file's name."""
    os.mkdir("d")
    meet("stream", "d/s")


@case
def unix_packets():
    """The same with SOCK_SEQPACKET."""
    meet("packets", "p")


@case
def unix_abstract():
    """The same with a name that is no file's, which one socket has at a time."""
    name = "@named-%d" % os.getpid()
    meet("stream", name)
    server, other = unix(), Other("client")
    server.bind(address_of(name))
    say(other.ask("make s stream"), other.ask("bind s " + name), other.ask("connect s " + name))
    server.close()
    say(other.ask("bind s " + name), name_of(unix().bind, address_of(name)), other.end())


@case
def unix_datagrams():
    """Messages of who is connected to a name and has none."""
    server, other = unix("datagrams"), Other("client")
    server.bind("s")
    say(other.ask("make s datagrams"), other.ask("connect s s"), other.ask("names s x"))
    say(other.ask("send s one"), other.ask("send s three"))
    say(ready(server.fileno(), select.POLLIN), server.recvfrom(9), server.recvfrom(9))
    server.close()
    say(other.ask("send s x"), other.end())


@case
def unix_refused():
    """Names that nobody has, or that are nobody's to use."""
    server, other = unix(), Other("client")
    server.bind("bound"), open("file", "w").close()
    kept = unix()
    kept.bind("left"), kept.listen(), kept.close()
    say(other.ask("make s stream"), other.ask("make d datagrams"))
    for name in "bound", "file", "left", "none", "@none-%d" % os.getpid():
        say(name.split("-")[0], other.ask("connect s " + name), other.ask("connect d " + name))
    server.listen()
    os.rename("bound", "moved")
    say(other.ask("connect s moved"), other.ask("names s x"), other.ask("connect s moved"))
    say(other.ask("make t stream"), other.ask("connect t bound"), other.end())


@child
def passes(name):
    sock = unix()
    sock.connect(name)
    with open("sent", "w+") as sent:
        sent.write("what was sent"), sent.flush(), sent.seek(5)
        sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sent.fileno()]))])
        say(sock.recv(9), sent.tell())


@case
def unix_rights():
    """SCM_RIGHTS over a connection by name."""
    server = unix()
    server.bind("s"), server.listen()
    other = Other("passes", "s")
    here = server.accept()[0]
    body, control, flags, _ = here.recvmsg(9, 100)
    fd = array.array("i", control[0][2])[0]
    say(body, os.read(fd, 3), flags)
    os.close(fd)
    here.send(b"done")
    say(other.hear(), other.end())


if __name__ == "__main__":
    sys.stdout.flush()
    if sys.argv[1:2] == ["child"]:
        CHILDREN[sys.argv[2]](*sys.argv[3:])
    else:
        for name in sys.argv[1:] or CASES:
            CASES[name]()
