#!/usr/bin/env python3
"""Counts the costs of the echo example: instructions and system calls for a message, memory for an idle connection.

    cargo build --profile production --example echo && benches/count.py

Unlike times, counts do not depend on the machine's load. An instruction count is a slope: (count at many messages - count
at few) / (many - few). So start-up and shutdown drop out. There are 64 connections, with one message of 64 bytes under way
on each. Needs Linux, valgrind and strace. Uses only loopback, and ends within about two minutes.
"""
import os, re, resource, selectors, signal, socket, subprocess, sys, tempfile, time

from serving import interrupt, resident

ECHO = sys.argv[1] if len(sys.argv) > 1 else "target/production/examples/echo"
MESSAGE = b"x" * 64
FLAGS = []


class Server:
    """The example with one reactor and FLAGS, optionally under a tracer."""

    def __init__(self, *tracer):
        if not os.path.exists(ECHO):
            sys.exit(f"{ECHO} is missing; build it: cargo build --profile production --example {os.path.basename(ECHO)}")
        command = [*tracer, ECHO, "--addr", "tcp4://127.0.0.1:0", "--reactors", "1", *FLAGS]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"listens on (\S+):(\d+)", line) or sys.exit(f"{ECHO} does not listen; it printed {line!r}")
        self.addr = (found[1], int(found[2]))

    def stop(self):
        interrupt(self.process.pid)
        self.process.wait(60)


def messages(addr, count, connections=64, message=MESSAGE):
    """Sends `count` messages over several connections, one at a time on each."""
    selector = selectors.DefaultSelector()
    left = [count // connections] * connections
    for n in range(connections):
        peer = socket.create_connection(addr)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(peer, selectors.EVENT_READ, n)
        peer.sendall(message)
    peers = connections
    while peers:
        for key, _ in selector.select():
            n = key.data
            key.fileobj.recv(65536)
            left[n] -= 1
            if left[n] > 0:
                key.fileobj.sendall(message)
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                peers -= 1


def visits(together):
    """Returns a load: clients that connect, send one message, receive it and close, `together` of them at a time."""

    def load(addr, count):
        for _ in range(count // together):
            peers = [socket.create_connection(addr) for _ in range(together)]
            for peer in peers:
                peer.sendall(MESSAGE)
            for peer in peers:
                peer.recv(65536)
                peer.shutdown(socket.SHUT_WR)
            for peer in peers:
                peer.recv(1)
                peer.close()

    return load


def instructions(load, count):
    with tempfile.NamedTemporaryFile("r") as log:
        tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log.name}"]
        server = Server(*tool)
        load(server.addr, count)
        server.stop()
        return int(re.findall(r"Collected : (\d+)", log.read())[-1])


def slope(load, few, many):
    return (instructions(load, many) - instructions(load, few)) / (many - few)


def system_calls(count):
    with tempfile.NamedTemporaryFile("r") as log:
        server = Server("strace", "-f", "-c", "-o", log.name)
        messages(server.addr, count)
        server.stop()
        for line in log.read().splitlines():
            fields = line.split()
            if len(fields) >= 5 and fields[3].isdigit() and int(fields[3]) * 1000 > count:
                errors = f", {fields[4]} of them errors" if fields[4].isdigit() else ""
                print(f"  {int(fields[3]) / count:7.4f} {fields[-1]}{errors}")


def idle_memory(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    server = Server()
    before = resident(server.process.pid)
    peers = []
    for n in range(count):
        peers.append(socket.create_connection(server.addr))
        if n % 100 == 0:
            time.sleep(0.005)
    for peer in peers:
        peer.sendall(MESSAGE)
        peer.recv(65536)
    used = resident(server.process.pid) - before
    for peer in peers:
        peer.close()
    server.stop()
    return used / count


if __name__ == "__main__":
    print(f"instructions for a message:                 {slope(messages, 6_400, 32_000):6.0f}")
    print(f"instructions for accept, echo and close:    {slope(visits(1), 800, 4_000):6.0f}")
    print(f"the same, eight clients at a time:          {slope(visits(8), 800, 4_000):6.0f}")
    print(f"bytes of memory for an idle connection:     {idle_memory(10_000):6.0f}")
    print("system calls for a message:")
    system_calls(32_000)
