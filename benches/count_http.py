#!/usr/bin/env python3
"""Counts the costs of the http example: instructions and system calls for a request.

    cargo build --profile production --features tls,http,ws --example http && benches/count_http.py

It works as count.py and uses its helpers: 64 connections, and a slope between few and many requests. One request or 16 are
under way on each connection. The 16 heads of heads.txt take turns, with different targets, hosts and header sets, and a
server gives all of them the same answer; their first half is small. The other two heads differ in a serial number only, and
the example serves them with all that it has. Needs Linux, valgrind and strace. Ends within about two minutes.
"""
import itertools, pathlib, selectors, socket, sys, tempfile

import count

count.ECHO = sys.argv[1] if len(sys.argv) > 1 else "target/production/examples/http"

SMALL = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{}\r\n"
BROWSER = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    "Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n"
    "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n{}\r\n"
)


def varied():
    """Returns the requests of heads.txt, shortest first."""
    text = pathlib.Path(__file__).with_name("heads.txt").read_text()
    return [head.strip("\n").replace("\n", "\r\n") + "\r\n\r\n" for head in text.split("\n\n")]


def numbered(template):
    """Yields requests with a serial number in a header of each."""
    return (template.format(f"X-Request-Id: {n:08}\r\n") for n in itertools.count())


def requests(heads, depth):
    """Returns a load of requests, `depth` of them under way on each connection."""
    heads = iter(heads)

    def batch():
        return "".join(itertools.islice(heads, depth)).encode()

    def load(addr, total, connections=64):
        selector = selectors.DefaultSelector()
        left = [total // connections // depth] * connections
        got = [0] * connections
        for n in range(connections):
            peer = socket.create_connection(addr)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(peer, selectors.EVENT_READ, n)
            peer.sendall(batch())
        peers = connections
        while peers:
            for key, _ in selector.select():
                n = key.data
                got[n] += key.fileobj.recv(65536).count(b"Hello World!")
                if got[n] < depth:
                    continue
                got[n] = 0
                left[n] -= 1
                if left[n] > 0:
                    key.fileobj.sendall(batch())
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    peers -= 1

    return load


def system_calls(load, total):
    with tempfile.NamedTemporaryFile("r") as log:
        server = count.Server("strace", "-f", "-c", "-o", log.name)
        load(server.addr, total)
        server.stop()
        rows = (line.split() for line in log.read().splitlines())
        calls = {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit()}
        return ", ".join(f"{calls.get(name, 0) / total:.3f} {name}" for name in ("recvfrom", "sendto", "epoll_wait"))


def show(name, heads):
    for depth in (1, 16):
        few, many = 64 * depth * 20, 64 * depth * 120
        cost = count.slope(requests(heads, depth), few, many)
        print(f"  {name + ',':30} {depth:2} under way on a connection {cost:9.0f}")


if __name__ == "__main__":
    heads = varied()
    print("instructions a request, each head parsed anew:")
    count.FLAGS = ["--hello"]
    show("8 small heads by turns", itertools.cycle(heads[:8]))
    show("16 heads by turns", itertools.cycle(heads))
    count.FLAGS = []
    show("a small head", numbered(SMALL))
    show("a browser's head", numbered(BROWSER))
    print("system calls a request, one under way:  ", system_calls(requests(numbered(SMALL), 1), 6_400))
    print("system calls a request, 16 under way:   ", system_calls(requests(numbered(SMALL), 16), 102_400))
