"""An RPC peer by itself, with Python's standard library only, written from the tables in docs/rpc.md.

    rpc_peer.py client PORT PROTO    checks the peer at this port of localhost, with the routes of the example rpc_server
    rpc_peer.py server PROTO         prints "port N", and serves those routes, one connection after the other

PROTO is raw, json or pb; with a 4 behind it, it is the dialect of v4.0.0.
"""

import hashlib
import json
import socket
import struct
import sys
import urllib.parse
import zlib

CALL, REPLY, PUSH = 1, 2, 3
JSON, PROTOBUF, PLAIN, FORM = b"jpsf"
GZIP, MD5 = b"gm"


class Message:
    def __init__(self, kind, seq=b"", uri="", meta=(), codec=0, body=b"", filters=b""):
        self.kind, self.seq, self.uri, self.meta = kind, seq, uri, list(meta)
        self.codec, self.body, self.filters = codec, body, filters

    def get(self, key):
        return next((value for name, value in self.meta if name == key), None)

    def json(self):
        assert self.codec == JSON, self.codec
        return json.loads(self.body)

    def error(self):
        text = self.get("X-Reply-Error")
        return text and json.loads(text)

    def reply(self, value=None, error=None, dialect=41):
        """A REPLY has the URI of its CALL in v4.0.0 and none in v4.1, and the filters of its CALL."""
        reply = Message(REPLY, self.seq, self.uri if dialect == 40 else "", filters=self.filters)
        if error is None:
            reply.codec, reply.body = JSON, json.dumps(value).encode()
        else:
            reply.meta = [("X-Reply-Error", json.dumps(error))]
        return reply


def pack_meta(meta):
    quote = lambda text: urllib.parse.quote(text, safe="*._-").replace("~", "%7E")
    return "&".join(f"{quote(key)}={quote(value)}" for key, value in meta).encode()


def unpack_meta(data):
    return urllib.parse.parse_qsl(data.decode(), keep_blank_values=True)


def pack_filters(ids, data):
    """The first filter is the outermost."""
    for id in reversed(ids):
        if id == GZIP:
            # As Go does it: the stream is flushed, and never finished.
            packer = zlib.compressobj(wbits=31)
            data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
        else:
            assert id == MD5, id
            data += hashlib.md5(data).digest()
    return data


def unpack_filters(ids, data):
    for id in ids:
        if id == GZIP:
            data = zlib.decompressobj(wbits=31).decompress(data)
        else:
            assert id == MD5, id
            data, digest = data[:-16], data[-16:]
            assert hashlib.md5(data).digest() == digest
    return data


class Raw:
    """u32 size | 'r' | u8 n | n filter ids | payload, with length fields of 4 or 2 bytes in the payload."""

    def __init__(self, dialect):
        self.width = {40: ">I", 41: ">H"}[dialect]

    def pack(self, message):
        field = lambda data: struct.pack(self.width, len(data)) + data
        payload = field(message.seq) + bytes([message.kind]) + field(message.uri.encode())
        payload += field(pack_meta(message.meta)) + bytes([message.codec]) + message.body
        rest = b"r" + bytes([len(message.filters)]) + message.filters
        rest += pack_filters(message.filters, payload)
        return struct.pack(">I", len(rest) + 4) + rest

    def receive(self, read):
        (size,) = struct.unpack(">I", read(4))
        rest = read(size - 4)
        assert rest[0] == ord("r"), rest[0]
        filters = rest[2 : 2 + rest[1]]
        payload = unpack_filters(filters, rest[2 + rest[1] :])
        at = 0

        def field():
            nonlocal at
            (size,) = struct.unpack_from(self.width, payload, at)
            start = at + struct.calcsize(self.width)
            at = start + size
            assert at <= len(payload)
            return payload[start:at]

        seq = field()
        kind = payload[at]
        at += 1
        uri, meta = field().decode(), unpack_meta(field())
        return Message(kind, seq, uri, meta, payload[at], payload[at + 1 :], filters)


class Framed:
    """u32 size, not counting its 4 bytes | u8 n | n filter ids | blob"""

    def pack(self, message):
        rest = bytes([len(message.filters)]) + message.filters
        rest += pack_filters(message.filters, self.blob(message))
        return struct.pack(">I", len(rest)) + rest

    def receive(self, read):
        (size,) = struct.unpack(">I", read(4))
        rest = read(size)
        filters = rest[1 : 1 + rest[0]]
        message = self.message(unpack_filters(filters, rest[1 + rest[0] :]))
        message.filters = filters
        return message


