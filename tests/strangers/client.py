"""A check of a WebSocket echo server by the PyPI package websockets: client.py URL CHECK"""
import os
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.sync.client import connect

URL = sys.argv[1]
LIMIT = 60


def open_(url=URL, **options):
    # Nothing on this machine is behind a proxy.
    return connect(url, legacy=True, proxy=None, max_size=4 << 20, open_timeout=LIMIT, close_timeout=LIMIT, **options)


def comes_back(peer, message):
    peer.send(message)
    answer = peer.recv(timeout=LIMIT)
    assert type(answer) is type(message) and answer == message, (message[:80], answer[:80])


def echo():
    with open_(compression=None) as peer:
        for message in ("hello", "", "zażółć gęślą jaźń €😀", b"", bytes(range(256))):
            comes_back(peer, message)
        for size in (125, 126, 127, 65535, 65536):
            comes_back(peer, os.urandom(size))
            comes_back(peer, "x" * size)


def large():
    with open_(compression=None) as peer:
        comes_back(peer, os.urandom(1 << 20))
        comes_back(peer, "é" * (1 << 19))


def fragments():
    with open_(compression=None) as peer:

        def pieces():
            yield "one "
            # A control frame may come between fragments.
            peer.ping("between")
            yield ""
            yield "€ "
            yield "three"

        peer.send(pieces())
        assert peer.recv(timeout=LIMIT) == "one € three"
        # A character may be cut in two.
        with peer.send_context():
            peer.protocol.send_text(b"\xe2\x82", fin=False)
            peer.protocol.send_continuation(b"\xac", fin=True)
        assert peer.recv(timeout=LIMIT) == "€"
        peer.send([b"\0", b"", b"\xff"])
        assert peer.recv(timeout=LIMIT) == b"\0\xff"


def pings():
    with open_() as peer:
        for payload in (b"", b"payload", bytes(125)):
            assert peer.ping(payload).wait(LIMIT), payload


def pinged():
    with open_() as peer:
        peer.send("ping are you there?")
        assert peer.recv(timeout=LIMIT) == "pong are you there?"


def close():
    for code, reason in ((1000, ""), (1001, "leaving"), (3000, "é" * 61), (4999, "x")):
        peer = open_()
        peer.close(code, reason)
        # The reason is not repeated.
        assert peer.close_code == code, (peer.close_code, peer.close_reason)
    # Goodbye without a code.
    peer = open_()
    with peer.send_context():
        peer.protocol.send_close()
    ends(peer, 1005, "")


def closed():
    for code, reason in ((1000, ""), (1011, "sorry"), (4001, "é" * 61)):
        peer = open_()
        peer.send(f"close {code} {reason}")
        ends(peer, code, reason)


def invalid():
    faults = (
        (1007, lambda protocol: protocol.send_text(b"\xc3\x28")),
        (1007, lambda protocol: (protocol.send_text(b"fine \xe2\x82", fin=False), protocol.send_continuation(b"", fin=True))),
        (1002, lambda protocol: protocol.writes.append(b"\x83\x80\0\0\0\0")),
        (1002, lambda protocol: protocol.writes.append(b"\xc1\x80\0\0\0\0")),
        (1002, lambda protocol: protocol.writes.append(b"\x81\x01x")),
        (1002, lambda protocol: protocol.writes.append(b"\x80\x80\0\0\0\0")),
        (1002, lambda protocol: protocol.writes.append(b"\x09\x80\0\0\0\0")),
        (1002, lambda protocol: protocol.writes.append(b"\x88\x82\0\0\0\0\x03\xed")),
    )
    for code, fault in faults:
        peer = open_(compression=None)
        with peer.send_context():
            fault(peer.protocol)
        ends(peer, code)


def too_long():
    with open_(compression=None) as peer:
        try:
            peer.send(bytes(3 << 20))
        except ConnectionClosed:
            pass
        ends(peer, 1009)


def deflate():
    """More arguments are what the server shall have agreed to, and what is offered."""
    agreed, *flags = sys.argv[3:]
    flags = [flag.partition("=") for flag in flags]
    flags = {name: int(value) if value else True for name, _, value in flags}
    with open_(compression=None, extensions=[ClientPerMessageDeflateFactory(**flags)]) as peer:
        got = peer.response.headers.get("Sec-WebSocket-Extensions", "none")
        assert got == agreed, got
        for _ in range(3):
            comes_back(peer, "over and over and " * 500)
            comes_back(peer, os.urandom(10_000))
            comes_back(peer, "")
            comes_back(peer, "short")
            peer.send(["in pieces " * 100, "", "€" * 1000])
            assert peer.recv(timeout=LIMIT) == "in pieces " * 100 + "€" * 1000
        assert peer.ping(b"not compressed").wait(LIMIT)


def bomb():
    """More than the server takes, in few bytes."""
    with open_() as peer:
        peer.send(bytes(64 << 20))
        ends(peer, 1009)


def protocol():
    for offered, agreed in ((["other", "echo.v1"], "echo.v1"), (["other"], None), (None, None)):
        with open_(subprotocols=offered) as peer:
            assert peer.subprotocol == agreed, peer.subprotocol
            comes_back(peer, "hello")


def origin():
    with open_(origin="https://good.example") as peer:
        comes_back(peer, "hello")
    refused(403, URL, origin="https://evil.example")
    refused(404, URL + "nothing")


def refused(status, url, **options):
    try:
        open_(url, **options)
    except InvalidStatus as refusal:
        assert refusal.response.status_code == status, refusal
    else:
        raise AssertionError("it is let in")


def ends(peer, code, reason=None):
    """The server closes with that code."""
    try:
        while True:
            peer.recv(timeout=LIMIT)
    except ConnectionClosed:
        pass
    assert peer.close_code == code, (peer.close_code, peer.close_reason)
    assert reason is None or peer.close_reason == reason, peer.close_reason


globals()[sys.argv[2]]()
