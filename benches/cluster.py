#!/usr/bin/env python3
r"""Measures a gate and a node of a cluster, as processes on loopback, beside a length-field echo of the same bytes, and beside two bare
programs in C with the same connections, which look at no byte.

    benches/cluster.py                      everything: about ten minutes after the build
    benches/cluster.py --only rows          throughput and processor time; also: memory, broadcast, latency, instructions
    benches/cluster.py --profile release    with another build than `production`
    benches/cluster.py --bare               with a closed loop in C as the load, which takes less of the node's core; it needs no `epicycle`

Build first: cargo build --profile production --features cli,cluster --bin epicycle --example cluster_gate --example cluster_node \
  --example codec_server

The gate and the echo have the first core, the node and the load the second. Processor time is that of all threads of a process, from
/proc, over the answers of the same run. The servers take turns, forwards in one round and backwards in the next. A ratio is the median
over the rounds of the ratios within a round. Needs Linux with two cores, 11,000 descriptors, and cc; valgrind for instructions."""
import argparse, contextlib, json, os, pathlib, re, resource, signal, socket, statistics, struct, subprocess, sys, tempfile, time

from sides.servers import ROOT, free_port

# The rows of due's README: clients and bytes of data.
ROWS = [(50, 1024), (100, 1024), (200, 1024), (300, 1024), (400, 1024), (500, 1024), (1000, 1024), (1000, 2048)]
GATE_CORE, NODE_CORE = {0}, {1}
FAN_OUT = 10_000
# True if the load is a closed loop in C.
BARE = False


class Process:
    """A program that is pinned to cores, and stopped by its number."""

    def __init__(self, cores, *command, stdin=None):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

        def prepare():
            os.sched_setaffinity(0, cores)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        self.output = tempfile.NamedTemporaryFile("w+")
        command = list(map(str, command))
        self.process = subprocess.Popen(command, stdin=stdin, stdout=self.output, stderr=self.output, preexec_fn=prepare, text=True)
        self.pid = self.process.pid

    def await_port(self, port, patience=10):
        deadline = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                return socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                time.sleep(0.01)
        self.stop()
        raise OSError(f"it does not listen: {self.words()}")

    def words(self):
        # Not by the same descriptor, whose position the program shares.
        return pathlib.Path(self.output.name).read_text().strip() or "it prints nothing"

    def cpu(self):
        """Returns the processor time of all threads so far, in nanoseconds."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def memory(self, key="RssAnon"):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Cluster:
    """A gate and a node."""

    name = "gate and node"

    def __init__(self, built, tracer=(), node=True):
        self.port, self.link, node_port = free_port(), free_port(), free_port()
        self.servers = {
            "gate": Process(
                GATE_CORE, *tracer, built / "examples/cluster_gate", "--listen", f"tcp://127.0.0.1:{self.port}", "--rate", 0, "--heartbeat", "0s",
                "--link", f"tcp://127.0.0.1:{self.link}", "--node", f"node-1=127.0.0.1:{node_port}",
            )
        }
        self.servers["gate"].await_port(self.link, 60)
        if node:
            self.servers["node"] = Process(
                NODE_CORE, built / "examples/cluster_node", "--link", f"tcp://127.0.0.1:{node_port}",
                "--gate", f"gate-1=127.0.0.1:{self.link}",
            )
            self.servers["node"].await_port(node_port)
            # The gate dials again and again until the node is there.
            time.sleep(1.5)

    def stop(self):
        for server in reversed(self.servers.values()):
            server.stop()


class Echo:
    """The length-field echo."""

    name = "length-field echo"

    def __init__(self, built, tracer=()):
        self.port = free_port()
        listen = ["--addr", f"tcp://127.0.0.1:{self.port}", "--reactors", 1, "--echo"]
        self.servers = {"echo": Process(GATE_CORE, *tracer, built / "examples/codec_server", *listen)}
        self.servers["echo"].await_port(self.port, 60)

    def stop(self):
        self.servers["echo"].stop()


class Bare:
    """The least that a gate and a node can cost: programs in C that pass bytes on and look at none."""

    name = "bare relay"

    def __init__(self, built, tracer=()):
        self.port, node_port = free_port(), free_port()
        node = Process(NODE_CORE, compiled("bare"), "node", node_port)
        # A look at its port would be taken for the gate.
        time.sleep(0.2)
        self.servers = {"gate": Process(GATE_CORE, *tracer, compiled("bare"), "gate", self.port, node_port), "node": node}
        self.servers["gate"].await_port(self.port)

    def stop(self):
        for server in self.servers.values():
            server.stop()


def bare_load(port, clients, size, pipeline, seconds):
    """Runs the closed loop in C. Returns the part of a report that is used."""
    words = [compiled("closed_loop"), port, clients, size, pipeline, seconds]
    done = subprocess.run(["taskset", "-c", ",".join(map(str, NODE_CORE)), *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(done.stderr.strip() or "the load fails")
    answers, seconds = done.stdout.split()
    requests = {"answered": int(answers), "failed": 0}
    return {"requests": requests, "throughput": {"answers_per_s": int(answers) / float(seconds)}}


def load(built, port, clients, size, pipeline, seconds, *more):
    """Runs the load. Returns its report."""
    if BARE:
        return bare_load(port, clients, size, pipeline, seconds)
    command = [
        "taskset", "-c", ",".join(map(str, NODE_CORE)), built / "epicycle", "load", f"tcp://127.0.0.1:{port}", "--protocol", "cluster",
        "--connections", clients, "--size", size, "--pipeline", pipeline, "--duration", f"{seconds}s", "--json", *more,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError((done.stderr.strip().splitlines() or ["the load fails"])[-1])
    return json.loads(done.stdout)


def run(kind, built, clients, size, pipeline, seconds):
    """Returns the load's report, and the processor time of each server an answer, in microseconds."""
    running = kind(built)
    try:
        load(built, running.port, clients, size, pipeline, 0.5, "--warm-up", "0s")
        before = {name: server.cpu() for name, server in running.servers.items()}
        # No warm-up, so that the answers are all that the servers have worked for.
        report = load(built, running.port, clients, size, pipeline, seconds, "--warm-up", "0s")
        answers = report["requests"]["answered"]
        return report, {name: (server.cpu() - before[name]) / 1e3 / answers for name, server in running.servers.items()}
    finally:
        running.stop()


