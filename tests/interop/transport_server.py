"""An upstream in ASGI: a text, a stream of events and an echo over WebSocket. Prints its URL.

usage: transport_server.py uvicorn|hypercorn
"""

import asyncio
import socket
import sys

import hypercorn.asyncio
import hypercorn.config
import uvicorn
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

EVENTS = 3
PAUSE_S = 0.15


async def text(request):
    return PlainTextResponse(f"{request.method} {request.url.path}")


async def events(request):
    async def ticks():
        for number in range(EVENTS):
            if number:
                await asyncio.sleep(PAUSE_S)
            yield {"event": "tick", "id": str(number), "data": str(number)}

    return EventSourceResponse(ticks())


async def echo(websocket):
    await websocket.accept()
    async for message in websocket.iter_text():
        await websocket.send_text(message)


app = Starlette(
    routes=[
        Route("/{name}/events", events),
        WebSocketRoute("/{name}/socket", echo),
        Route("/{name}/text", text),
    ]
)


def main(name):
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    if name == "uvicorn":
        server = uvicorn.Server(uvicorn.Config(app, ws="websockets-sansio", log_level="warning"))
        server.run(sockets=[listener])
    else:
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listener.fileno()}"]
        asyncio.run(hypercorn.asyncio.serve(app, config))


if __name__ == "__main__":
    main(sys.argv[1])
