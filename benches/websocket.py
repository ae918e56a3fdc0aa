#!/usr/bin/env python3
"""Measures the websocket_echo example against tungstenite and fastwebsockets, both on tokio: processor time a message.

    cargo build --release --all-features --example websocket_echo
    cargo build --release --manifest-path benches/rivals/Cargo.toml
    benches/websocket.py [ROUNDS]

Needs Linux with two cores. Each server has one thread, on the first core; the load is made on the second, a closed
loop of binary messages, uncompressed and of one frame each. The servers take turns in every round, forwards and
backwards. Told are medians over the rounds with the least and the most, and how many times this crate's processor
time a rival takes: the median of the rounds' ratios. All is on loopback and ends by itself: about 15 s a round.
"""
import os, re, signal, statistics, subprocess, sys

OURS = "websocket_echo"
SERVERS = {
    OURS: ["target/release/examples/websocket_echo", "--addr", "tcp4://127.0.0.1:0", "--reactors", "1"],
    "tungstenite": ["benches/rivals/target/release/tungstenite_echo"],
    "fastwebsockets": ["benches/rivals/target/release/fastwebsockets_echo"],
}
LOAD = "benches/rivals/target/release/websocket_load"
LOADS = {
    "125 B": ["--size", "125"],
    "125 B, 16 under way": ["--size", "125", "--depth", "16"],
    "16 KiB": ["--size", "16384"],
}
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
SERVER_CORE, LOAD_CORE = {0}, {1}


class Server:
    """A running server, pinned to its core."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORE),
        )
        line = self.process.stdout.readline()
        found = re.search(r" listens on \S*:(\d+)", line) or sys.exit(f"{command[0]} said {line!r}")
        self.port = found[1]

    def measure(self, load):
        """Its processor time a message in microseconds, messages a second, and which share of its core it used."""
        command = [LOAD, self.port, str(self.process.pid), *load]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.split()
        messages, seconds, cpu = int(told[0]), float(told[1]), float(told[2])
        return cpu / messages * 1e6, messages / seconds, cpu / seconds

    def stop(self):
        # The rivals have no graceful end.
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def main():
    for command in (*SERVERS.values(), [LOAD]):
        if not os.path.exists(command[0]):
            sys.exit(f"{command[0]} is missing; how to build it:\n{__doc__}")
    os.sched_setaffinity(0, LOAD_CORE)
    results = {(load, name): [] for load in LOADS for name in SERVERS}
    for turn in range(ROUNDS):
        for load, flags in LOADS.items():
            for name in list(SERVERS)[:: 1 if turn % 2 == 0 else -1]:
                # Started anew, so that how its memory happens to lie does not favour one of them throughout.
                server = Server(SERVERS[name])
                try:
                    results[load, name].append(server.measure(flags))
                finally:
                    server.stop()
        print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr)
    for load in LOADS:
        print(f"\n{load}, 64 connections: microseconds of processor time a message")
        ours = [cpu for cpu, _, _ in results[load, OURS]]
        for name in SERVERS:
            costs, rates, shares = zip(*results[load, name])
            ratios = [cost / own for cost, own in zip(costs, ours)]
            print(
                f"  {name:16} {statistics.median(costs):8.3f} ({min(costs):.3f} to {max(costs):.3f})"
                f"   x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                f"   {statistics.median(rates):9.0f} a second, busy {statistics.median(shares):4.0%}"
            )
    if min(share for measured in results.values() for _, _, share in measured) < 0.9:
        print("\nA server was kept from its core, by other work or a load too slow: measure again when all is quiet.")


if __name__ == "__main__":
    main()
