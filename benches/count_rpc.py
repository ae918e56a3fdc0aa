#!/usr/bin/env python3
"""Counts the costs of the rpc_server example: instructions and system calls for a call.

    cargo build --profile production --features rpc --example rpc_server && benches/count_rpc.py

It works as count.py and uses its helpers: 64 connections, and a slope between few and many calls. One call or 16 are under
way on each connection. The calls go to a handler on encoded bodies, which echoes 581 bytes, the size of the message that
Teleport is measured with. Each call has a `seq` of its own. Needs Linux, valgrind and strace. Ends within about a minute.
"""
import itertools, selectors, socket, struct, sys

import count

count.ECHO = sys.argv[1] if len(sys.argv) > 1 else "target/production/examples/rpc_server"
count.FLAGS = ["--push-every", "0"]

BODY = bytes(range(256)) * 2 + bytes(69)


def call(seq):
    """Returns a CALL in the raw protocol of v4.1."""
    seq = str(seq).encode()
    payload = b"".join([struct.pack(">H", len(seq)), seq, b"\x01", struct.pack(">H", 5), b"/echo", b"\0\0", b"p", BODY])
    return struct.pack(">I", 6 + len(payload)) + b"r\0" + payload


def calls(depth):
    """Returns a load of calls, `depth` of them under way on each connection."""

    def load(addr, total, connections=64):
        selector = selectors.DefaultSelector()
        numbers = [itertools.count() for _ in range(connections)]
        left = [total // connections // depth] * connections
        missing = [0] * connections

        def send(peer, n):
            batch = [call(next(numbers[n])) for _ in range(depth)]
            # A reply has the bytes of its call, without the URI.
            missing[n] += sum(len(message) - 5 for message in batch)
            peer.sendall(b"".join(batch))

        for n in range(connections):
            peer = socket.create_connection(addr)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(peer, selectors.EVENT_READ, n)
            send(peer, n)
        peers = connections
        while peers:
            for key, _ in selector.select():
                n = key.data
                missing[n] -= len(key.fileobj.recv(65536))
                if missing[n] > 0:
                    continue
                left[n] -= 1
                if left[n] > 0:
                    send(key.fileobj, n)
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    peers -= 1

    return load


if __name__ == "__main__":
    for depth in (1, 16):
        cost = count.slope(calls(depth), 6_400, 32_000)
        print(f"instructions for a call, {depth:2} under way: {cost:6.0f}")
