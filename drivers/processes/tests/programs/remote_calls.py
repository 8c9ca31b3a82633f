"""Calls on descriptors whose objects are of another node.

Without arguments, or with --check and names: the parent, which makes the objects. With others: its
child, which the fabric executes at another node, so that each of its calls on an inherited descriptor
runs at the parent's.
Every check names what it goes by; run without a fabric, everything must hold too.
"""
import array, ctypes, errno, fcntl, os, select, signal, socket, struct, subprocess, sys, tempfile, termios, threading, time

CHECKS = {}


def check(parent):
    CHECKS[parent.__name__] = parent
    return parent


def start(name, fds, **options):
    numbers = [str(fd) for fd in fds]
    return subprocess.Popen([sys.executable, __file__, name, *numbers], pass_fds=fds, **options)


def ended(child):
    assert child.wait(timeout=60) == 0, child.returncode


def fails(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, errno.errorcode[error.errno]
        return
    raise AssertionError("it succeeded")


def listening():
    server = socket.socket(socket.AF_UNIX)
    server.bind("")
    server.listen(5)
    return server


def connected(server):
    client = socket.socket(socket.AF_UNIX)
    client.connect(server.getsockname())
    return client


def is_nonblocking(fd):
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK != 0


# accept(2), shutdown(2), getpeername(2), send(2) EPIPE, signal(7) SIGPIPE

@check
def listener():
    server = listening()
    client = connected(server)
    child = start("listener", [server.fileno()])
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""
    client.close()
    connected(server).close()
    ended(child)


def listener_away(fd):
    server = socket.socket(fileno=fd)
    assert server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert server.type == socket.SOCK_STREAM
    name = server.getsockname()
    assert len(name) == 6 and name[0:1] == b"\0", name
    connection, _ = server.accept()
    assert connection.getsockname() == name
    assert connection.recv(4, socket.MSG_PEEK) == b"ques"
    assert connection.recv(8, socket.MSG_WAITALL) == b"question"
    assert connection.recv(100) == b""
    connection.sendall(b"answer")
    connection.shutdown(socket.SHUT_WR)
    fails(errno.EPIPE, connection.send, b"more")
    gone, _ = server.accept()
    hang_ups = select.poll()
    hang_ups.register(gone, 0)
    assert hang_ups.poll(10000) == [(gone.fileno(), select.POLLHUP)]
    signal.signal(signal.SIGPIPE, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    fails(errno.EPIPE, gone.send, b"x", socket.MSG_NOSIGNAL)
    assert signal.sigpending() == set()
    fails(errno.EPIPE, os.write, gone.fileno(), b"x")
    assert signal.sigpending() == {signal.SIGPIPE}
    assert signal.sigwait({signal.SIGPIPE}) == signal.SIGPIPE


# socket(7) options, accept(2), ip(7): an Internet connection, with its addresses

@check
def internet():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    child = start("internet", [server.fileno()])
    address = client.recv(100).decode()
    assert address == "%s:%d" % client.getsockname(), address
    assert client.recv(100) == b""
    ended(child)


def internet_away(fd):
    server = socket.socket(fileno=fd)
    connection, peer = server.accept()
    assert connection.getpeername() == peer
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    connection.settimeout(0.05)
    try:
        connection.recv(1)
        raise AssertionError("nothing was sent")
    except TimeoutError:
        pass
    connection.sendall(("%s:%d" % peer).encode())


# fcntl(2) F_SETFL, ioctl(2) FIONBIO: the mode belongs to the open file description

@check
def nonblocking():
    server = listening()
    child = start("nonblocking", [server.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.read(1) == b"1"
    assert is_nonblocking(server.fileno())
    server.setblocking(True)
    child.stdin.close()
    ended(child)
    assert is_nonblocking(server.fileno())


def nonblocking_away(fd):
    server = socket.socket(fileno=fd)
    assert not is_nonblocking(fd)
    server.setblocking(False)
    fails(errno.EAGAIN, server.accept)
    os.write(1, b"1")
    os.read(0, 1)
    assert not is_nonblocking(fd)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    fails(errno.EAGAIN, server.accept)


# recv(2) MSG_TRUNC, sendmsg(2), unix(7): messages keep their bounds and their order

@check
def messages():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.send(b"first message")
    ours.send(b"")
    child = start("messages", [theirs.fileno()], stdin=subprocess.PIPE)
    theirs.close()
    assert ours.recv(100) == b"onetwothree"
    for number in range(100):
        ours.send(b"%d" % number)
        assert ours.recv(100) == b"<%d>" % number
    assert ours.recv(100) == b"end"
    ours.close()
    child.stdin.close()
    ended(child)


def messages_away(fd):
    away = socket.socket(fileno=fd)
    waiting = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, waiting)
    assert waiting[0] == 13, waiting
    data, _, flags, _ = away.recvmsg(5)
    assert data == b"first" and flags & socket.MSG_TRUNC
    assert away.recv(100) == b""
    assert away.sendmsg([b"one", b"two", b"three"]) == 11
    for number in range(100):
        parts = [bytearray(1), bytearray(100)]
        count = away.recvmsg_into(parts)[0]
        away.send(b"<" + bytes(parts[0]) + bytes(parts[1][: count - 1]) + b">")
    away.send(b"end")
    os.read(0, 1)
    fails(errno.ECONNREFUSED, away.send, b"x")


# read(2), write(2): megabytes in both directions, each byte once and in order

@check
def bulk():
    server = listening()
    client = connected(server)
    child = start("bulk", [server.fileno()])
    data = bytes(number * 7 % 251 for number in range(3_000_000))
    writer = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
    writer.start()
    back = bytearray()
    while part := client.recv(1 << 20):
        back += part
    writer.join()
    assert back == data[::-1]
    ended(child)


def bulk_away(fd):
    connection, _ = socket.socket(fileno=fd).accept()
    data = bytearray()
    while part := os.read(connection.fileno(), 1 << 20):
        data += part
    data.reverse()
    view = memoryview(data)
    middle = len(data) // 3
    sent = os.writev(connection.fileno(), [view[:middle], view[middle:]])
    assert sent == len(data), (sent, len(data))


# poll(2), select(2), epoll(7): members of both nodes in one set

@check
def readiness():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    count = os.eventfd(0)
    child = start(
        "readiness", [theirs.fileno(), count], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    theirs.close()
    for word in iter(lambda: child.stdout.readline().strip(), b""):
        if word == b"packet":
            ours.send(b"packet")
        elif word == b"event":
            os.eventfd_write(count, 3)
        elif word == b"pipe":
            child.stdin.write(b"pipe")
            child.stdin.flush()
        elif word == b"take":
            assert ours.recv(100) == b"x" * 50
        elif word == b"close":
            ours.close()
    ended(child)


def readiness_away(fd, count):
    away = socket.socket(fileno=fd)

    def ask(word):
        os.write(1, word + b"\n")

    members = select.poll()
    for member in (fd, count, 0):
        members.register(member, select.POLLIN)
    begun = time.monotonic()
    assert members.poll(60) == []
    assert select.select([fd, count, 0], [], [], 0.06) == ([], [], [])
    assert time.monotonic() - begun >= 0.12
    ask(b"packet")
    assert members.poll(10000) == [(fd, select.POLLIN)]
    assert members.poll() == [(fd, select.POLLIN)]
    assert select.select([fd, 0], [fd], [], 5) == ([fd], [fd], [])
    assert away.recv(100) == b"packet"
    assert members.poll(0) == []
    ask(b"event")
    assert members.poll(10000) == [(count, select.POLLIN)]
    assert os.eventfd_read(count) == 3
    ask(b"pipe")
    assert members.poll(10000) == [(0, select.POLLIN)]
    assert os.read(0, 100) == b"pipe"
    # Each of a set's kinds of events: level, edge, once.
    with select.epoll() as level, select.epoll() as edge:
        level.register(fd, select.EPOLLIN)
        level.register(count, select.EPOLLIN)
        edge.register(fd, select.EPOLLIN | select.EPOLLET)
        level.register(0, select.EPOLLIN)
        assert level.poll(0.05) == []
        assert edge.poll(0) == []
        for _ in range(3):
            ask(b"packet")
            assert level.poll(10) == [(fd, select.EPOLLIN)]
            assert edge.poll(10) == [(fd, select.EPOLLIN)]
            assert edge.poll(0) == []
            assert away.recv(100) == b"packet"
            assert level.poll(0) == []
        level.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
        ask(b"packet")
        assert level.poll(10) == [(fd, select.EPOLLIN)]
        assert level.poll(0) == []
        away.recv(100)
    # A full queue is not writable, until somebody takes from it.
    away.setblocking(False)
    away.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    sent = 0
    try:
        while True:
            away.send(b"x" * 50)
            sent += 1
    except BlockingIOError:
        pass
    room = select.poll()
    room.register(fd, select.POLLOUT)
    assert room.poll(0) == []
    for _ in range(sent):
        ask(b"take")
    assert room.poll(10000) == [(fd, select.POLLOUT)]
    ask(b"close")
    members.unregister(0)
    found = dict(members.poll(10000))
    assert found[fd] & select.POLLHUP, found
    assert away.recv(100) == b""


# eventfd(2), timerfd_create(2): read blocks until there is something

@check
def counters():
    libc = ctypes.CDLL(None)
    timer = libc.timerfd_create(1, 0)
    count = os.eventfd(1)
    child = start("counters", [timer, count], stdout=subprocess.PIPE)
    assert child.stdout.read(1) == b"1"
    os.eventfd_write(count, 5)
    ended(child)
    spec = (ctypes.c_long * 4)()
    libc.timerfd_gettime(timer, spec)
    assert list(spec)[:2] == [3600, 0] and 3590 <= spec[2] <= 3600, list(spec)


def counters_away(timer, count):
    libc = ctypes.CDLL(None)
    assert os.eventfd_read(count) == 1
    os.write(1, b"1")
    assert os.eventfd_read(count) == 5
    assert libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 20_000_000, 0, 10_000_000), None) == 0
    ticks = sum(struct.unpack("Q", os.read(timer, 8))[0] for _ in range(3))
    assert ticks >= 3, ticks
    old = (ctypes.c_long * 4)()
    assert libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(3600, 0, 3600, 0), old) == 0
    assert list(old)[:2] == [0, 20_000_000], list(old)


# signal(7): a signal ends a call that waits, which then has had no effect; SA_RESTART makes it anew

@check
def interrupted():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = start("interrupted", [theirs.fileno()], stdout=subprocess.PIPE)
    theirs.close()
    for number in range(3):
        assert child.stdout.read(1) == b"s"
        ours.send(b"%d" % number)
    ended(child)


def interrupted_away(fd):
    class Interrupted(Exception):
        pass

    def handler(*_):
        # With SA_RESTART python runs this only after the call.
        if not restarts:
            os.write(1, b"s")
            raise Interrupted

    signal.signal(signal.SIGALRM, handler)
    for number, restarts in enumerate([False, True, False]):
        signal.siginterrupt(signal.SIGALRM, not restarts)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        if restarts:
            threading.Timer(0.2, os.write, (1, b"s")).start()
        try:
            data = os.read(fd, 100)
            assert restarts
        except Interrupted:
            assert not restarts
            data = os.read(fd, 100)
        assert data == b"%d" % number, data


# unlink(2): a file without a name lives on; lseek(2): its offset is shared; pread(2), ftruncate(2)

@check
def nameless():
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        os.write(fd, b"0123456789")
        os.lseek(fd, 2, os.SEEK_SET)
        child = start("nameless", [fd])
        ended(child)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 8
        assert os.pread(fd, 100, 0) == b"0123ab67X9\0\0"


def nameless_away(fd):
    assert os.fstat(fd).st_nlink == 0 and os.fstat(fd).st_size == 10
    assert os.read(fd, 2) == b"23"
    assert os.write(fd, b"ab") == 2
    assert os.pread(fd, 3, 5) == b"b67"
    assert os.preadv(fd, [bytearray(2), bytearray(2)], 0) == 4
    assert os.pwrite(fd, b"X", 8) == 1
    os.ftruncate(fd, 12)
    os.fsync(fd)
    assert os.fstatvfs(fd).f_namemax > 0
    assert os.lseek(fd, 2, os.SEEK_CUR) == 8


# sendfile(2) and copying between descriptors of both nodes

@check
def sent_files():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = start("sent_files", [theirs.fileno()])
    theirs.close()
    data = b""
    while part := ours.recv(1 << 20):
        data += part
    assert data == b"y" * 20000 + b"z", len(data)
    ended(child)


def sent_files_away(fd):
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 100 + b"y" * 20000)
        file.flush()
        assert os.sendfile(fd, file.fileno(), 100, 100000) == 20000
        os.lseek(file.fileno(), 0, os.SEEK_SET)
    os.write(fd, b"z")


