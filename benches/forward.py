#!/usr/bin/env python3
"""Compares the forward example with HAProxy in TCP mode: throughput, and processor time for a GiB and for a message.

    cargo build --profile production --example forward && benches/forward.py [ROUNDS]

Each forwarder has one thread on the first core. The load runs on the second. The forwarders take turns in every round. The
results are medians over the rounds, with the least and the most. Needs Linux with two cores, and Debian's package haproxy.
Uses only loopback. A round takes about 10 s.
"""
import os, select, shutil, socket, statistics, subprocess, sys, tempfile, threading, time

from serving import interrupt

FORWARD = "target/production/examples/forward"
GIB = 1 << 30
FORWARDER_CORE, LOAD_CORE = {0}, {1}

HAPROXY = """
global
    nbthread 1
    maxconn 2000
    {tuning}
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    {options}
listen forward
    bind 127.0.0.1:{port}
    server target 127.0.0.1:{target}
"""
SPLICE = "option splice-request\n    option splice-response"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def accepts(addr):
    """Tells if a server accepts connections."""
    try:
        socket.create_connection(addr).close()
        return True
    except ConnectionRefusedError:
        return False


class Forwarder:
    """A running forwarder, pinned to its core."""

    def __init__(self, command, port, directory=None, core=FORWARDER_CORE, answers=accepts):
        self.directory = directory
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, core),
        )
        self.addr = ("127.0.0.1", port)
        for _ in range(1200):
            if answers(self.addr):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        sys.exit(f"{command} does not listen")

    def cpu(self):
        """Returns the processor time of the process and its children in seconds, with that of threads that have ended."""
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            pids = [pid, *map(int, children.read().split())]
        # The kernel's number for the clock of another process: clock_getcpuclockid(3).
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)

    def stop(self):
        interrupt(self.process.pid)
        self.process.wait(30)
        if self.directory:
            self.directory.cleanup()


def epicycle(target):
    port = free_port()
    listen, to = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{target}"
    return Forwarder([FORWARD, "--listen", listen, "--to", to, "--reactors", "1"], port)


def haproxy(options="", tuning=""):
    def start(target):
        port = free_port()
        directory = tempfile.TemporaryDirectory()
        path = os.path.join(directory.name, "haproxy.cfg")
        with open(path, "w") as config:
            config.write(HAPROXY.format(options=options, tuning=tuning, port=port, target=target))
        return Forwarder([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", path], port, directory)
    return start


FORWARDERS = {
    "forward": epicycle,
    "haproxy": haproxy(),
    "haproxy, splice": haproxy(SPLICE),
    "haproxy, splice, 1 MiB pipes": haproxy(SPLICE, "tune.pipesize 1048576"),
}


def connected(listener, addr):
    """Returns both ends of a connection through the forwarder."""
    near = socket.create_connection(addr)
    far = listener.accept()[0]
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def drop_probe(listener):
    """Closes the connection that tested if the forwarder listens, once it has reached the target."""
    listener.settimeout(0.3)
    try:
        while True:
            listener.accept()[0].close()
    except TimeoutError:
        listener.settimeout(10)


def bulk(listener, addr, streams, total, connect=connected):
    """Sends `total` bytes over `streams` connections at once. The other end discards them."""
    pairs = [connect(listener, addr) for _ in range(streams)]
    share = total // streams
    block = bytes(1 << 20)

    def send(near):
        left = share
        while left > 0:
            left -= near.send(block[:min(left, len(block))])
        near.shutdown(socket.SHUT_WR)

    threads = [threading.Thread(target=send, args=[near]) for near, _ in pairs]
    for thread in threads:
        thread.start()
    into = bytearray(1 << 20)
    open_ends = {far.fileno(): far for _, far in pairs}
    received = 0
    while open_ends:
        for ready in select.select(open_ends, [], [])[0]:
            # The kernel drops the bytes without copying them, so that the load takes little time.
            n = open_ends[ready].recv_into(into, len(into), socket.MSG_TRUNC)
            received += n
            if n == 0:
                del open_ends[ready]
    for thread in threads:
        thread.join()
    for near, far in pairs:
        near.close()
        far.close()
    assert received == share * streams, f"{received} bytes arrived"
    return received / GIB


def ping_pong(listener, addr, connections, total, connect=connected):
    """Sends messages of 64 bytes back and forth, one under way on each connection."""
    pairs = [connect(listener, addr) for _ in range(connections)]
    poll = select.epoll()
    ends = {}
    for near, far in pairs:
        for end in (near, far):
            ends[end.fileno()] = end
            poll.register(end, select.EPOLLIN)
    for near, _ in pairs:
        near.send(bytes(64))
    left = total
    while left > 0:
        for ready, _ in poll.poll():
            ends[ready].send(ends[ready].recv(4096))
            left -= 1
    for near, far in pairs:
        near.close()
        far.close()
    return total / 1e6


def visits(listener, addr, count):
    """Connects, sends a message there and back, and closes, `count` times."""
    for _ in range(count):
        near, far = connected(listener, addr)
        near.send(bytes(64))
        far.send(far.recv(4096))
        near.recv(4096)
        near.close()
        far.recv(4096)
        far.close()
    return count / 1e3


LOADS = {
    "1 stream": ("GiB", lambda listener, addr: bulk(listener, addr, 1, GIB)),
    "16 streams": ("GiB", lambda listener, addr: bulk(listener, addr, 16, GIB)),
    "50 connections, 64 B to and fro": ("million messages", lambda listener, addr: ping_pong(listener, addr, 50, 20_000)),
    "connect, 64 B there and back, close": ("thousand connections", lambda listener, addr: visits(listener, addr, 1_000)),
}


def measure(forwarder, run):
    """Returns the amount that a load moves in a second, and the forwarder's processor time for a unit of it."""
    cpu, begin = forwarder.cpu(), time.monotonic()
    amount = run()
    took = time.monotonic() - begin
    # The forwarder still closes connections, which counts too.
    time.sleep(0.05)
    return amount / took, (forwarder.cpu() - cpu) / amount


def main():
    if not os.path.exists(FORWARD):
        sys.exit(f"{FORWARD} is missing; build it: cargo build --profile production --example forward")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.sched_setaffinity(0, LOAD_CORE)
    results = {(load, name): [] for load in LOADS for name in FORWARDERS}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        target = listener.getsockname()[1]
        for turn in range(rounds):
            for name, start in sorted(FORWARDERS.items(), key=lambda _: os.urandom(4)):
                forwarder = start(target)
                try:
                    drop_probe(listener)
                    for load, (_, run) in LOADS.items():
                        results[load, name].append(measure(forwarder, lambda: run(listener, forwarder.addr)))
                finally:
                    forwarder.stop()
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    for load, (unit, _) in LOADS.items():
        print(f"\n{load}: {unit} a second, and seconds of processor time a {unit}")
        for name in FORWARDERS:
            rates, costs = zip(*results[load, name])
            shown = [f"{statistics.median(of):8.3f} ({min(of):.3f} to {max(of):.3f})" for of in (rates, costs)]
            print(f"  {name:30} {shown[0]:28} {shown[1]}")


if __name__ == "__main__":
    main()
