#!/usr/bin/env python3
"""Measures RPC: processor time for a call on the server and the client, calls in a second, latency, memory.

    benches/rpc.py            five rounds of everything: about six minutes after the build
    benches/rpc.py --quick    one short round with 100 clients: half a minute
    benches/rpc.py --write    writes the tables into docs/benchmarks.md
    benches/rpc.py --only rivals "rivals' clients"
                              the same with tarpc, tonic, volo, jsonrpsee and Cap'n Proto (benches/rpc_rivals): about eight minutes
                              after the build, which takes ten or more; needs protobuf-compiler, capnproto and valgrind

The message is Teleport's BenchmarkMessage, 581 bytes of protobuf (benches/rpc/src/message.rs). Each client has a connection and
one call under way. Each server has all its threads on the first core, the load runs on the second. The servers take turns with
each number of clients, forwards in one round and backwards in the next, and are restarted each time. A ratio is the median over
the rounds of the ratios within a round. Needs Linux with two cores, and descriptors for all connections. Uses only loopback.

To measure another server, add a Contender to SERVERS or RIVAL_SERVERS: a name, the command of the server and the command of its
load. What both must do stands in benches/rpc/src/lib.rs.
"""
import argparse, dataclasses, json, os, re, resource, signal, statistics, subprocess, sys, tempfile, time

from sides import machine, report, servers

OWN = servers.ROOT / "benches/rpc"
BUILT = OWN / "target/release"
RIVALS = servers.ROOT / "benches/rpc_rivals"


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


def rival(name, program, *packages, load="load"):
    """A rival under calls that are encoded beforehand, or under calls of its own client."""
    program = RIVALS / "target/release" / program
    return Contender(name, [program, "serve", "{port}"], [program, load], servers.crates(*packages, folder=RIVALS))


class Group:
    """Servers that are compared; ratios are to the server `base`. `memory` names the load whose memory is reported. `tables`
    is given the group, its results and its failures."""

    unit = "call"

    def __init__(self, name, base, contenders, numbers, tables):
        self.name, self.base, self.servers, self.tables = name, base, contenders, tables
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
RIVAL_SERVERS = [
    own("rpc, call_bytes, echo", "call-bytes", "rpc_load", "raw"),
    own("rpc, call", "call", "rpc_load", "raw"),
    rival("tarpc", "tarpc", "tarpc", "tokio"),
    rival("tonic", "tonic", "tonic", "prost"),
    rival("volo-grpc", "volo_grpc", "volo-grpc"),
    rival("volo-thrift", "volo_thrift", "volo-thrift"),
    rival("jsonrpsee", "jsonrpsee", "jsonrpsee"),
    rival("capnp-rpc", "capnp", "capnp-rpc"),
]
RIVAL_CLIENTS = [
    own("rpc client, callbacks", "call", "own_client", "callbacks"),
    rival("tarpc", "tarpc", "tarpc", load="client"),
    rival("tonic", "tonic", "tonic", load="client"),
    rival("volo-grpc", "volo_grpc", "volo-grpc", load="client"),
    rival("volo-thrift", "volo_thrift", "volo-thrift", load="client"),
    rival("jsonrpsee", "jsonrpsee", "jsonrpsee", load="client"),
    rival("capnp-rpc", "capnp", "capnp-rpc", load="client"),
]


def measure(contender, load, seconds):
    """Returns the report of a load. Raises OSError with the reason if it fails."""
    timing = ["--seconds", seconds, "--warm-up", seconds / 2 + load.number / 10_000]
    return run(contender, "--connections", load.number, *timing)


def run(contender, *flags, tracer=()):
    """Starts a server, optionally under a tracer, and a load. Returns the load's report."""
    traced = servers.Server(contender.name, *tracer, *contender.command)
    running = servers.Running(traced, 4096, patience=30 if tracer else 5)
    try:
        command = [*contender.load, running.port, running.process.pid, *flags]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError((done.stderr.strip().splitlines() or ["the load fails"])[-1])
        return json.loads(done.stdout)
    finally:
        running.stop()


def instructions(contender):
    """Returns the user instructions of the server for a call, with 64 clients: a slope, as in count.py."""
    counts = []
    for calls in (20, 120):
        with tempfile.NamedTemporaryFile("r") as log:
            tracer = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log.name}"]
            run(contender, "--connections", 64, "--calls", calls, tracer=tracer)
            counts.append(int(re.findall(r"Collected : (\d+)", log.read())[-1]))
    return (counts[1] - counts[0]) / (64 * 100)


