#!/usr/bin/env python3
"""Two players of the game talk: in their room, to all, and to one. Usage: game_players.py PORT"""

import json
import socket
import struct
import sys

LOGIN, JOIN, SAY, SAY_TO_ALL, WHISPER, SAID = 1, 3, 6, 7, 8, 51


class Player:
    def __init__(self, port, name, room):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.uid = self.ask(LOGIN, {})["uid"]
        self.ask(JOIN, {"room": room, "name": name})

    def send(self, route, body, seq=0):
        data = json.dumps(body).encode()
        self.socket.sendall(struct.pack(">IBhh", 5 + len(data), 0, route, seq) + data)

    def read(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the gate has closed the connection"
            data += more
        return data

    def next(self, wanted, seq):
        while True:
            rest = self.read(struct.unpack(">I", self.read(4))[0])
            if not rest[0] & 0x80 and struct.unpack(">hh", rest[1:5]) == (wanted, seq):
                return json.loads(rest[5:])

    def ask(self, route, body):
        self.send(route, body, 1)
        return self.next(route, 1)

    def hears(self):
        said = self.next(SAID, 0)
        return said["to"], said["name"], said["text"]


def main():
    port = int(sys.argv[1])
    ada, ben, eve = Player(port, "ada", "hall"), Player(port, "ben", "hall"), Player(port, "eve", "attic")
    ada.send(SAY, "in the hall")
    assert ben.hears() == ("room", "ada", "in the hall")
    ben.send(SAY_TO_ALL, "to all")
    for player in ada, ben, eve:
        while (said := player.hears()) == ("room", "ada", "in the hall"):
            assert player is ada, said
        assert said == ("all", "ben", "to all"), said
    assert eve.ask(WHISPER, {"to": ada.uid, "text": "to ada"}) is True
    assert ada.hears() == ("you", "eve", "to ada")
    ben.socket.close()
    # The gate tells the lobby a moment later.
    while ada.ask(WHISPER, {"to": ben.uid, "text": "gone?"}):
        pass
    print("all have heard it")


main()