def rows(built, rounds, seconds, wanted):
    for pipeline in (32, 1):
        print(f"\n{pipeline} outstanding; median of {rounds} rounds of {seconds} s\n")
        print("| server | concurrency | size | sent | received | TPS | CPU of the gate, µs | of the node, µs | ratios to the echo |")
        print("|---|---|---|---|---|---|---|---|---|")
        for clients, size in wanted:
            results = {Cluster: [], Bare: [], Echo: []}
            for turn in range(rounds):
                for kind in list(results)[:: 1 if turn % 2 == 0 else -1]:
                    results[kind].append(run(kind, built, clients, size, pipeline, seconds))
            echo = [cpu["echo"] for _, cpu in results[Echo]]
            for kind, runs in results.items():
                tps = statistics.median(report["throughput"]["answers_per_s"] for report, _ in runs)
                received = int(statistics.median(report["requests"]["answered"] for report, _ in runs))
                failed = sum(report["requests"]["failed"] for report, _ in runs)
                servers = [[cpu[server] for _, cpu in runs] for server in runs[0][1]]
                cells = [f"{statistics.median(cpu):.2f}" for cpu in servers]
                ratios = [f"{statistics.median(a / b for a, b in zip(cpu, echo)):.2f}" for cpu in servers]
                cells = [*cells, " and ".join(ratios)] if kind is not Echo else [*cells, "", ""]
                size_name = f"{size // 1024}KB"
                print(f"| {kind.name} | {clients} | {size_name} | {received + failed:,} | {received:,} | {tps:,.0f} | {' | '.join(cells)} |", flush=True)


def memory(built):
    """The resident memory of a gate without clients and with idle ones."""
    cluster = Cluster(built)
    gate = cluster.servers["gate"]
    receivers = None
    try:
        before = gate.memory("VmRSS"), gate.memory()
        receivers = receiving(cluster.port)
        time.sleep(1)
        after = gate.memory("VmRSS"), gate.memory()
        print(f"\nMemory of a gate: {before[0]:.1f} MiB without clients ({before[1]:.1f} of its own), {after[0]:.1f} MiB with {FAN_OUT:,} idle ones ({after[1]:.1f})")
    finally:
        if receivers:
            receivers.stop()
        cluster.stop()


def packet(size):
    return struct.pack(">IBhh", 5 + size, 0, 9, 0) + bytes(size)


def receiving(port):
    """Connects the clients of a broadcast, and waits until they are connected."""
    receivers = Process(NODE_CORE, compiled("fan_out"), "receive", port, FAN_OUT, len(packet(1024)))
    deadline = time.monotonic() + 60
    while "connected" not in receivers.words() and time.monotonic() < deadline:
        if receivers.process.poll() is not None:
            raise OSError(f"the receivers have ended: {receivers.words()}")
        time.sleep(0.05)
    return receivers


def compiled(name, made={}):
    if name not in made:
        made[name] = pathlib.Path(tempfile.mkdtemp(), name)
        subprocess.run(["cc", "-O2", "-Wall", "-o", made[name], ROOT / f"benches/cluster/{name}.c"], check=True)
    return made[name]


def times(receivers, send, rounds):
    """Sends so many broadcasts, each when the one before has arrived. Returns their times in milliseconds."""
    taken = []
    for round in range(rounds):
        began = time.monotonic_ns()
        send()
        deadline = time.monotonic() + 20
        while len(lines := receivers.words().splitlines()) < round + 2:
            if time.monotonic() > deadline:
                raise OSError(f"a broadcast has not arrived: {lines[-1]}")
            time.sleep(0.002)
        taken.append((int(lines[-1]) - began) / 1e6)
        time.sleep(0.05)
    return taken


