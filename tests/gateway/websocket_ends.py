"""A WebSocket node that echoes, or a client of it. Usage: websocket_ends.py node PORT | client URL

Both print a line for each step: the node the code of each connection's Close, the client "joined" and then the code.
"""
import asyncio
import sys

import websockets


async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    finally:
        print(socket.close_code, flush=True)


async def node(port):
    async with websockets.serve(echo, "127.0.0.1", port):
        await asyncio.Future()


async def client(url):
    async with websockets.connect(url) as socket:
        # Compressed, in many reads, and with a ping in between.
        for message in ["hello", "x" * 900_000, bytes(70_000)]:
            await socket.send(message)
            await (await socket.ping())
            assert await socket.recv() == message
        print("joined", flush=True)
        try:
            await socket.recv()
        except websockets.ConnectionClosed:
            print(socket.close_code, flush=True)


kind, argument = sys.argv[1:]
asyncio.run(node(int(argument)) if kind == "node" else client(argument))
