"""Runs the example of docs/PROTOCOL.md: manual_ack.py URL COUNT. Prints each event, and dies after COUNT of them."""

import asyncio
import os
import pathlib
import re
import sys

page = pathlib.Path(__file__).parents[2] / "docs" / "PROTOCOL.md"
exec(re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[1])

left = float(sys.argv[2])


async def handle(event):
    global left
    if left == 0:
        os._exit(0)
    left -= 1
    print(event["message"])


asyncio.run(read(sys.argv[1], handle))
