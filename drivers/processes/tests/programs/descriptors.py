"""A process with descriptors of every kind, which works through them each time it is asked.

Its test moves it from node to node between the questions and while its threads wait: what one thread
writes another reads, each byte once and in order, wherever the objects are by then.
"""
import ctypes, fcntl, hashlib, os, select, signal, socket, struct, sys, tempfile, threading, time, traceback

LIBC = ctypes.CDLL(None)


class Waiter:
    """A thread that waits in calls on one kind of object, and is given work."""

    def __init__(self, name, give, take):
        self.name, self.give, self.take = name, give, take
        self.answers = []
        self.arrived = threading.Semaphore(0)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        try:
            while True:
                self.answers.append(self.take())
                self.arrived.release()
        except BaseException as error:
            self.answers.append(repr(error))
            self.arrived.release()

    def check(self, number):
        wanted = self.give(number)
        assert self.arrived.acquire(timeout=20), f"{self.name} waits"
        found = self.answers.pop(0)
        assert found == wanted, f"{self.name}: {found!r} instead of {wanted!r}"


def pipe():
    read, write = os.pipe()

    def give(number):
        os.write(write, b"%d" % number)
        return b"%d" % number

    return Waiter("pipe", give, lambda: os.read(read, 100))


def packets():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def give(number):
        ours.sendmsg([b"<", b"%d" % number, b">"])
        return b"<%d>" % number

    return Waiter("packets", give, lambda: theirs.recv(100))


def datagrams():
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    theirs.connect(ours.getsockname())

    def give(number):
        theirs.send(b"%d" % number)
        return (b"%d" % number, theirs.getsockname())

    return Waiter("datagrams", give, lambda: ours.recvfrom(100))


def connections():
    server = socket.create_server(("127.0.0.1", 0))
    connected = []

    def take():
        connection, address = server.accept()
        data = connection.recv(6, socket.MSG_WAITALL)
        connection.sendall(data[::-1])
        connection.close()
        return data, address

    def give(number):
        client = socket.create_connection(server.getsockname())
        address = client.getsockname()
        client.sendall(b"%03d" % number)
        client.sendall(b"end")
        connected.append(client)
        wanted = b"%03dend" % number
        back = b""
        while part := client.recv(100):
            back += part
        assert back == wanted[::-1], back
        client.close()
        return wanted, address

    return Waiter("connections", give, take)


def events():
    count = os.eventfd(0)

    def give(number):
        os.eventfd_write(count, number + 1)
        return number + 1

    return Waiter("events", give, lambda: os.eventfd_read(count))


def sets():
    """An epoll set that watches two kinds of objects, filled long before the moves."""
    members = select.epoll()
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    members.register(read, select.EPOLLIN)
    members.register(theirs, select.EPOLLIN)

    def take():
        found = members.poll()
        data = b"".join(os.read(fd, 100) for fd, _ in found)
        return [fd for fd, _ in found], data

    def give(number):
        fd, send = [(read, lambda data: os.write(write, data)), (theirs.fileno(), ours.send)][number % 2]
        send(b"%d" % number)
        return [fd], b"%d" % number

    waiter = Waiter("sets", give, take)
    waiter.keep = (ours, theirs)
    return waiter


def polls():
    read, write = os.pipe()
    count = os.eventfd(0, os.EFD_NONBLOCK)
    waiting = select.poll()
    waiting.register(read, select.POLLIN)
    waiting.register(count, select.POLLIN)

    def take():
        found = waiting.poll(60000)
        for fd, _ in found:
            os.read(fd, 100)
        return found

    def give(number):
        if number % 2:
            os.eventfd_write(count, 1)
            return [(count, select.POLLIN)]
        os.write(write, b"x")
        return [(read, select.POLLIN)]

    return Waiter("polls", give, take)


def terminal():
    leader, follower = os.openpty()

    def give(number):
        os.write(leader, b"%d\n" % number)
        return b"%d\n" % number

    return Waiter("terminal", give, lambda: os.read(follower, 100))


WAITERS = [pipe, packets, datagrams, connections, events, sets, polls, terminal]


class Stream:
    """A thread that writes and one that reads without a pause, from the first to the last question."""

    def __init__(self, read, write):
        self.sums = [hashlib.sha256(), hashlib.sha256()]
        self.counts = [0, 0]
        self.is_over = False
        self.threads = [
            threading.Thread(target=self.write, args=(write,)),
            threading.Thread(target=self.read, args=(read,)),
        ]
        for thread in self.threads:
            thread.start()

    def write(self, end):
        size = 1
        while not self.is_over:
            data = os.urandom(size)
            self.sums[0].update(data)
            self.counts[0] += size
            sent = end.send(data) if isinstance(end, socket.socket) else os.write(end, data)
            assert sent == size, (sent, size)
            size = size * 7 % 65521 + 1
            time.sleep(0.001)
        end.close() if isinstance(end, socket.socket) else os.close(end)

    def read(self, end):
        while data := end.recv(9999) if isinstance(end, socket.socket) else os.read(end, 9999):
            self.sums[1].update(data)
            self.counts[1] += len(data)

    def finish(self):
        self.is_over = True
        for thread in self.threads:
            thread.join(60)
        assert self.counts[0] == self.counts[1], self.counts
        assert self.sums[0].digest() == self.sums[1].digest()
        assert self.counts[0] > 0


def kept():
    """What only has to be there still."""
    file = tempfile.TemporaryFile()
    timer = LIBC.timerfd_create(1, 0)
    signals = LIBC.signalfd(-1, struct.pack("Q", 1 << signal.SIGUSR1 - 1), os.O_NONBLOCK)
    memory = os.memfd_create("kept")
    os.write(memory, b"memory")
    kept_open = os.open("/etc/passwd", os.O_RDONLY)
    first = os.read(kept_open, 10)
    far = fcntl.fcntl(memory, fcntl.F_DUPFD_CLOEXEC, 800)

    def check(number):
        os.write(file.fileno(), b"%03d" % number)
        assert os.pread(file.fileno(), 3, 3 * number) == b"%03d" % number
        assert os.fstat(file.fileno()).st_size == 3 * (number + 1)
        assert LIBC.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 30_000_000), None) == 0
        assert os.read(timer, 8) == struct.pack("Q", 1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert os.read(signals, 128)[:4] == struct.pack("I", signal.SIGUSR1)
        assert os.pread(far, 6, 0) == b"memory"
        assert fcntl.fcntl(far, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        assert fcntl.fcntl(memory, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        assert not os.get_inheritable(kept_open)
        assert os.lseek(kept_open, 0, os.SEEK_CUR) == 10
        assert os.pread(kept_open, 10, 0) == first

    return check


def main():
    # Before there are threads that could take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    waiters = [waiter() for waiter in WAITERS]
    check_kept = kept()
    ours, theirs = socket.socketpair()
    streams = [Stream(*os.pipe()), Stream(theirs, ours)]
    for number, line in enumerate(sys.stdin):
        try:
            if line.strip() == "end":
                for stream in streams:
                    stream.finish()
            else:
                check_kept(number)
                for waiter in waiters:
                    waiter.check(number)
            print("fine", number, flush=True)
        except BaseException:
            print(traceback.format_exc().replace("\n", " | "), flush=True)
            os._exit(1)


main()
