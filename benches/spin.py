#!/usr/bin/env python3
"""Compares the latency of servers that sleep with that of servers that spin (`Server::spin`): the time of a round trip of 64
bytes on the only connection.

    cargo build --profile production --example echo && benches/spin.py [ROUNDS]

The servers are the example echo with one reactor and benches/rivals/c/bare_echo.c, each as it is and spinning, on the first
core. The client benches/rivals/c/ping.c is on the second: one that sleeps until the answer is there, and one that spins as
well. All take turns within a round, forwards and backwards. The results are medians over the rounds (5), with the least and the
most, and medians of the ratios within a round. Needs Linux with two cores, and cc. Uses only loopback. A round takes about 5 s,
more if the machine has other work.
"""
import os, statistics, subprocess, sys, tempfile

from sides import servers

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
TRIPS, SIZE = 5_000, 64
BUILT = tempfile.TemporaryDirectory(prefix="spin-")


def compiled(name):
    command = ["cc", "-O3", "-Wall", "-o", f"{BUILT.name}/{name}", servers.RIVALS / f"c/{name}.c"]
    subprocess.run(command, check=True)
    return f"{BUILT.name}/{name}"


ECHO, PING = compiled("bare_echo"), compiled("ping")
OWN = [servers.EXAMPLES / "echo", "--addr", "tcp4://127.0.0.1:{port}", "--reactors", "1"]

# Each pair is a server that sleeps and the same one spinning.
SERVERS = {
    "epicycle": (
        servers.Server("epicycle", *OWN),
        servers.Server("epicycle, spinning", *OWN, "--spin", "1000"),
    ),
    "bare loop in C": (
        servers.Server("bare loop in C", ECHO, "{port}"),
        servers.Server("bare loop in C, spinning", ECHO, "{port}", "spin"),
    ),
}
CLIENTS = {"sleeps": [], "spins": ["spin"]}


def measure(server, flags):
    """Returns the median and the 99th percentile of the round trips, in microseconds."""
    running = servers.Running(server, 4096)
    try:
        command = [PING, str(running.port), str(TRIPS), str(SIZE), *flags]
        pin = lambda: os.sched_setaffinity(0, servers.LOAD_CORE)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=pin)
        return [int(nanos) / 1000 for nanos in done.stdout.split()]
    finally:
        running.stop()


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


cells = [(client, name, spins) for client in CLIENTS for name in SERVERS for spins in (False, True)]
times = {cell: [] for cell in cells}
for number in range(ROUNDS):
    for cell in cells if number % 2 == 0 else reversed(cells):
        client, name, spins = cell
        times[cell].append(measure(SERVERS[name][spins], CLIENTS[client]))

print("| client | server | p50, blocking | p50, spinning | ratio | p99, blocking | p99, spinning |\n|---|---|---|---|---|---|---|")
for client in CLIENTS:
    for name in SERVERS:
        asleep, spinning = times[client, name, False], times[client, name, True]
        ratio = statistics.median(b[0] / a[0] for a, b in zip(asleep, spinning))
        p50, p99 = ([spread([trip[n] for trip in trips]) for trips in (asleep, spinning)] for n in (0, 1))
        print(f"| {client} | {name} | {' | '.join(p50)} | {ratio:.2f} | {' | '.join(p99)} |")
