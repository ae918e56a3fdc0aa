#!/usr/bin/env python3
"""Compares this engine with its rivals: processor time for a message, messages in a second, latency, memory.

    benches/side_by_side.py            five rounds of everything: about six minutes after the build
    benches/side_by_side.py --quick    one short round: about a minute
    benches/side_by_side.py --write    writes the tables into docs/benchmarks.md, and draws docs/benchmark.svg; with --only,
                                       writes the tables of these groups

It builds the examples and the rivals in benches/rivals (Rust, and C if cc and libuv1-dev are installed). It also uses nginx,
haproxy and redis-server if they are installed. Missing servers are left out and reported. Each server has all its threads on
the first core. The load runs on the second: benches/rivals/src/bin/closed_loop, which does not use this engine and compares
the answers. The servers take turns on each load, forwards in one round and backwards in the next, and are restarted each
time. A ratio is the median over the rounds of the ratios within a round. Needs Linux with two cores. Uses only loopback.
"""
import argparse, dataclasses, json, os, resource, signal, subprocess, sys, time

from sides import machine, report, servers


@dataclasses.dataclass
class Load:
    """A load on the servers of a group: the flags of closed_loop, and the size of an echo server's reads."""

    name: str
    mode: str
    connections: int
    size: int
    depth: int = 1
    buffer: int = 4096
    ping: bool = False

    def flags(self):
        return ["--connections", self.connections, "--size", self.size, "--depth", self.depth]


@dataclasses.dataclass
class Group:
    """Servers with the same task and the same loads. Ratios are to the server `base`. `memory` names the load whose memory
    is reported."""

    name: str
    unit: str
    servers: list
    base: str
    memory: str
    loads: list


GROUPS = [
    Group("echo", "message", servers.ECHO, "bare loop in C", "1,000 × 64 B", [
        Load("1 × 64 B", "echo", 1, 64, ping=True),
        Load("64 × 64 B", "echo", 64, 64, ping=True),
        Load("64 × 64 B, 16 under way", "echo", 64, 64, depth=16, ping=True),
        Load("1,000 × 64 B", "echo", 1000, 64, ping=True),
        Load("100 × 1 KiB", "echo", 100, 1024),
        Load("1,000 × 1 KiB", "echo", 1000, 1024),
        Load("16 × 64 KiB", "echo", 16, 65536, buffer=65536),
        Load("accept, 64 B, close", "accept", 64, 64),
    ]),
    Group("http", "request", servers.HTTP, "bare server in C", "one under way", [
        Load("one under way", "http", 64, 0),
        Load("16 under way", "http", 64, 0, depth=16),
    ]),
    Group("http heads", "request", servers.HTTP, "bare server in C", "one under way", [
        Load("one under way", "heads", 64, 0),
        Load("16 under way", "heads", 64, 0, depth=16),
    ]),
    Group("websocket", "message", servers.WEBSOCKET, "epicycle", "125 B", [
        Load("125 B", "websocket", 64, 125),
        Load("125 B, 16 under way", "websocket", 64, 125, depth=16),
        Load("16 KiB", "websocket", 64, 16384),
    ]),
]


def measure(server, load, seconds):
    """Returns the report of closed_loop about a server under a load. Raises OSError with the reason if it fails."""
    running = servers.Running(server, load.buffer)
    try:
        command = [
            servers.BUILT / "closed_loop", server.mode or load.mode, running.port, running.process.pid, *load.flags(),
            "--seconds", seconds, "--warm-up", seconds / 2,
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError((done.stderr.strip().splitlines() or ["the load fails"])[-1].removeprefix("Error: ").strip('"'))
        return json.loads(done.stdout)
    finally:
        running.stop()


def measure_twice(server, load, seconds):
    """Measures, and tries once more if that fails: on a busy machine a server may wait for seconds."""
    try:
        return measure(server, load, seconds)
    except OSError:
        return measure(server, load, seconds)


def play(group, rounds, seconds):
    """Measures a group. Returns {(load's name, server's name): a report for each round}, and the failures with reasons."""
    results, failures = {}, {}
    for turn in range(rounds):
        for load in group.loads:
            for server in group.servers[:: 1 if turn % 2 == 0 else -1]:
                key = (load.name, server.name)
                if key in failures or server.mode == "ping" and not load.ping:
                    continue
                try:
                    results.setdefault(key, []).append(measure_twice(server, load, seconds))
                except OSError as error:
                    failures[key] = str(error)
                    results.pop(key, None)
                    print(f"LEFT OUT: {server.name}, {load.name}: {error}", file=sys.stderr)
        print(f"{group.name}: round {turn + 1} of {rounds}, {time.monotonic() - BEGUN:.0f} s", file=sys.stderr)
    return results, failures


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="the number of rounds (5)")
    parser.add_argument("--seconds", type=float, default=0.35, help="the duration of each measurement (0.35)")
    parser.add_argument("--quick", action="store_true", help="one round of 0.2 s each")
    parser.add_argument("--only", nargs="+", choices=[group.name for group in GROUPS], help="only these groups")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help="only these servers and the base")
    parser.add_argument("--no-build", action="store_true", help="use the existing builds")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and draw docs/benchmark.svg")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.seconds = 1, 0.2
    if chosen.write and chosen.servers:
        parser.error("--write is for all servers")
    return chosen


def main():
    chosen = arguments()
    if not {0, 1} <= os.sched_getaffinity(0):
        sys.exit("the first two cores are needed: one for the servers, one for the load")
    if not chosen.no_build:
        servers.build()
    # SIGTERM ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    os.sched_setaffinity(0, servers.LOAD_CORE)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    watched = machine.Watch()
    played = []
    for group in GROUPS:
        if chosen.only and group.name not in chosen.only:
            continue
        for server in group.servers:
            if server.missing():
                print(f"LEFT OUT: {server.name}, because {server.missing()} is not installed", file=sys.stderr)
        group.servers = [
            server for server in group.servers if not server.missing()
            and (not chosen.servers or server.name in [*chosen.servers, group.base])
        ]
        played.append((group, *play(group, chosen.rounds, chosen.seconds)))
    head = machine.description(watched, chosen.rounds, chosen.seconds)
    texts = {group.name: report.tables(group, results, failures) for group, results, failures in played}
    print("\n\n".join([head, *texts.values()]))
    if chosen.write and chosen.only:
        report.write_only(head, texts)
    elif chosen.write:
        report.write(head, texts, played)


BEGUN = time.monotonic()

if __name__ == "__main__":
    main()
