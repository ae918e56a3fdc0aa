#!/usr/bin/env python3
"""Measures RPC: processor time for a call on the server and the client, calls in a second, latency, memory.

    benches/rpc.py            five rounds of everything: about six minutes after the build
    benches/rpc.py --quick    one short round with 100 clients: half a minute
    benches/rpc.py --write    writes the tables into docs/benchmarks.md

The message is Teleport's BenchmarkMessage, 581 bytes of protobuf (benches/rpc/src/message.rs). Each client has a connection and
one call under way. Each server has all its threads on the first core, the load runs on the second. The servers take turns with
each number of clients, forwards in one round and backwards in the next, and are restarted each time. A ratio is the median over
the rounds of the ratios within a round. Needs Linux with two cores, and descriptors for all connections. Uses only loopback.

To measure another server, add a Contender to SERVERS: a name, the command of the server and the command of its load. What both
must do stands in benches/rpc/src/lib.rs.
"""
import argparse, dataclasses, json, os, resource, signal, subprocess, sys, time

from sides import machine, report, servers

OWN = servers.ROOT / "benches/rpc"
BUILT = OWN / "target/release"


@dataclasses.dataclass
class Clients:
    """A number of clients."""

    number: int

    @property
    def name(self):
        return f"{self.number:,} clients"


class Contender(servers.Server):
    """A server and its load, whose command gets the port and the process of the server, and flags, at its end."""

    def __init__(self, name, server, load, version=servers.own_version, most=5000):
        super().__init__(name, *server, version=version)
        self.load, self.most = list(map(str, load)), most


def own(name, kind, *load):
    return Contender(name, [BUILT / "own_server", "{port}", kind], [BUILT / load[0], *load[1:]])


class Group:
    """Servers that are compared; ratios are to the server `base`. `memory` names the load whose memory is reported."""

    unit = "call"

    def __init__(self, name, base, contenders, numbers):
        self.name, self.base, self.servers = name, base, contenders
        self.loads = [Clients(number) for number in numbers]
        self.memory = self.loads[0].name


SERVERS = [
    own("length field, echo", "length-field", "rpc_load", "length-field"),
    own("rpc::Wire, echo", "wire", "rpc_load", "raw"),
    own("rpc, call_bytes, echo", "call-bytes", "rpc_load", "raw"),
    own("rpc, call", "call", "rpc_load", "raw"),
]
CLIENTS = [
    own("the load, for comparison", "call", "rpc_load", "raw"),
    own("rpc client, callbacks", "call", "own_client", "callbacks"),
    own("rpc client, 100 threads in wait", "call", "own_client", "wait"),
]
GROUPS = [
    Group("rpc", "length field, echo", SERVERS, [100, 500, 1000, 2000, 5000]),
    Group("rpc clients", "rpc client, callbacks", CLIENTS, [100]),
]


def measure(contender, load, seconds):
    """Returns the report of a load. Raises OSError with the reason if it fails."""
    running = servers.Running(contender, 4096)
    try:
        flags = ["--connections", load.number, "--seconds", seconds, "--warm-up", seconds / 2 + load.number / 10_000]
        command = [*contender.load, running.port, running.process.pid, *flags]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError((done.stderr.strip().splitlines() or ["the load fails"])[-1])
        return json.loads(done.stdout)
    finally:
        running.stop()


def play(group, rounds, seconds):
    """Measures a group. Returns {(load's name, server's name): a report for each round}, and the failures with reasons."""
    results, failures = {}, {}
    for turn in range(rounds):
        for load in group.loads:
            for contender in group.servers[:: 1 if turn % 2 == 0 else -1]:
                key = (load.name, contender.name)
                if key in failures or load.number > contender.most:
                    continue
                try:
                    results.setdefault(key, []).append(measure(contender, load, seconds))
                except OSError as error:
                    failures[key] = str(error)
                    results.pop(key, None)
                    print(f"LEFT OUT: {contender.name}, {load.name}: {error}", file=sys.stderr)
        print(f"{group.name}: round {turn + 1} of {rounds}", file=sys.stderr)
    return results, failures


def more_tables(group, results, failures):
    """Returns the tables that only calls have."""
    table = lambda cell: report.matrix(group, results, failures, cell)
    client = lambda reports: [each["client_cpu_seconds"] / each["answers"] * 1e6 for each in reports]
    return "\n\n".join([
        "Processor time of the client a call, in µs: median, least and most:",
        table(lambda _, __, reports: report.spread(client(reports))),
        "Latency in µs, p99.9:",
        table(lambda _, __, reports: report.brief(report.median(reports, lambda each: each["p999_us"]))),
        "Resident memory of the server, in MiB:",
        table(lambda _, __, reports: report.brief(report.median(reports, lambda each: each["resident_bytes"] / 2**20))),
    ])


def build():
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    subprocess.run(["cargo", "build", "--release"], cwd=OWN, env=environment, check=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="the number of rounds (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="the duration of each measurement (1)")
    parser.add_argument("--quick", action="store_true", help="one round of 0.3 s with 100 clients")
    parser.add_argument("--only", nargs="+", choices=[group.name for group in GROUPS], help="only these groups")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help="only these servers and the base")
    parser.add_argument("--no-build", action="store_true", help="use the existing builds")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    chosen = parser.parse_args()
    if chosen.write and (chosen.servers or chosen.quick):
        parser.error("--write is for all servers and loads")
    return chosen


def main():
    chosen = arguments()
    if not {0, 1} <= os.sched_getaffinity(0):
        sys.exit("the first two cores are needed: one for the servers, one for the load")
    if not chosen.no_build:
        build()
    # SIGTERM ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    os.sched_setaffinity(0, servers.LOAD_CORE)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    watched, begun, texts = machine.Watch(), time.monotonic(), {}
    rounds, seconds = (1, 0.3) if chosen.quick else (chosen.rounds, chosen.seconds)
    for group in GROUPS:
        if chosen.only and group.name not in chosen.only:
            continue
        if chosen.quick:
            group.loads = group.loads[:1]
        if chosen.servers:
            group.servers = [each for each in group.servers if each.name in [*chosen.servers, group.base]]
        results, failures = play(group, rounds, seconds)
        texts[group.name] = report.tables(group, results, failures) + "\n\n" + more_tables(group, results, failures)
        print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
    head = machine.description(watched, rounds, seconds)
    print("\n\n".join([head, *texts.values()]))
    if chosen.write:
        report.write_only(head, texts)


if __name__ == "__main__":
    main()
