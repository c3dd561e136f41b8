"""Prints each event that httpx-sse yields for a stream, as a line of JSON, and ends with the stream."""

import json
import sys

import httpx
from httpx_sse import connect_sse

with httpx.Client(timeout=30) as client, connect_sse(client, "GET", sys.argv[1]) as source:
    for event in source.iter_sse():
        print(json.dumps({"id": event.id, "event": event.event, "data": event.data, "retry": event.retry}))