def idle_bytes(contender):
    """Returns the resident memory of the server for a connection after one call: that of 1,000 less that of one."""
    one, many = (run(contender, "--connections", number, "--calls", 1)["resident_bytes"] for number in (1, 1000))
    return (many - one) / 999


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


def own_tables(group, results, failures):
    return report.tables(group, results, failures) + "\n\n" + more_tables(group, results, failures)


def rival_tables(group, results, failures):
    """Returns a table for each number of clients, whose rows are the servers."""
    parts = []
    for load in group.loads:
        parts.append(f"{load.name}; the ratio is to {group.base}:")
        parts.append(
            "| | server, CPU µs a call | ratio | client, CPU µs a call | thousands of calls a second | p50, ms | p99, ms | p99.9, ms |\n"
            + "|---" * 8 + "|"
        )
        for server in group.servers:
            if not (reports := results.get((load.name, server.name))):
                continue
            median = lambda figure: report.brief(report.median(reports, figure))
            cells = [
                report.spread([each["cpu_seconds"] / each["answers"] * 1e6 for each in reports]),
                report.brief(report.ratio(group, results, load, server.name)),
                median(lambda each: each["client_cpu_seconds"] / each["answers"] * 1e6),
                median(lambda each: each["answers"] / each["seconds"] / 1e3),
                *(median(lambda each: each[key] / 1e3) for key in ("p50_us", "p99_us", "p999_us")),
            ]
            parts[-1] += f"\n| {server.name} | {' | '.join(cells)} |"
    versions = dict.fromkeys(server.version() for server in group.servers)
    parts.append(f"Versions: {', '.join(versions)}.")
    parts += [f"Failed: {server}, {load}: {why}." for (load, server), why in failures.items()]
    return "\n\n".join(parts)


def server_tables(group, results, failures):
    """Returns the tables of servers that are compared with rivals: those of the load, and one of steady figures."""
    lines = ["| | user instructions a call | bytes of memory for an idle connection |", "|---|---|---|"]
    for server in group.servers:
        memory = statistics.median(idle_bytes(server) for _ in range(3))
        lines.append(f"| {server.name} | {instructions(server):,.0f} | {memory:,.0f} |")
        print(lines[-1], file=sys.stderr)
    return "\n".join(lines) + "\n\n" + rival_tables(group, results, failures)


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


GROUPS = [
    Group("rpc", "length field, echo", SERVERS, [100, 500, 1000, 2000, 5000], own_tables),
    Group("rpc clients", "rpc client, callbacks", CLIENTS, [100], own_tables),
]
RIVAL_GROUPS = [
    Group("rivals", "rpc, call", RIVAL_SERVERS, [100, 1000], server_tables),
    Group("rivals' clients", "rpc client, callbacks", RIVAL_CLIENTS, [100], rival_tables),
]


def build(groups):
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    subprocess.run(["cargo", "build", "--release"], cwd=OWN, env=environment, check=True)
    if any(group in RIVAL_GROUPS for group in groups):
        subprocess.run(["cargo", "build", "--release"], cwd=RIVALS, env=environment, check=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="the number of rounds (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="the duration of each measurement (1)")
    parser.add_argument("--quick", action="store_true", help="one round of 0.3 s with 100 clients")
    parser.add_argument("--only", nargs="+", choices=[group.name for group in GROUPS + RIVAL_GROUPS], help="only these groups")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help="only these servers and the base")
    parser.add_argument("--no-build", action="store_true", help="use the existing builds")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    chosen = parser.parse_args()
    if chosen.write and (chosen.servers or chosen.quick):
        parser.error("--write is for all servers and loads")
    return chosen


def main():
    chosen = arguments()
    groups = [group for group in GROUPS + RIVAL_GROUPS if group.name in chosen.only] if chosen.only else GROUPS
    if not {0, 1} <= os.sched_getaffinity(0):
        sys.exit("the first two cores are needed: one for the servers, one for the load")
    if not chosen.no_build:
        build(groups)
    # SIGTERM ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    os.sched_setaffinity(0, servers.LOAD_CORE)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    watched, begun, texts = machine.Watch(), time.monotonic(), {}
    rounds, seconds = (1, 0.3) if chosen.quick else (chosen.rounds, chosen.seconds)
    for group in groups:
        if chosen.quick:
            group.loads = group.loads[:1]
        if chosen.servers:
            group.servers = [each for each in group.servers if each.name in [*chosen.servers, group.base]]
        results, failures = play(group, rounds, seconds)
        texts[group.name] = group.tables(group, results, failures)
        print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
    head = machine.description(watched, rounds, seconds)
    print("\n\n".join([head, *texts.values()]))
    if chosen.write:
        report.write_only(head, texts)


if __name__ == "__main__":
    main()
