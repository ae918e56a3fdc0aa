"""Calls of an RPC peer over a WebSocket, written by Teleport's format alone: rpc_websocket.py URL"""
import gzip
import json
import sys
from urllib.parse import parse_qs

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

URL = sys.argv[1]
CALL, REPLY, PUSH = 1, 2, 3
LIMIT = 60


def message(seq, kind, uri, body, meta="", codec=ord("j")):
    text = {"seq": seq, "mtype": kind, "uri": uri, "meta": meta, "body_codec": codec, "body": body, "xfer_pipe": []}
    return json.dumps(text)


def received(peer):
    got = peer.recv(timeout=LIMIT)
    assert isinstance(got, bytes), got
    return json.loads(got)


def failed(reply):
    return json.loads(parse_qs(reply["meta"])["X-Reply-Error"][0])


def open_(url=URL):
    # Nothing on this machine is behind a proxy.
    return connect(url, proxy=None, open_timeout=LIMIT, close_timeout=LIMIT)


with open_() as peer:
    # A text, and bytes.
    for wrap in (str, str.encode):
        peer.send(wrap(message("a", CALL, "/math/add?author=py", "[1, 2, 3]")))
        reply = received(peer)
        assert (reply["seq"], reply["mtype"], reply["body"], reply["xfer_pipe"]) == ("a", REPLY, "6", []), reply
    # Many at once, in fragments and with pings between them.
    for n in range(200):
        peer.send(iter(message(str(n), CALL, "/math/add", f"[{n}, 1]").partition(":")))
        peer.ping()
    sums = {}
    while len(sums) < 200:
        reply = received(peer)
        sums[reply["seq"]] = int(reply["body"])
    assert sums == {str(n): n + 1 for n in range(200)}, sums
    # Characters that need an escape, and others beyond ASCII.
    text = "\\ \" \n é € 😀"
    peer.send(message("t", CALL, "/echo", json.dumps(text)))
    assert json.loads(received(peer)["body"]) == text
    peer.send(message("e", CALL, "/nowhere", ""))
    assert failed(received(peer))["code"] == 404
    peer.send(message("b", CALL, "/math/add", "no JSON"))
    assert failed(received(peer))["code"] == 400
    # The server calls back within a call, and pushes.
    peer.send(message("g", CALL, "/greet", '"hello"'))
    asked = received(peer)
    assert (asked["mtype"], asked["uri"]) == (CALL, "/name"), asked
    peer.send(message(asked["seq"], REPLY, "", '"python"'))
    assert received(peer)["body"] == '"hello, python"'
    peer.send(message("p", PUSH, "/note", '"back"'))
    push = received(peer)
    assert (push["mtype"], push["uri"], push["body"]) == (PUSH, "/noted", '"back"'), push
    # The protobuf of a message, with its body compressed, has the wrong form here.
    peer.send(gzip.compress(b"{}"))
    try:
        peer.recv(timeout=LIMIT)
        raise AssertionError("it goes on")
    except Exception as end:
        assert peer.close_code == 1002, (peer.close_code, end)

try:
    open_(URL + "/elsewhere")
    raise AssertionError("it opens")
except InvalidStatus as refused:
    assert refused.response.status_code == 404
