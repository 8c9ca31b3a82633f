"""Threads, children, sockets, a timer, files and arithmetic; prints the same in each run."""
import asyncio, hashlib, os, queue, random, select, signal, socket, subprocess, sys, tempfile, threading, time

def threads():
    tasks, results = queue.Queue(), queue.Queue()
    def work():
        while (number := tasks.get()) is not None:
            digest = b""
            for _ in range(2000):
                digest = hashlib.sha256(digest + bytes([number])).digest()
            results.put((number, digest.hex()[:12]))
            time.sleep(0.005)
    team = [threading.Thread(target=work) for _ in range(4)]
    for thread in team: thread.start()
    for number in range(60): tasks.put(number)
    for _ in team: tasks.put(None)
    for thread in team: thread.join()
    return hashlib.sha256(repr(sorted(results.queue)).encode()).hexdigest()[:16]

def children():
    said = []
    for number in range(6):
        done = subprocess.run(["sh", "-c", f"read x; echo $x $x; sleep 0.05; exit {number}"],
                              input=f"child {number}\n", capture_output=True, text=True)
        said.append((done.stdout.strip(), done.returncode))
    with subprocess.Popen(["sort", "-n"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sort:
        out, _ = sort.communicate("".join(f"{n * 7 % 101}\n" for n in range(101)))
    return said, out.split() == [str(n) for n in range(101)]

def echo_server(listener, rounds):
    connection, _ = listener.accept()
    with connection:
        for _ in range(rounds):
            data = b""
            while len(data) < 3000: data += connection.recv(3000 - len(data))
            connection.sendall(data[::-1])

def sockets():
    rounds, good = 120, 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=echo_server, args=(listener, rounds))
        server.start()
        with socket.create_connection(listener.getsockname()) as client:
            for number in range(rounds):
                message = random.Random(number).randbytes(3000)
                client.sendall(message)
                answer = b""
                while len(answer) < 3000: answer += client.recv(3000 - len(answer))
                good += answer == message[::-1]
                time.sleep(0.004)
        server.join()
    return good

def timer():
    ticks = []
    signal.signal(signal.SIGALRM, lambda *_: ticks.append(time.monotonic()))
    begun = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    while len(ticks) < 25: time.sleep(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0)
    # One handler may interrupt another: only the last is sure to be the latest.
    return max(ticks) - begun >= 0.02 * 25 - 0.002

def sleeps():
    short = 0
    for _ in range(10):
        begun = time.monotonic()
        time.sleep(0.03)
        select.select([], [], [], 0.02)
        short += time.monotonic() - begun < 0.05
    return short

def files():
    with tempfile.TemporaryFile(dir=".") as file, open("notes", "w+b", buffering=0) as notes:
        for number in range(300):
            file.write(number.to_bytes(4, "big") * 100)
            notes.write(b"%d\n" % number)
            assert notes.tell() == notes.seek(0, os.SEEK_CUR)
            time.sleep(0.001)
        file.seek(0)
        notes.seek(0)
        return hashlib.sha256(file.read() + notes.read()).hexdigest()[:16]

async def together():
    async def one(number):
        process = await asyncio.create_subprocess_exec("echo", str(number), stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        await asyncio.sleep(0.05)
        return int(out)
    return sum(await asyncio.gather(*(one(number) for number in range(8))))

def heap():
    blocks = [random.Random(number).randbytes(1 << 16) for number in range(200)]
    before = [hashlib.sha256(block).digest() for block in blocks]
    for number, block in enumerate(blocks):
        if hashlib.sha256(block).digest() != before[number]: return number
        time.sleep(0.002)
    return "whole"

pid = os.getpid()
for part in (threads, children, sockets, timer, sleeps, files, heap):
    if part.__name__ in sys.argv[1:]: continue  # left out
    print(part.__name__, part(), flush=True)
print("asyncio", asyncio.run(together()), flush=True)
print("same", os.getpid() == pid, len(os.listdir("/proc/self/fd")) <= 8)
sys.exit(3)
