#!/usr/bin/env python3
"""Measures the memory of an idle connection: the server's resident memory and the kernel's memory.

    cargo build --profile production --features tls,http,ws,rpc --example echo --example http --example websocket_echo --example tls_echo --example rpc_server
    benches/memory.py [CONNECTIONS]

Opens CONNECTIONS (5,000) to each example, and sends one message there and back on each. Then they idle. The server's memory
is the growth of its Rss. The kernel's is the growth of Slab in /proc/meminfo, halved, because both ends are on this machine.
So it is right only while nothing else opens connections. Needs Linux, and descriptors for all connections (ulimit -n). Uses
only loopback.
"""
import resource, socket, ssl, sys, time

from serving import Server, slab

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"
TAKEOVER = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


def plain(addr):
    return socket.create_connection(addr)


def secure(version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return lambda addr: context.wrap_socket(socket.create_connection(addr))


def measure(command, connect, *messages):
    """Returns the bytes of the server and of the kernel for a connection."""
    server = Server(*command)

    def open_one():
        peer = connect(server.addr)
        for message in messages:
            peer.sendall(message)
            peer.recv(65536)
        return peer

    # Memory that the server and the kernel allocate only once must not count.
    for peer in [open_one() for _ in range(100)]:
        peer.close()
    time.sleep(0.5)
    before, slab_before = server.resident(), slab()
    peers = [open_one() for _ in range(COUNT)]
    time.sleep(0.5)
    used, slab_used = server.resident() - before, slab() - slab_before
    for peer in peers:
        peer.close()
    server.stop()
    return used / COUNT, slab_used / COUNT / 2


LISTEN = ["--addr", "tcp4://127.0.0.1:0", "--reactors", "1"]
LISTEN_TLS = ["--listen", "tcp4://127.0.0.1:0", "--reactors", "1"]
PING = b"\x81\x85\0\0\0\0hello"
# A CALL in the raw protocol of v4.1.
CALL = b"\0\0\0\x19r\0\0\x010\x01\0\x05/echo\0\0phello"
KINDS = {
    "plain": (["echo", *LISTEN], plain, b"hello"),
    "http": (["http", *LISTEN], plain, REQUEST),
    "rpc session": (["rpc_server", *LISTEN, "--push-every", "0"], plain, CALL),
    "websocket": (["websocket_echo", *LISTEN], plain, UPGRADE % b"", PING),
    "websocket, deflate": (["websocket_echo", *LISTEN, "--deflate"], plain, UPGRADE % DEFLATE, PING),
    "websocket, deflate with context takeover": (["websocket_echo", *LISTEN, "--deflate"], plain, UPGRADE % TAKEOVER, PING),
    "tls 1.3": (["tls_echo", *LISTEN_TLS], secure(ssl.TLSVersion.TLSv1_3), b"hello"),
    "tls 1.2": (["tls_echo", *LISTEN_TLS], secure(ssl.TLSVersion.TLSv1_2), b"hello"),
}

if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(COUNT + 200, hard),) * 2)
    print(f"{COUNT} connections, bytes each:  server  kernel")
    for name, (command, connect, *messages) in KINDS.items():
        used, kernel = measure(command, connect, *messages)
        print(f"{name:44}{used:6.0f}  {kernel:6.0f}", flush=True)
