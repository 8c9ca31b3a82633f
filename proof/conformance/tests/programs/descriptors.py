"""What programs do with descriptors whose objects others have as well, each case in a line or two.

A case is a parent and a child, which is another program and inherits descriptors:
    descriptors.py [CASE...]         runs the parents of these cases, or of all
    descriptors.py child CASE FD...  is a child
"""
import errno, os, select, socket, struct, subprocess, sys, tempfile

CASES, CHILDREN = {}, {}
SELF = os.path.abspath(__file__)


def case(function):
    CASES[function.__name__] = function
    return function


def child_of(name):
    def note(function):
        CHILDREN[name] = function
        return function
    return note


def spawn(name, *fds):
    """Starts the child of a case, which has these descriptors and no others."""
    fds = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
    words = [sys.executable, SELF, "child", name] + [str(fd) for fd in fds]
    return subprocess.Popen(words, pass_fds=fds)


def say(*words):
    print(*words, flush=True)


def unix(fd, kind=socket.SOCK_STREAM):
    return socket.socket(socket.AF_UNIX, kind, 0, fileno=fd)


def all_of(sock, length):
    got = b""
    while len(got) < length:
        more = sock.recv(length - len(got))
        if not more:
            break
        got += more
    return got


@case
def pipes(here="pipes"):
    to, back = os.pipe(), os.pipe()
    child = spawn(here, to[0], back[1])
    os.close(to[0]), os.close(back[1])
    total = 0
    for i in range(20):
        block = bytes([i]) * (5000 * i + 1)
        os.write(to[1], block)
        total += len(block)
    os.close(to[1])
    with os.fdopen(back[0]) as answer:
        say("pipes", answer.read().strip() == str(total), child.wait())


@child_of("pipes")
def pipes_child(source, sink):
    total = 0
    while block := os.read(source, 65536):
        total += len(block)
    os.write(sink, str(total).encode())


@case
def stream(here="stream"):
    mine, theirs = socket.socketpair()
    child = spawn(here, theirs)
    theirs.close()
    mine.sendall(b"x" * 300000)
    say("stream", len(all_of(mine, 300000)), mine.recv(1), mine.getsockname() == "")
    mine.shutdown(socket.SHUT_WR)
    say("stream", all_of(mine, 99), child.wait())


@child_of("stream")
def stream_child(fd):
    sock = unix(fd)
    sock.sendall(all_of(sock, 300000)[::-1])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
    linger = struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    sock.sendall(b"!")
    rest = sock.recv(9)
    sock.sendall(repr((linger, rest, sock.family == socket.AF_UNIX)).encode())


@case
def messages(here="messages"):
    for kind in socket.SOCK_DGRAM, socket.SOCK_SEQPACKET:
        mine, theirs = socket.socketpair(socket.AF_UNIX, kind)
        child = spawn(here, theirs)
        theirs.close()
        for text in b"one", b"three", b"", b"seventeen":
            mine.send(text)
        say("messages", [mine.recv(99) for _ in range(4)], child.wait())


