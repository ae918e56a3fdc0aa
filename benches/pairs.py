#!/usr/bin/env python3
"""Measures a relay between two connections of one reactor (benches/pairs.rs, through `Conn::with`).

    benches/pairs.py [ROUNDS]

The server is stopped while the clients send, so that it finds a whole message on each connection, and the batches are of one
size.

64 connections, messages of 64 bytes: user instructions for each, as a slope between few and many. Needs valgrind.

16 connections, messages of 64 KiB: processor time for each, next to that of a loop in C which receives into one buffer and
sends from there (benches/rivals/c/bare_relay.c). The servers take turns on the first core, the load is on the second. Medians
over the rounds (11), with the least and the most, and the median of the ratios within a round.

Needs Linux with two cores, and cc. Uses only loopback. It builds pairs.rs first; then it takes about a minute.
"""
import json, os, re, signal, socket, statistics, subprocess, sys, tempfile, time

from sides import servers

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 11
SMALL, LARGE = 64, 64 << 10
BUILT = tempfile.TemporaryDirectory(prefix="pairs-")


def built():
    command = ["cargo", "build", "--profile", "production", "--bench", "pairs", "--message-format", "json"]
    lines = subprocess.run(command, cwd=servers.ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    return next(path for path in (json.loads(line).get("executable") for line in lines) if path)


def bare_relay():
    command = ["cc", "-O3", "-Wall", "-o", f"{BUILT.name}/bare_relay", servers.RIVALS / "c/bare_relay.c"]
    subprocess.run(command, check=True)
    return command[4]


def connected(port, pairs):
    """Returns the ends of pairs of connections, each with its other one."""
    # The probe of the server's start leaves first.
    time.sleep(0.3)
    ends = {}
    for _ in range(pairs):
        near, far = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        for end, other in ((near, far), (far, near)):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(10)
            ends[end] = other
    # It accepts them all before a message arrives.
    time.sleep(0.3)
    for near, far in ends.items():
        near.send(b"?")
        assert far.recv(1) == b"?", "the server has joined other connections"
    return ends


def in_batches(running, ends, size, rounds):
    """Passes a message through each connection, again and again. The server finds them all at once."""
    message, into = bytes(size), bytearray(size)
    for _ in range(rounds):
        running.process.send_signal(signal.SIGSTOP)
        while not all(") T " in thread for thread in threads(running, "stat")):
            time.sleep(0)
        for end in ends:
            end.sendall(message)
        running.process.send_signal(signal.SIGCONT)
        for end in ends:
            left = size
            while left > 0:
                got = end.recv_into(into, left)
                assert got > 0, "the server has closed a connection"
                left -= got


def threads(running, file):
    """Returns a file of each thread of a server, from /proc."""
    tasks = f"/proc/{running.process.pid}/task"
    return [open(f"{tasks}/{task}/{file}").read() for task in os.listdir(tasks)]


def instructions(binary, rounds):
    with tempfile.NamedTemporaryFile("r") as log:
        tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log.name}"]
        running = servers.Running(servers.Server("pairs", *tool, binary, "{port}"), 0)
        in_batches(running, connected(running.port, 32), SMALL, rounds)
        running.stop()
        return int(re.findall(r"Collected : (\d+)", log.read())[-1])


def cpu(running):
    """Returns the processor time of a server in microseconds."""
    return sum(int(times.split()[0]) for times in threads(running, "schedstat")) / 1000


def measure(server, rounds=400):
    """Returns the processor time for a message of 64 KiB in microseconds."""
    running = servers.Running(server, 0)
    try:
        ends = connected(running.port, 8)
        # The kernel's buffers grow at first.
        in_batches(running, ends, LARGE, rounds // 4)
        before = cpu(running)
        in_batches(running, ends, LARGE, rounds)
        return (cpu(running) - before) / (rounds * len(ends))
    finally:
        running.stop()


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    binary = built()
    few, many = (instructions(binary, rounds) for rounds in (50, 250))
    print(f"64 bytes: {(many - few) / (200 * 64):.0f} user instructions a message")
    os.sched_setaffinity(0, servers.LOAD_CORE)
    own = servers.Server("epicycle", binary, "{port}")
    bare = servers.Server("bare loop in C", bare_relay(), "{port}")
    times = {own: [], bare: []}
    for number in range(ROUNDS):
        for server in (own, bare) if number % 2 else (bare, own):
            times[server].append(measure(server))
    for server, values in times.items():
        print(f"64 KiB, {server.name}: {spread(values)} µs a message")
    print(f"ratio: {statistics.median(a / b for a, b in zip(times[own], times[bare])):.2f}")
