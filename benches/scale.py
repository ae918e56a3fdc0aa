#!/usr/bin/env python3
"""Measures the cost of very many idle connections: their memory, and their effect on a few active ones.

    cargo build --profile production --features cli --bin epicycle --example echo --example http
    benches/scale.py [CONNECTIONS] [--write]

Opens CONNECTIONS (100,000) to the example echo, and then to the example http, whose idle timeout is a timer for each. One
message goes there and back on each connection. Then they idle. Every hundredth is closed, and a connection of the example
load takes its slot: these are the active ones. They are measured in a closed loop, with one message under way on each, and
in an open loop at a constant rate. The same load also runs on servers without other connections, by turns. At the end all
connections are closed. Callgrind counts the instructions for a message beside more and more idle connections.

A process has a limit on descriptors (ulimit -Hn), so the connections are spread over several servers, which share a port by
--reuseport, and over several client processes, at addresses of 127.0.0.0/8. The servers run on the first core, the load on
the others. Needs Linux with two cores, 12 KB of memory for each connection, and valgrind. Uses only loopback, and ends within
about three minutes. With --write the tables go into docs/benchmarks.md. Do not build with all features: the feature testing
makes a connection larger.
"""
import argparse, contextlib, datetime, json, math, multiprocessing, os, platform, re, resource, shutil, signal
import socket, statistics, subprocess, sys, tempfile, time

import count
from serving import EXAMPLES, Server, read, slab

PROGRAM = "target/production/epicycle"
from sides.machine import Watch
from sides.report import fill

# The message, the example, its scheme for the load generator, and the number of rounds. There are fewer rounds where the idle
# connections would time out.
KINDS = {
    "echo": (count.MESSAGE, "echo", "tcp", 5),
    "HTTP/1.1, a timer each": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "http", "http", 3),
}
# The number of messages in a second on each active connection. None for a closed loop.
LOADS = {"closed loop": None, "open loop": 10}
# The duration of a load, and of the idle phase.
SECONDS, IDLE_SECONDS = 1.5, 4
# One in this number of connections becomes active.
ONE_IN = 100
# The numbers of idle connections while instructions are counted.
BESIDE = (0, 1_000, 18_000)
# Few and many messages. Other work of the server drops out of the difference.
MESSAGES = (6_400, 32_000)

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES, LOAD_CORES = set(CORES[:1]), set(CORES[1:] or CORES)
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
# The descriptors that a process needs for itself.
RESERVED = 200

