#!/usr/bin/env python3
"""Compares `epicycle gateway` as a SOCKS5 proxy, as a forward proxy and as a forwarder of ports with programs of each kind.

    cargo build --profile production --features cli --bin epicycle --example forward
    benches/tunnels.py [ROUNDS]

The rivals are microsocks, tinyproxy, HAProxy in TCP mode, and, for datagrams, socat and nginx with its stream module. Each has
the first core, the load runs on the second, and all take turns in every round. Results are medians over the rounds, with the
ratio to the forward example of the same round. Needs Linux with two cores, and Debian's packages microsocks, tinyproxy,
haproxy, socat, nginx and libnginx-mod-stream; what is absent is left out. Uses only loopback. A round takes about half a minute.
"""
import os, pathlib, select, shutil, socket, statistics, struct, sys, tempfile, time

import forward
from forward import FORWARDER_CORE, LOAD_CORE, Forwarder, free_port
from gateway import EPICYCLE, EXAMPLES, prefer, turns

MESSAGE = bytes(1024)
NGINX_STREAM = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1; master_process off; daemon off; pid pid; error_log errors crit;
events {{ worker_connections 16384; }}
stream {{ server {{ listen 127.0.0.1:{port} udp; proxy_pass 127.0.0.1:{target}; }} }}
"""
TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 600
MaxClients 2000
LogLevel Critical
ConnectPort {target}
"""
GATEWAY = """
reactors = 1
[[listen]]
on = "SCHEME://127.0.0.1:{port}"
kind = "KIND"
"""
OPEN = 'egress = {{ allow = ["127.0.0.1:{target}"] }}'
TO_POOL = 'pool = "target"\n[pool.target]\nnodes = ["SCHEME://127.0.0.1:{target}"]\n'


def server(command, configuration="", **how):
    """Returns a function that starts a forwarder to a target, on a free port."""
    if not shutil.which(command[0]):
        return None

    def start(target):
        words = {"port": free_port(), "target": target}
        words["folder"] = (folder := tempfile.TemporaryDirectory(prefix="tunnels-")).name
        pathlib.Path(folder.name, "configuration").write_text(configuration.format(**words))
        program = [shutil.which(command[0]), *(word.format(**words) for word in command[1:])]
        return Forwarder(program, words["port"], folder, **how)

    return start


def epicycle(kind, rest, scheme="tcp", **how):
    configuration = (GATEWAY + rest).replace("KIND", kind).replace("SCHEME", scheme)
    return server([EPICYCLE, "gateway", "--config", "{folder}/configuration"], configuration, **how)


def plain(near, target):
    pass


def socks(near, target):
    near.sendall(b"\5\1\0")
    assert received(near, 2) == b"\5\0"
    near.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + struct.pack(">H", target))
    assert received(near, 10)[:2] == b"\5\0"


