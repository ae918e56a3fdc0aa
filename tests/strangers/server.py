"""A WebSocket echo server by the PyPI package websockets: server.py [none|deflate|takeover]. It says its port."""
import re
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.sync.server import serve


def echo(peer):
    try:
        for message in peer:
            if isinstance(message, str) and (found := re.fullmatch(r"close (\d+) (.*)", message)):
                return peer.close(int(found[1]), found[2])
            if isinstance(message, str) and (found := re.fullmatch(r"ping (.*)", message)):
                # Not here: this thread takes the pong.
                threading.Thread(target=ping, args=[peer, found[1]]).start()
            elif message == "in pieces":
                peer.send(["in ", "", "pieces"])
            else:
                peer.send(message)
    except ConnectionClosed:
        pass


def ping(peer, payload):
    if peer.ping(payload).wait(60):
        peer.send(f"pong {payload}")


takeover = sys.argv[1:] == ["takeover"]
deflate = ServerPerMessageDeflateFactory(
    server_no_context_takeover=not takeover, client_no_context_takeover=not takeover
)
options = dict(
    compression=None,
    extensions=[] if sys.argv[1:] == ["none"] else [deflate],
    subprotocols=["echo.v1"],
    select_subprotocol=lambda _, offered: "echo.v1" if "echo.v1" in offered else None,
    origins=[None, "https://good.example"],
    max_size=2 << 20,
)
with serve(echo, "127.0.0.1", 0, **options) as server:
    print("port", server.socket.getsockname()[1], flush=True)
    # It ends with the test that has started it.
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown())).start()
    server.serve_forever()