IP_BIND_ADDRESS_NO_PORT = 24
# Less than half of the ports of an address. With more, the kernel would have to search for a free port.
PER_ADDRESS = 10_000
# The number of a client's connections that may wait in the servers' backlogs at a time.
AT_ONCE = 50
FORK = multiprocessing.get_context("fork")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("connections", nargs="?", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    flags = parser.parse_args()
    check(flags.connections)
    # An exception ends all processes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    watched = Watch()
    measured = {kind: measure(kind, flags.connections) for kind in KINDS}
    beside = [n for n in BESIDE if n <= flags.connections and n + RESERVED <= DESCRIPTORS]
    counted = {kind: [instructions(kind, idle) for idle in beside] for kind in KINDS}
    text = "\n".join([*as_markdown(flags.connections, measured, watched), "", *counts_as_markdown(beside, counted)])
    print(text)
    if flags.write:
        fill({"scale": text})


def check(connections):
    for program in (EXAMPLES + "echo", EXAMPLES + "http", PROGRAM):
        if not os.path.exists(program):
            sys.exit(f"{program} is missing; how to build it:\n{__doc__}")
    if not shutil.which("vgdb"):
        sys.exit("valgrind is missing: apt-get install valgrind")
    possible = int(re.search(r"MemAvailable:\s+(\d+)", read("/proc/meminfo"))[1]) * 1024 // 12_000
    if not 1_000 <= connections <= possible:
        sys.exit(f"1,000 to {possible:,} connections are possible here")


class Servers:
    """The processes of an example that the connections need, on one port."""

    def __init__(self, stack, example, connections):
        def suffice(processes):
            # The kernel distributes connections by a hash, so shares differ, but not by six standard deviations.
            share = connections / processes
            return share + 6 * math.sqrt(share) * (processes > 1) + RESERVED <= DESCRIPTORS

        self.all, port = [], 0
        for _ in range(next(filter(suffice, range(1, connections)))):
            listen = ["--addr", f"tcp4://127.0.0.1:{port}", "--reactors", "1", "--reuseport"]
            server = Server(example, *listen, cores=SERVER_CORES)
            stack.callback(server.stop)
            self.all.append(server)
            self.addr, port = server.addr, server.port

    def resident(self):
        return sum(server.resident() for server in self.all)

    def descriptors(self):
        return [server.descriptors() for server in self.all]

    def used(self):
        """Returns the seconds of processor time, and the number of times that threads have gone to sleep."""
        return tuple(map(sum, zip(*(server.used() for server in self.all))))


class Clients:
    """Client processes. Each holds a share of the connections and executes orders."""

    def __init__(self, stack, addr, message, connections):
        processes = -(-connections // (DESCRIPTORS - RESERVED))
        self.pipes = []
        for n in range(processes):
            ours, theirs = FORK.Pipe()
            self.pipes.append(ours)
            share = range(n * connections // processes, (n + 1) * connections // processes)
            process = FORK.Process(target=hold, args=(theirs, list(self.pipes), addr, message, share))
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(process.terminate)

    def all(self, order):
        """Sends an order to each process. Returns the number of connections concerned."""
        for pipe in self.pipes:
            pipe.send(order)
        answers = [pipe.recv() for pipe in self.pipes]
        for failure in (answer for answer in answers if isinstance(answer, str)):
            sys.exit(f"clients fail to {order}: {failure}")
        return sum(answers)


def hold(orders, not_mine, addr, message, share):
    """The main function of a client process. It ends when the pipe for orders is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for pipe in not_mine:
        pipe.close()
    held = {}
    with contextlib.suppress(EOFError):
        while True:
            order = orders.recv()
            try:
                if order == "open":
                    for first in share[::AT_ONCE]:
                        held |= open_some(addr, message, range(first, min(first + AT_ONCE, share.stop)))
                    orders.send(len(held))
                else:
                    leaving = [n for n in held if order == "close" or n % ONE_IN == 0]
                    for number in leaving:
                        os.close(held.pop(number))
                    orders.send(len(leaving))
            except OSError as error:
                orders.send(str(error))


def open_some(addr, message, numbers):
    """Opens connections and sends one message there and back on each. Returns their descriptors by number."""
    peers = {}
    for number in numbers:
        peers[number] = peer = socket.socket()
        # A port may be used for connections to different servers.
        peer.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        peer.bind((f"127.0.1.{1 + number // PER_ADDRESS}", 0))
        peer.connect(addr)
        peer.sendall(message)
    for peer in peers.values():
        if not peer.recv(4096):
            raise ConnectionError("the server ends a connection")
    return {number: peer.detach() for number, peer in peers.items()}


def measure(kind, connections):
    """Returns the costs of the connections by name, and the results of the active ones for each round."""
    message, example, scheme, repeats = KINDS[kind]
    with contextlib.ExitStack() as stack:
        servers, others = (Servers(stack, example, connections) for _ in range(2))
        # Memory that a server and the kernel allocate only once must not count.
        warm = Clients(stack, servers.addr, message, 100 * len(servers.all))
        warm.all("open"), warm.all("close")
        clients = Clients(stack, servers.addr, message, connections)
        time.sleep(0.5)
        before, slab_before, memory_before = servers.descriptors(), slab(), servers.resident()
        say(f"{kind}: opening {connections:,} connections")
        begun = time.monotonic()
        clients.all("open")
        held = {"opened a second, a message to and fro on each": f"{connections / (time.monotonic() - begun):,.0f}"}
        time.sleep(0.5)
        fullest = max(servers.descriptors())
        held["server processes; descriptors of the fullest"] = f"{len(servers.all)}; {fullest:,}"
        memory = servers.resident()
        held["the servers' memory, bytes a connection"] = f"{(memory - memory_before) / connections:.0f}"
        held["the kernel's memory, bytes an end"] = f"{(slab() - slab_before) / connections / 2:,.0f}"
        used = servers.used()
        time.sleep(IDLE_SECONDS)
        cpu, wakes = (now - then for now, then in zip(servers.used(), used))
        held[f"all idle for {IDLE_SECONDS} s: the servers' CPU time; how often they wake"] = f"{cpu * 1e3:.1f} ms; {wakes}"
        active = clients.all("give way")
        companies = {"alone": others, "among the idle": servers}
        rounds = [one_round(scheme, companies, active, number) for number in range(repeats)]
        say(f"{kind}: closing")
        begun = time.monotonic()
        if clients.all("close") != connections - active or (left := sum(servers.descriptors()) - sum(before)) < 0:
            sys.exit("connections were lost")
        while left := sum(servers.descriptors()) - sum(before):
            if time.monotonic() - begun > 60:
                sys.exit(f"{left} connections are left over")
            time.sleep(0.05)
        held["all closed in"] = f"{time.monotonic() - begun:.1f} s"
        megabytes = (f"{size / 1e6:.0f}" for size in (memory_before, memory, servers.resident()))
        held["the servers' memory before, with all open, after, MB"] = ", ".join(megabytes)
        return held, rounds


def one_round(scheme, companies, active, number):
    """Measures one round of the active connections. Returns the results by load and company."""
    say(f"  round {number + 1}")
    seen = {}
    for load, rate in LOADS.items():
        flags = ["--rate", str(rate * active)] if rate else []
        # The order alternates.
        for company in list(companies)[:: 1 if number % 2 == 0 else -1]:
            servers = companies[company]
            cpu, _ = servers.used()
            report = run_load(scheme, servers.addr, active, flags)
            cpu = servers.used()[0] - cpu
            latency = {name: report["latency_us"][name] / 1e3 for name in ("p50", "p90", "p99", "p99.9", "max")}
            answered = report["requests"]["answered"]
            unsent = report["requests"]["failed"]
            rate = answered / report["measured_s"]
            seen[load, company] = latency | {"rate": rate, "cpu": cpu / answered * 1e6, "unsent": unsent}
    return seen


def run_load(scheme, addr, active, flags):
    command = [
        PROGRAM, "load", f"{scheme}://{addr[0]}:{addr[1]}", "--json", "--connections", str(active),
        "--warm-up", "0s", "--duration", f"{SECONDS * 1e3:.0f}ms", *flags,
        # If other work keeps the machine busy, the last requests of an open loop find no free connection.
        "--max-errors", "1000000",
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=120,
        preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORES),
    )
    report = json.loads(done.stdout or "{}")
    if done.returncode != 0 or any(not what.startswith("never sent") for what in report["errors"]):
        sys.exit(f"{' '.join(command)} fails: {report.get('errors')}")
    return report


def instructions(kind, idle):
    """Returns the user instructions of one event loop for a message, beside a number of idle connections."""
    message, example, *_ = KINDS[kind]
    say(f"{kind}: counting instructions beside {idle:,} idle connections")
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory())
        tracer = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}/profile"]
        server = Server(example, "--addr", "tcp4://127.0.0.1:0", "--reactors", "1", tracer=tracer)
        stack.callback(server.stop)
        clients = Clients(stack, server.addr, message, idle)
        clients.all("open")
        counted = []
        for messages in MESSAGES:
            subprocess.run(["vgdb", f"--pid={server.pid}", "zero"], stderr=subprocess.DEVNULL, check=True)
            count.messages(server.addr, messages, message=message)
            # The server still closes its ends of these connections.
            time.sleep(0.3)
            subprocess.run(["vgdb", f"--pid={server.pid}", "dump"], stderr=subprocess.DEVNULL, check=True)
            counted.append(int(re.search(r"^totals: (\d+)", read(f"{out}/profile.{len(counted) + 1}"), re.M)[1]))
        if server.descriptors() < idle or clients.all("close") != idle:
            sys.exit("connections were lost")
        return (counted[1] - counted[0]) / (MESSAGES[1] - MESSAGES[0])


def as_markdown(connections, measured, watched):
    """Yields the results as lines of Markdown."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield (
        f"{datetime.date.today()}, Linux {platform.release().split('-')[0]}, {len(CORES)} cores, {memory:.0f} GiB, at most "
        f"{DESCRIPTORS:,} descriptors a process. {watched.words()} {connections:,} connections:"
    )
    yield ""
    yield "| | " + " | ".join(measured) + " |"
    yield "|---" * (len(measured) + 1) + "|"
    for what in next(iter(measured.values()))[0]:
        yield f"| {what} | " + " | ".join(held[what] for held, _ in measured.values()) + " |"
    yield ""
    repeats = " and ".join(str(len(rounds)) for _, rounds in measured.values())
    yield (
        f"{connections // ONE_IN:,} active; medians of {repeats} rounds, and of the ratios of each round; "
        "of the CPU time a message least, **median** and most:"
    )
    yield ""
    columns = {"p50": 2, "p90": 2, "p99": 2, "p99.9": 2, "max": 1, "rate": 0, "cpu": 2}
    yield "| Load, its connections | p50, ms | p90 | p99 | p99.9 | max | messages a second | servers, CPU µs a message |"
    yield "|---" * (len(columns) + 1) + "|"
    for kind, (_, rounds) in measured.items():
        for load in LOADS:
            for company in ("alone", "among the idle"):
                cells = []
                for column, digits in columns.items():
                    values = [seen[load, company][column] for seen in rounds]
                    cells.append(f"{statistics.median(values):,.{digits}f}")
                cells[-1] = f"{min(values):.2f} **{cells[-1]}** {max(values):.2f}"
                yield f"| {kind}, {load}, {company} | " + " | ".join(cells) + " |"
            ratios = []
            for column in columns:
                ratios.append([seen[load, "among the idle"][column] / seen[load, "alone"][column] for seen in rounds])
            cells = [f"{statistics.median(values):.2f}" for values in ratios]
            cells[-1] = f"{min(ratios[-1]):.2f} **{cells[-1]}** {max(ratios[-1]):.2f}"
            yield f"| {kind}, {load}, ratio | " + " | ".join(cells) + " |"
    seen = [one for _, rounds in measured.values() for each in rounds for one in each.values()]
    if unsent := sum(one["unsent"] for one in seen):
        yield ""
        yield f"Other work held them up so long that {unsent:,} messages of the open loops were never sent."


def counts_as_markdown(beside, counted):
    yield "| Idle connections beside 64 active ones, in one process | " + " | ".join(f"{idle:,}" for idle in beside) + " |"
    yield "|---" * (len(beside) + 1) + "|"
    for kind, numbers in counted.items():
        yield f"| {kind}, user instructions a message | " + " | ".join(f"{number:.0f}" for number in numbers) + " |"


def say(what):
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