def connect(near, target):
    near.sendall(f"CONNECT 127.0.0.1:{target} HTTP/1.1\r\nHost: 127.0.0.1:{target}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += near.recv(4096)
    assert b" 200 " in answer, answer


def received(peer, length):
    data = b""
    while len(data) < length:
        data += peer.recv(length - len(data)) or sys.exit("a proxy closes too early")
    return data


TCP = {
    "examples/forward": (forward.epicycle, plain),
    "epicycle, port": (epicycle("tcp", TO_POOL), plain),
    "HAProxy, port": (forward.haproxy(forward.SPLICE), plain),
    "epicycle, SOCKS5": (epicycle("socks5", OPEN), socks),
    "microsocks": (server(["microsocks", "-i", "127.0.0.1", "-p", "{port}"]), socks),
    "epicycle, CONNECT": (epicycle("forward", OPEN), connect),
    "tinyproxy": (server(["tinyproxy", "-d", "-c", "{folder}/configuration"], TINYPROXY), connect),
}


def echoes(addr):
    """Tells if a datagram gets to the target of a forwarder and back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(0.2)
        peer.connect(addr)
        try:
            peer.send(probe := os.urandom(8))
            # Probes from before may come late.
            while (received := ECHO.recvfrom(2048))[0] != probe:
                pass
            ECHO.sendto(*received)
            return peer.recv(2048) == probe
        except (ConnectionRefusedError, TimeoutError):
            return False


ECHO = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ECHO.bind(("127.0.0.1", 0))
ECHO.settimeout(0.2)
UDP = {
    "nginx": server(["nginx", "-p", "{folder}/", "-c", "{folder}/configuration"], NGINX_STREAM, answers=echoes),
    "epicycle": epicycle("udp", TO_POOL, "udp", answers=echoes),
    "socat": server(["socat", "-T2", "UDP4-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", "UDP4:127.0.0.1:{target}"], answers=echoes),
}
DATAGRAM = "a datagram of 200 bytes, there or back, of one of 50 peers: us"


def datagrams(addr, peers, total):
    """Sends datagrams back and forth, one under way for each peer. Returns how many."""
    poll = select.epoll()
    poll.register(ECHO, select.EPOLLIN)
    ends = {}
    for _ in range(peers):
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.connect(addr)
        ends[peer.fileno()] = peer
        poll.register(peer, select.EPOLLIN)
        peer.send(bytes(200))
    moved = 0
    while moved < total:
        ready = poll.poll(1) or sys.exit("datagrams are lost")
        for fd, _ in ready:
            if fd == ECHO.fileno():
                ECHO.sendto(*ECHO.recvfrom(2048))
            else:
                ends[fd].send(ends[fd].recv(2048))
            moved += 1
    for peer in ends.values():
        peer.close()
    return moved


def joined(handshake):
    """Returns a function that makes both ends of a connection through a proxy."""

    def both(listener, addr):
        near = socket.create_connection(addr)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake(near, listener.getsockname()[1])
        far = listener.accept()[0]
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near, far

    return both


def visits(listener, addr, handshake, count):
    """Connects, sends a message of 1 KiB there and back, and closes, `count` times."""
    both = joined(handshake)
    for _ in range(count):
        near, far = both(listener, addr)
        near.sendall(MESSAGE)
        far.sendall(received(far, len(MESSAGE)))
        received(near, len(MESSAGE))
        near.close()
        far.recv(1)
        far.close()
    return count


LOADS = {
    "connect, 1 KiB there and back, close: us": (1e6, lambda *at: visits(*at, 1_000)),
    "64 bytes on one of 50 connections: us": (1, lambda listener, addr, handshake: ping_pong(listener, addr, joined(handshake))),
    "a GiB in one stream: s": (1, lambda listener, addr, handshake: forward.bulk(listener, addr, 1, forward.GIB, joined(handshake))),
}


def ping_pong(listener, addr, both):
    return forward.ping_pong(listener, addr, 50, 20_000, both)


def streams(listener, turn, results):
    for name in turns([name for name, (start, _) in TCP.items() if start], turn):
        start, handshake = TCP[name]
        proxy = start(listener.getsockname()[1])
        try:
            forward.drop_probe(listener)
            for load, (scale, run) in LOADS.items():
                rate, cost = forward.measure(proxy, lambda: run(listener, proxy.addr, handshake))
                results.setdefault((load, name), []).append((cost * scale, rate))
        finally:
            proxy.stop()


def packets(turn, results):
    for name in turns([name for name, start in UDP.items() if start], turn):
        proxy = UDP[name](ECHO.getsockname()[1])
        try:
            rate, cost = forward.measure(proxy, lambda: datagrams(proxy.addr, 50, 20_000))
            results.setdefault((DATAGRAM, name), []).append((cost * 1e6, rate))
        finally:
            # socat has children, which would be interrupted in its place.
            proxy.process.terminate()
            proxy.stop()


def report(load, results, names, first):
    print(f"\n{load} of the proxy's CPU (a second of time; ratio to {first}, least and most)")
    for name in names:
        if (load, name) not in results:
            continue
        costs, rates = zip(*results[load, name])
        ratios = [cost / base[0] for cost, base in zip(costs, results[load, first])]
        shown = f"{statistics.median(costs):9.2f}  ({statistics.median(rates):10,.2f}; "
        print(f"  {name:20}{shown}{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f})")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    os.sched_setaffinity(0, LOAD_CORE)
    prefer()
    results = {}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        for turn in range(rounds):
            streams(listener, turn, results)
            packets(turn, results)
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    for load in LOADS:
        report(load, results, TCP, "examples/forward")
    report(DATAGRAM, results, UDP, "nginx")


if __name__ == "__main__":
    main()