@contextlib.contextmanager
def broadcasting(built):
    """A gate with all receivers. Gives it, its receivers, and a function that makes it broadcast."""
    cluster, receivers = Cluster(built), None
    try:
        receivers = receiving(cluster.port)
        link = socket.create_connection(("127.0.0.1", cluster.link))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        frame = lambda op, body, seq=0: struct.pack(">IBBQ", 10 + len(body), 0, op, seq) + body
        link.sendall(frame(1, b"\x02driver"))
        total = 0
        while total < FAN_OUT:
            # The number of clients, since the kernel connects them before the gate has accepted them.
            link.sendall(frame(5, b"\x01", 1))
            answer = link.recv(24, socket.MSG_WAITALL)
            total = struct.unpack(">Q", answer[16:])[0]
        push = frame(10, b"\x01" + packet(1024))
        yield cluster, receivers, lambda: link.sendall(push)
    finally:
        if receivers:
            receivers.stop()
        cluster.stop()


def of_gate(built, rounds):
    """Returns the times of broadcasts by a gate, and its processor time for one, in milliseconds."""
    with broadcasting(built) as (cluster, receivers, send):
        gate = cluster.servers["gate"]
        before = gate.cpu()
        return times(receivers, send, rounds), (gate.cpu() - before) / 1e6 / rounds


def of_loop(rounds):
    """Returns the same of a bare loop of sends."""
    port = free_port()
    loop = Process(GATE_CORE, compiled("fan_out"), "send", port, FAN_OUT, len(packet(1024)), stdin=subprocess.PIPE)
    time.sleep(0.2)
    receivers = receiving(port)
    try:
        def send():
            loop.process.stdin.write("\n")
            loop.process.stdin.flush()

        before = loop.cpu()
        return times(receivers, send, rounds), (loop.cpu() - before) / 1e6 / rounds
    finally:
        receivers.stop()
        loop.stop()


def broadcast(built, rounds):
    gates, loops = [], []
    for turn in range(rounds):
        order = (lambda: gates.append(of_gate(built, 15)), lambda: loops.append(of_loop(15)))
        for measure in order[:: 1 if turn % 2 == 0 else -1]:
            measure()
    print(f"\nA broadcast of 1 KB to {FAN_OUT:,} clients, and the same by a loop of sends in C:")
    for what, value in (("until the last has it", lambda run: statistics.median(run[0])), ("processor time", lambda run: run[1])):
        gate, loop = [value(run) for run in gates], [value(run) for run in loops]
        ratios = [a / b for a, b in zip(gate, loop)]
        print(f"  {what}: {statistics.median(gate):.1f} ms and {statistics.median(loop):.1f} ms; ratio {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f})")


def latency(built, rounds):
    """The time until a gate answers the heartbeats of another client, while it broadcasts and while it does not."""
    with broadcasting(built) as (cluster, receivers, send):
        for what, count in (("quiet", 0), ("broadcasts", 3 * rounds)):
            pings = Process(NODE_CORE, compiled("fan_out"), "ping", cluster.port, 5, 1000)
            taken = times(receivers, send, count) if count else []
            pings.process.wait(30)
            median, most, longest = (int(word) / 1000 for word in pings.words().split())
            more = f"; {count} broadcasts took {statistics.median(taken):.0f} ms each" if taken else ""
            print(f"  heartbeats, {what}: answered within {median:.2f} ms (median), {most:.2f} ms (99 of 100), {longest:.2f} ms (all){more}")


def instructions(built):
    """The user instructions of the gate and the echo for an answer: a slope between two runs under callgrind."""
    print("\nUser instructions an answer, 64 clients, 1 KB:")
    for pipeline in (32, 1):
        for kind in (Cluster, Echo):
            counts = []
            for seconds in (1, 4):
                with tempfile.NamedTemporaryFile("r") as log:
                    tracer = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log.name}"]
                    running = kind(built, tracer=tracer)
                    try:
                        report = load(built, running.port, 64, 1024, pipeline, seconds, "--warm-up", "0s", "--timeout", "60s")
                    finally:
                        running.stop()
                    counts.append((int(re.findall(r"Collected : (\d+)", log.read())[-1]), report["requests"]["answered"]))
            (a, b), (c, d) = counts
            print(f"  {pipeline} outstanding, {kind.name}: {(c - a) / (d - b):,.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["rows", "memory", "broadcast", "latency", "instructions"])
    parser.add_argument("--profile", default="production")
    parser.add_argument("--built", type=pathlib.Path, help="the folder of the programs, in place of that of the profile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--clients", type=int, action="append", help="only rows with so many clients")
    parser.add_argument("--bare", action="store_true", help="with a closed loop in C as the load")
    flags = parser.parse_args()
    global BARE
    BARE = flags.bare
    built = flags.built or ROOT / "target" / flags.profile
    wanted = [row for row in ROWS if not flags.clients or row[0] in flags.clients]
    if flags.only in (None, "rows"):
        rows(built, flags.rounds, flags.seconds, wanted)
    if flags.only in (None, "memory"):
        memory(built)
    if flags.only in (None, "broadcast"):
        broadcast(built, flags.rounds)
    if flags.only in (None, "latency"):
        latency(built, flags.rounds)
    if flags.only in (None, "instructions"):
        instructions(built)


if __name__ == "__main__":
    main()
