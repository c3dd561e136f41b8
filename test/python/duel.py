"""Several readers of one URL, each as in the manual of websockets: they come back whenever their connection ends."""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def read(name: int, url: str) -> None:
    async for socket in connect(url):
        print("open", name)
        try:
            async for message in socket:
                print("got", message)
        except ConnectionClosed as closed:
            print("closed", closed.rcvd.code if closed.rcvd else 1006)


async def main(url: str, readers: int) -> None:
    await asyncio.gather(*(read(name, url) for name in range(readers)))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
