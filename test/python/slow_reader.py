"""Reads the events of one URL, one after the other, until it is ended: slow_reader.py LIBRARY URL SECONDS

Takes SECONDS to handle an event, then prints it. Prints "closed CODE CODE" (received and sent) when the connection ends.
"""

import asyncio
import sys
import time

library, url, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])

# The pongs for the library's own pings wait behind the events: it would give up after 20 seconds. The relay's pings are
# enough to notice a lost connection.
OPTIONS = {"ping_timeout": None}


async def with_websockets():
    import websockets

    async with websockets.connect(url, **OPTIONS) as socket:
        try:
            while True:
                event = await socket.recv()
                await asyncio.sleep(seconds)
                print(event)
        except websockets.ConnectionClosed as closed:
            print("closed", closed.rcvd and closed.rcvd.code, closed.sent and closed.sent.code)


def with_websockets_sync():
    import websockets
    from websockets.sync.client import connect

    with connect(url, **OPTIONS) as socket:
        try:
            while True:
                event = socket.recv()
                time.sleep(seconds)
                print(event)
        except websockets.ConnectionClosed as closed:
            print("closed", closed.rcvd and closed.rcvd.code, closed.sent and closed.sent.code)


def with_websocket_client():
    import websocket

    socket = websocket.create_connection(url)
    while True:
        opcode, data = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            print("closed", int.from_bytes(data[:2], "big"), None)
            return
        time.sleep(seconds)
        print(data.decode())


if library == "websockets":
    asyncio.run(with_websockets())
elif library == "websockets.sync":
    with_websockets_sync()
else:
    with_websocket_client()