class Json(Framed):
    def __init__(self, dialect):
        self.kind = {40: "ptype", 41: "mtype"}[dialect]

    def blob(self, message):
        return json.dumps(
            {
                "seq": message.seq.decode(),
                self.kind: message.kind,
                "uri": message.uri,
                "meta": pack_meta(message.meta).decode(),
                "body_codec": message.codec,
                "body": message.body.decode(),
            },
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()

    def message(self, blob):
        object = json.loads(blob)
        keys = ["seq", self.kind, "uri", "meta", "body_codec", "body"]
        assert list(object) == keys, list(object)
        meta = unpack_meta(object["meta"].encode())
        seq, body = object["seq"].encode(), object["body"].encode()
        return Message(object[self.kind], seq, object["uri"], meta, object["body_codec"], body)


class Pb(Framed):
    """seq = 1 string, mtype = 2 int32, uri = 3 string, meta = 4 bytes, body_codec = 5 int32, body = 6 bytes"""

    def __init__(self, _dialect):
        pass

    def blob(self, message):
        def varint(value):
            out = b""
            while value > 0x7F:
                out += bytes([value & 0x7F | 0x80])
                value >>= 7
            return out + bytes([value])

        out = b""
        fields = [message.seq, message.kind, message.uri.encode(), pack_meta(message.meta)]
        for number, value in enumerate(fields + [message.codec, message.body], 1):
            if isinstance(value, int) and value:
                out += bytes([number << 3]) + varint(value)
            elif value:
                out += bytes([number << 3 | 2]) + varint(len(value)) + value
        return out

    def message(self, blob):
        at = 0

        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = blob[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    return value

        values = [b"", 0, b"", b"", 0, b""]
        while at < len(blob):
            tag = varint()
            value = varint()
            if tag & 7 == 2:
                at += value
                assert at <= len(blob)
                value = blob[at - value : at]
            values[(tag >> 3) - 1] = value
        seq, kind, uri, meta, codec, body = values
        return Message(kind, seq, uri.decode(), unpack_meta(meta), codec, body)


def protocol(name):
    dialect = 40 if name.endswith("4") else 41
    return {"raw": Raw, "json": Json, "pb": Pb}[name.rstrip("4")](dialect), dialect


class Conn:
    def __init__(self, sock, proto):
        self.sock, self.file = sock, sock.makefile("rb")
        self.proto, self.dialect = protocol(proto)

    def send(self, *messages):
        self.sock.sendall(b"".join(map(self.proto.pack, messages)))

    def receive(self):
        def read(size):
            data = self.file.read(size)
            if len(data) < size:
                raise EOFError
            return data

        return self.proto.receive(read)

    def call(self, uri, value, seq=b"0", **rest):
        """Calls, and returns the reply. Answers the calls of the other side meanwhile."""
        self.send(Message(CALL, seq, uri, codec=JSON, body=json.dumps(value).encode(), **rest))
        return self.reply_to(seq)

    def reply_to(self, seq):
        while True:
            message = self.receive()
            if message.kind == REPLY:
                assert message.seq == seq, (message.seq, seq)
                return message
            if message.kind == CALL:
                assert message.uri.split("?")[0] == "/name", message.uri
                self.send(message.reply("a stranger", dialect=self.dialect))
            # Pushes are the server's own affair.


def client(port, proto):
    conn = Conn(socket.create_connection(("127.0.0.1", port), timeout=30), proto)

    reply = conn.call("/math/add?author=stranger", [1, 2, 3])
    assert reply.json() == 6, reply.body
    assert reply.uri == ("/math/add?author=stranger" if conn.dialect == 40 else ""), reply.uri

    for filters in [b"g", b"m", b"gm", b"mg", b"gg"]:
        reply = conn.call("/math/add", list(range(2000)), seq=filters, filters=filters)
        assert reply.json() == 1999000 and reply.filters == filters, (filters, reply.filters)

    for seq in [b"", b"a seq of mine", b"'\"\\ &="]:
        assert conn.call("/math/add", [], seq=seq).json() == 0

    # Errors: the handler's, no route, a body of another type, a codec that nobody knows.
    error = conn.call("/math/divide", [1, 0]).error()
    assert error == {"code": 1001, "message": "Bad Division", "reason": "1 / 0"}, error
    assert conn.call("/nowhere", 1).error()["code"] == 404
    assert conn.call("/math/add", "no numbers").error()["code"] == 400
    conn.send(Message(CALL, b"z", "/math/add", codec=122, body=b"?"))
    assert conn.reply_to(b"z").error()["code"] == 400

    # Metadata: the codec that is accepted, and pairs that need escapes.
    meta = [("X-Accept-Body-Codec", str(PLAIN)), ("a key", "an &=+ value"), ("a key", "once more")]
    reply = conn.call("/math/add", [40, 2], meta=meta)
    assert (reply.codec, reply.body) == (PLAIN, b"42"), (reply.codec, reply.body)

    # A handler that calls its caller before it replies.
    assert conn.call("/greet", "hello").json() == "hello, a stranger"
    conn.send(Message(PUSH, b"p", "/note", codec=JSON, body=b'"a push"'))

    # Calls in one write are answered in their order, and so is one that arrives byte by byte.
    seqs = [str(n).encode() for n in range(50)]
    body = lambda seq: json.dumps([int(seq)]).encode()
    calls = [Message(CALL, seq, "/math/add", codec=JSON, body=body(seq)) for seq in seqs]
    conn.send(*calls)
    for seq in seqs:
        assert conn.reply_to(seq).json() == int(seq)
    conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in conn.proto.pack(calls[7]):
        conn.sock.sendall(bytes([byte]))
    assert conn.reply_to(b"7").json() == 7

    # A cancelled call, and one whose time is over: neither holds up the others.
    conn.send(
        Message(CALL, b"long", "/sleep", codec=JSON, body=b"1"),
        Message(PUSH, b"x", "/_/cancel", codec=PLAIN, body=b"long"),
    )
    assert conn.call("/math/add", [5], seq=b"next").json() == 5
    late = [("X-Timeout", "50")]
    conn.send(Message(CALL, b"late", "/sleep", late, JSON, b"1"))
    assert conn.reply_to(b"late").error()["code"] == 408

    # A message with another version ends the connection, and no other.
    other = Conn(socket.create_connection(("127.0.0.1", port), timeout=30), proto)
    other.sock.sendall(b"\xff\xff\xff\xff\xff\xff")
    try:
        other.receive()
        raise SystemExit("a hostile size was accepted")
    except (EOFError, ConnectionResetError):
        pass
    assert conn.call("/math/add", [1]).json() == 1
    print("all is well")


def server(proto):
    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        try:
            serve(Conn(sock, proto))
        except (EOFError, ConnectionResetError):
            sock.close()


def serve(conn):
    noted, cancelled = [], []
    while True:
        message = conn.receive()
        path = message.uri.split("?")[0]
        if message.kind == PUSH:
            if path == "/note":
                noted.append(message.json())
            elif path == "/_/cancel":
                assert message.codec == PLAIN, message.codec
                cancelled.append(message.body.decode())
            continue
        assert message.kind == CALL, message.kind
        error = None
        if path == "/math/add":
            value = sum(message.json())
        elif path == "/greet":
            value = message.json() + ", " + conn.call("/name", None, seq=b"from Python").json()
        elif path == "/noted":
            value = noted
        elif path == "/cancelled":
            value = cancelled
        elif path == "/timeout":
            value = int(message.get("X-Timeout"))
        elif path == "/sleep":
            # It is never answered.
            continue
        elif path == "/math/divide":
            error = {"code": 1001, "message": "Bad Division", "reason": "%d / %d" % tuple(message.json())}
        else:
            error = {"code": 404, "message": "Not Found"}
        if error is not None:
            conn.send(message.reply(error=error, dialect=conn.dialect))
            continue
        # A push of its own in front of each reply.
        status = json.dumps(f"{path} was called").encode()
        push = Message(PUSH, b"s", "/push/status", codec=JSON, body=status)
        conn.send(push, message.reply(value, dialect=conn.dialect))


if __name__ == "__main__":
    if sys.argv[1] == "client":
        client(int(sys.argv[2]), sys.argv[3])
    else:
        server(sys.argv[2])