@child_of("messages")
def messages_child(fd):
    sock = unix(fd, socket.SOCK_DGRAM)
    peeked = sock.recv(2, socket.MSG_PEEK)
    whole = sock.recv(2, socket.MSG_PEEK | socket.MSG_TRUNC)
    sock.send(repr((peeked, len(whole))).encode())
    for _ in range(2):
        data, _, flags, _ = sock.recvmsg(4)
        sock.send(repr((data, flags & socket.MSG_TRUNC != 0)).encode())
    sock.recv(9)
    sock.send(sock.recv(99))
    try:
        sock.recv(9, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    sys.exit(3)


@case
def tcp(here="tcp"):
    listener = socket.create_server(("127.0.0.1", 0))
    child = spawn(here, listener)
    with socket.create_connection(listener.getsockname()) as first:
        first.sendall(b"abcdef")
        got = all_of(first, 6)
        say("tcp", got, first.getpeername() == listener.getsockname())
        first.shutdown(socket.SHUT_WR)
        say("tcp", first.recv(9), child.wait())
    listener.settimeout(0.05)
    try:
        listener.accept()
    except TimeoutError:
        say("tcp nobody")


@child_of("tcp")
def tcp_child(fd):
    listener = socket.socket(fileno=fd)
    connection, peer = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(connection.recv(6, socket.MSG_WAITALL)[::-1])
    good = peer == connection.getpeername() and connection.getsockname() == listener.getsockname()
    sys.exit(0 if connection.recv(9) == b"" and good else 4)


@case
def counters(here="counters"):
    event, back = os.eventfd(0), os.eventfd(0, os.EFD_SEMAPHORE)
    child = spawn(here, event, back)
    for _ in range(5):
        os.eventfd_write(event, 3)
        os.eventfd_read(back)
    say("counters", child.wait(), os.eventfd_read(back))


@child_of("counters")
def counters_child(event, back):
    total = 0
    while total < 15:
        total += os.eventfd_read(event)
        os.eventfd_write(back, 1)
    os.eventfd_write(back, 5)


@case
def files(here="files"):
    with tempfile.TemporaryFile() as deleted, open("shared", "w+b", buffering=0) as shared:
        deleted.write(b"deleted"), deleted.flush()
        shared.write(b"0123456789")
        shared.seek(2)
        child = spawn(here, deleted, shared)
        status = child.wait()
        deleted.seek(0)
        say("files", status, deleted.read(), shared.read(3), shared.tell())
        memory = os.memfd_create("m")
        os.write(memory, b"memory")
        child = spawn("memory", memory)
        say("files", child.wait(), os.lseek(memory, 0, os.SEEK_CUR), os.pread(memory, 9, 0))


@child_of("files")
def files_child(deleted, shared):
    os.write(deleted, b" and kept")
    good = os.read(shared, 3) == b"234" and os.fstat(deleted).st_nlink == 0
    os.fsync(shared), os.ftruncate(deleted, 12)
    os.lseek(shared, 1, os.SEEK_CUR)
    sys.exit(0 if good else 5)


@child_of("memory")
def memory_child(fd):
    os.lseek(fd, 0, 0)
    os.write(fd, b"MEM")


@case
def waits(here="waits"):
    pairs = [socket.socketpair() for _ in range(3)]
    pipe = os.pipe()
    child = spawn(here, *(theirs for _, theirs in pairs), pipe[1])
    os.close(pipe[1])
    for mine, theirs in pairs:
        theirs.close()
    for i in (1, 0, 2):
        pairs[i][0].send(b"%d" % i)
        say("waits", i, all_of(pairs[i][0], 3))
    say("waits", os.read(pipe[0], 99))
    pairs[1][0].close()
    say("waits", os.read(pipe[0], 99), child.wait())


@child_of("waits")
def waits_child(*fds):
    *fds, sink = fds
    own = os.pipe()
    set_ = select.epoll()
    for fd in (*fds, own[0]):
        set_.register(fd, select.EPOLLIN)
    ways = {"epoll": lambda: [fd for fd, _ in set_.poll(30)],
            "poll": lambda: [fd for fd, _ in poll.poll(30000)],
            "select": lambda: select.select((*fds, own[0]), [], [], 30)[0]}
    poll = select.poll()
    for fd in (*fds, own[0]):
        poll.register(fd, select.POLLIN)
    for name in "epoll", "poll", "select":
        [fd] = ways[name]()
        index = os.read(fd, 9)
        again = set_.poll(0), poll.poll(0), select.select(fds, [], [], 0)[0]
        os.write(fd, index + b"-" + (b"+" if again == ([], [], []) else b"?"))
    os.write(own[1], b"x")
    local = [ways[name]() == [own[0]] for name in sorted(ways)]
    os.read(own[0], 1)
    os.write(sink, repr(local).encode())
    ended = [fds.index(fd) for fd, _ in set_.poll(30)]
    os.write(sink, repr((ended, os.read(fds[1], 1))).encode())


@case
def copies(here="copies"):
    mine, theirs = socket.socketpair()
    to = os.pipe()
    child = spawn(here, theirs, to[1])
    theirs.close(), os.close(to[1])
    got = all_of(mine, 30000)
    with os.fdopen(to[0], "rb") as pipe:
        say("copies", len(got), set(got), len(pipe.read()), child.wait())


@child_of("copies")
def copies_child(sock, pipe):
    with open("source", "w+b") as source:
        source.write(b"s" * 30000), source.flush()
        done = 0
        while done < 30000:
            done += os.sendfile(sock, source.fileno(), done, 30000 - done)
        source.seek(0)
        try:
            done = os.splice(source.fileno(), pipe, 100)
        except OSError as error:
            # As for files that cannot: programs go on with read and write.
            done = os.write(pipe, source.read(100)) if error.errno == errno.EINVAL else 0
        sys.exit(0 if done == 100 else 6)


def give(sock, text, *fds):
    socket.send_fds(sock, [text], list(fds))


def take(sock, count=1):
    text, fds, _, _ = socket.recv_fds(sock, 99, count)
    return text, fds


@case
def rights(here="rights"):
    mine, theirs = socket.socketpair()
    third = socket.socketpair()
    child, other = spawn(here, theirs), spawn("bearer", third[1])
    theirs.close(), third[1].close()
    pipe = os.pipe()
    with open("passed", "w+b", buffering=0) as passed:
        passed.write(b"abcdef"), passed.seek(1)
        give(mine, b"take", pipe[1], passed.fileno())
        os.close(pipe[1])
        say("rights", mine.recv(5), os.read(pipe[0], 99), os.read(pipe[0], 1), passed.tell())
    text, [theirs] = take(mine)
    say("rights", int(text) == os.fstat(theirs).st_ino, os.read(theirs, 99))
    # On to a third, with what the second made, and home again.
    give(third[0], b"bear", theirs)
    os.close(theirs)
    text, [back] = take(third[0])
    say("rights", text)
    give(mine, b"again", back)
    os.close(back)
    say("rights", mine.recv(99), child.wait(), other.wait())


@child_of("rights")
def rights_child(fd):
    sock = unix(fd)
    text, [pipe, passed] = take(sock, 2)
    os.write(pipe, text + b" " + os.read(passed, 2))
    os.close(pipe), os.close(passed)
    sock.send(b"taken")
    own = os.pipe()
    os.write(own[1], b"from afar")
    give(sock, b"%d" % os.fstat(own[0]).st_ino, own[0])
    os.close(own[0])
    text, [back] = take(sock)
    os.write(own[1], b"home")
    sock.send(text + b" " + os.read(back, 99))


@child_of("bearer")
def bearer_child(fd):
    sock = unix(fd)
    text, [borne] = take(sock)
    # Through a socket of its own, too.
    own = socket.socketpair()
    give(own[0], text, borne)
    os.close(borne)
    own[0].close()
    text, [borne] = take(own[1])
    give(sock, text + b"er", borne)


@case
def between(here="between"):
    """Descriptors come with their own bytes, not with those before them."""
    mine, theirs = socket.socketpair()
    child = spawn(here, theirs)
    theirs.close()
    for i in range(3):
        pipe = os.pipe()
        mine.send(b"before %d" % i)
        give(mine, b"with", pipe[1])
        mine.sendall(b"a" * 70000)
        os.close(pipe[1])
        say("between", os.read(pipe[0], 99), os.read(pipe[0], 1))
        os.close(pipe[0])
        plain = all_of(mine, 5)
        text, fds = take(mine, 2)
        rest = len(all_of(mine, 70001 - len(text)))
        say("between", plain, text[:1], len(fds), len(text) + rest)
        os.close(fds[0]), os.close(fds[1])
    say("between", child.wait(), mine.recv(1))


@child_of("between")
def between_child(fd):
    sock = unix(fd)
    for i in range(3):
        before = all_of(sock, 8)
        text, [pipe] = take(sock)
        os.write(pipe, before + b" " + text[:4])
        os.close(pipe)
        all_of(sock, 70000 - (len(text) - 4))
        sock.send(b"plain")
        own = os.pipe()
        give(sock, b"w", *own)
        os.close(own[0]), os.close(own[1])
        sock.sendall(b"z" * 70000)


@case
def discarded(here="discarded"):
    """What is sent and never received is closed with its message."""
    mine, theirs = socket.socketpair()
    pipe = os.pipe()
    child = spawn(here, theirs)
    theirs.close()
    give(mine, b"x", pipe[1])
    os.close(pipe[1])
    say("discarded", child.wait(), os.read(pipe[0], 1))
    mine, theirs = socket.socketpair()
    child = spawn("unheard", theirs)
    theirs.close()
    say("discarded", mine.recv(1, socket.MSG_PEEK))
    mine.close()
    say("discarded", child.wait())


@child_of("discarded")
def discarded_child(fd):
    sock = unix(fd)
    # Who sends to a socket that is closed already gets EPIPE.
    select.select([sock], [], [])
    sock.close()


@child_of("unheard")
def unheard_child(fd):
    sock = unix(fd)
    own = os.pipe()
    give(sock, b"1", own[1])
    os.close(own[1])
    sys.exit(0 if os.read(own[0], 1) == b"" else 7)


@case
def names(here="names"):
    """Names of sockets are looked up where the process is."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    child = spawn(here, server, client)
    say("names", child.wait(), server.getsockname(), server.recv(9))
    say("names", os.path.exists("named"))


@child_of("names")
def names_child(server, client):
    server, client = unix(server, socket.SOCK_DGRAM), unix(client, socket.SOCK_DGRAM)
    server.bind("named")
    client.connect("named")
    client.send(b"hello")


if __name__ == "__main__":
    sys.stdout.flush()
    if sys.argv[1:2] == ["child"]:
        CHILDREN[sys.argv[2]](*map(int, sys.argv[3:]))
    else:
        for name in sys.argv[1:] or CASES:
            CASES[name]()