# dup(2), close(2), fork(2), close_range(2): the object is closed with its last descriptor

@check
def duplicates():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = start("duplicates", [theirs.fileno()], stdin=subprocess.PIPE)
    theirs.close()
    assert ours.recv(100) == b"duplicate"
    assert ours.recv(100) == b"grandchild"
    ours.settimeout(0.1)
    try:
        ours.recv(100)
        raise AssertionError("the grandchild has it still")
    except TimeoutError:
        pass
    ours.settimeout(None)
    child.stdin.close()
    assert ours.recv(100) == b""
    ended(child)


def duplicates_away(fd):
    copy = os.dup(fd)
    os.close(fd)
    os.write(copy, b"duplicate")
    high = fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, 900)
    os.dup2(high, 77)
    os.closerange(copy, 76)
    os.close(high)
    child = os.fork()
    if child == 0:
        os.write(77, b"grandchild")
        os.read(0, 1)
        os._exit(0)
    os.close(77)
    fails(errno.EBADF, os.write, 77, b"x")
    assert os.waitpid(child, 0)[1] == 0


# execve(2): descriptors without FD_CLOEXEC go along, on this node and back to their home

@check
def executed():
    with tempfile.TemporaryFile() as file:
        child = start("executed", [file.fileno()])
        ended(child)
        lines = os.pread(file.fileno(), 100, 0)
        assert lines == b"here\nback\n", lines


def executed_away(fd):
    subprocess.run(["sh", "-c", "echo here >&%d" % fd], pass_fds=[fd], check=True)
    # sort is of the other node, where the file is.
    subprocess.run(["sort"], input=b"back\n", stdout=fd, check=True)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 10
    copy = os.dup(fd)
    os.set_inheritable(copy, False)
    subprocess.run(["sh", "-c", "! echo x >&%d" % copy], close_fds=False, stderr=subprocess.DEVNULL)


# pty(7): a master and its terminal

@check
def master():
    leader, terminal = os.openpty()
    child = start("master", [leader])
    assert os.read(terminal, 100) == b"typed\n"
    os.write(terminal, b"shown\n")
    ended(child)


def master_away(fd):
    os.write(fd, b"typed\n")
    data = b""
    while len(data) < 14:
        data += os.read(fd, 100)
    assert data == b"typed\r\nshown\r\n", data


def main():
    if len(sys.argv) > 1 and sys.argv[1] != "--check":
        globals()[sys.argv[1] + "_away"](*map(int, sys.argv[2:]))
        return
    for name in sys.argv[2:] or CHECKS:
        CHECKS[name]()
        print(name, flush=True)


main()
