"""UDP over loopback between programs, each case in some lines.

A case is a parent and other programs, which inherit nothing but their standard streams:
    datagrams.py CASE...   runs the parents of these cases
    datagrams.py child     is another program
"""
import errno, os, select, socket, subprocess, sys

CASES = {}
FAMILIES = {"4": (socket.AF_INET, "127.0.0.1"), "6": (socket.AF_INET6, "::1")}
LONGEST = 65507


def case(function):
    CASES[function.__name__] = function
    return function


class Other:
    """Another program, told line by line what to do; its answers are lines, too."""

    def __init__(self):
        words = [sys.executable, os.path.abspath(__file__), "child"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        return self.process.stdout.readline().rstrip("\n")

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
        return errno.errorcode.get(error.errno, repr(error))


def ready(sock, wait=10):
    """Whether something comes within some seconds."""
    return bool(select.select([sock], [], [], wait)[0])


def udp(family):
    return socket.socket(FAMILIES[family][0], socket.SOCK_DGRAM)


def received(sock, room=100):
    """A datagram and its sender's address without the port."""
    if not ready(sock):
        return "nothing"
    found = name_of(sock.recvfrom, room)
    return found if isinstance(found, str) else (found[0], found[1][0])


def bound(family, host=None):
    """A socket that is bound, and its port."""
    sock = udp(family)
    sock.bind((FAMILIES[family][1] if host is None else host, 0))
    return sock, sock.getsockname()[1]


def child():
    """Does with sockets what the lines say."""
    socks, families = {}, {}
    for line in sys.stdin:
        word, name, *rest = line.split()
        sock = socks.get(name)
        at = lambda port: (FAMILIES[families[name]][1], int(port))
        if word == "make":
            socks[name], families[name] = udp(rest[0]), rest[0]
            say("made")
        elif word == "bind":
            say(name_of(sock.bind, at(rest[0])))
        elif word == "port":
            say(sock.getsockname()[1])
        elif word == "connect":
            say(name_of(sock.connect, at(rest[0])))
        elif word == "send":
            say(name_of(sock.send, rest[0].encode()))
        elif word == "to":
            say(name_of(sock.sendto, rest[1].encode(), at(rest[0])))
        elif word == "message":
            say(name_of(sock.sendmsg, [piece.encode() for piece in rest[1:]], [], 0, at(rest[0])))
        elif word == "bytes":
            say(name_of(sock.sendto, b"x" * int(rest[1]), at(rest[0])))
        elif word == "count":
            for number in range(int(rest[1])):
                sock.sendto(b"%d" % number, at(rest[0]))
            say("counted")
        elif word == "receive":
            say(received(sock))
        elif word == "answer":
            # Whoever sends gets it back.
            data, sender = sock.recvfrom(100)
            say(data, name_of(sock.sendto, data.upper(), sender))
        elif word == "close":
            socks.pop(name).close()
            say("closed")


@case
def udp_replies():
    """There and back, by sendto(2), sendmsg(2) and over connected sockets."""
    for family in "4", "6":
        (here, port), other = bound(family), Other()
        say(other.ask("make s", family), other.ask("to s", port, "hello"))
        data, sender = here.recvfrom(100)
        say(data, sender[0], here.sendto(b"back", sender), other.ask("receive s"))
        say(other.ask("message s", port, "two", "parts"), here.recv(100))
        say(other.ask("connect s", port), other.ask("send s again"), here.recv(100))
        say(here.sendto(b"more", sender), other.ask("receive s"))
        here.connect(sender)
        say(other.ask("send s last"), here.recv(100), here.send(b"end"), other.ask("receive s"))
        here.close()
        say(other.end())


@case
def udp_servers():
    """A server elsewhere, and several clients of one."""
    for family in "4", "6":
        servers = [Other(), Other()]
        say([server.ask("make s", family) for server in servers])
        say([server.ask("bind s 0") for server in servers])
        ports = [int(server.ask("port s")) for server in servers]
        say(ports[0] != ports[1])
        client = udp(family)
        for server, port in zip(servers, ports):
            sent = client.sendto(b"ask %d" % ports.index(port), (FAMILIES[family][1], port))
            say(sent, server.ask("answer s"))
            data, sender = client.recvfrom(100)
            say(data, sender[0], sender[1] == port)
        say([server.end() for server in servers])


@case
def udp_bound_senders():
    """A sender that is bound is known by its port."""
    for family in "4", "6":
        (here, port), other = bound(family), Other()
        say(other.ask("make s", family), other.ask("bind s 0"))
        theirs = int(other.ask("port s"))
        say(other.ask("to s", port, "x"), here.recvfrom(9)[1][1] == theirs)
        third = Other()
        say(third.ask("make t", family), third.ask("to t", theirs, "y"), other.ask("receive s"))
        say(other.end(), third.end())


@case
def udp_in_use():
    """bind(2): a port is one program's; TCP has ports of its own; who closes it leaves it."""
    for family in "4", "6":
        (here, port), other = bound(family), Other()
        say(other.ask("make s", family), other.ask("bind s", port), other.ask("bind s 0"))
        say(other.ask("make t", family), other.ask("connect t", port), other.ask("send t first"), here.recv(9))
        here.close()
        third = Other()
        say(third.ask("make r", family), third.ask("bind r", port))
        # Who was connected reaches whoever has the port.
        say(other.ask("send t second"), third.ask("receive r"), other.ask("make u", family))
        say(other.ask("to u", port, "third"), third.ask("receive r"))
        say(name_of(udp(family).bind, (FAMILIES[family][1], port)), third.end())
        say(name_of(udp(family).bind, (FAMILIES[family][1], port)), other.end())


@case
def udp_late():
    """Who sends before there is a receiver reaches it when there is."""
    for family in "4", "6":
        here, port = bound(family)
        here.close()
        here, other = udp(family), Other()
        say(name_of(here.sendto, b"nobody", (FAMILIES[family][1], port)))
        connected = udp(family)
        connected.connect((FAMILIES[family][1], port))
        say(other.ask("make s", family), other.ask("bind s", port))
        say(here.sendto(b"one", (FAMILIES[family][1], port)), other.ask("receive s"))
        say(connected.send(b"two"), other.ask("receive s"), other.end())


@case
def udp_messages():
    """Bounds of datagrams: empty ones, the longest, those cut short; their order."""
    for family in "4", "6":
        (here, port), other = bound(family), Other()
        say(other.ask("make s", family), other.ask("bytes s", port, 0), received(here))
        say(other.ask("bytes s", port, LONGEST), len(here.recv(1 << 17)))
        say(other.ask("bytes s", port, LONGEST + 21))
        say(other.ask("bytes s", port, 100), here.recvmsg(10)[:3])
        say(other.ask("bytes s", port, 100), len(here.recv(10, socket.MSG_TRUNC)), other.ask("to s", port, "y"))
        say(here.recv(9, socket.MSG_PEEK), here.recv(9), ready(here, 0))
        say(other.ask("count s", port, 50), [int(here.recv(9)) for _ in range(50)] == list(range(50)))
        here.close()
        say(other.end())


@case
def udp_refused():
    """udp(7): a connected socket learns that nobody receives."""
    for family in "4", "6":
        other = Other()
        say(other.ask("make s", family), other.ask("bind s 0"))
        port = int(other.ask("port s"))
        here = udp(family)
        here.connect((FAMILIES[family][1], port))
        say(here.send(b"hello"), other.ask("receive s"), other.ask("close s"))
        say(here.send(b"gone"), ready(here), name_of(here.recv, 9), ready(here, 0))
        say(other.ask("make s", family), other.ask("bind s", port))
        say(here.send(b"again"), other.ask("receive s"), other.end())
        say(here.send(b"gone"), ready(here), name_of(here.send, b"x"))
        # Who is not connected does not hear of it.
        free = udp(family)
        say(name_of(free.sendto, b"x", (FAMILIES[family][1], port)), ready(free, 0.2))


@case
def udp_any():
    """ip(7), ipv6(7): receivers at any address, of both families."""
    for family, host, families in ("4", "", "4"), ("6", "::", "46"):
        (here, port), other = bound(family, host), Other()
        for theirs in families:
            name = "s" + theirs
            say(other.ask("make", name, theirs), other.ask("to", name, port, "x"))
            data, sender = here.recvfrom(9)[:2]
            say(data, sender[0], here.sendto(b"back", sender), other.ask("receive", name))
        here.close()
        say(other.end())


@case
def udp_waits():
    """recv(2) that waits, with a limit and without."""
    (here, port), other = bound("4"), Other()
    here.settimeout(0.05)
    say(name_of(here.recv, 9) if not ready(here, 0) else "early")
    here.settimeout(None)
    script = "import socket, time; time.sleep(0.3); socket.socket(2, 2).sendto(b'late', ('127.0.0.1', %d))"
    late = subprocess.Popen([sys.executable, "-c", script % port])
    say(here.recv(9), late.wait(), other.end())


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        child()
    else:
        for name in sys.argv[1:] or CASES:
            CASES[name]()
