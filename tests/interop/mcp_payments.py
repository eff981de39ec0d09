"""x402's own client for MCP (`x402.mcp`) and a server of the official MCP SDK, with the gateway between them: calls are
billed in their results and paid in `_meta`. One line of `client TAB version TAB mechanism TAB result` each; the exit
status is 1 if any result is not `ok`.

The library knows no Nano, so its `exact` scheme is registered with it, as its documentation says for other networks. Its
own connection is HTTP+SSE, which a gateway cannot price: the session that it wraps is one of the SDK over streamable HTTP.

environment: FAREGATE (the program), FOLDER (for its files), NODE (URL), SEED (64 hexadecimal digits), THRESHOLD (of the
ledger's work, 16 hexadecimal digits)
"""

import asyncio
import contextlib
import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import threading
import traceback

import httpx
import uvicorn
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from mcp.server.fastmcp import Context, FastMCP
from payer import Payer
from x402 import x402Client
from x402.mcp.client import x402MCPSession

FAREGATE, FOLDER, NODE, SEED, THRESHOLD = (
    os.environ[name] for name in ("FAREGATE", "FOLDER", "NODE", "SEED", "THRESHOLD")
)
payer = Payer(NODE, SEED)
# What reached the server: the arguments and the `_meta` of each call.
called = []


def equal(what, expected, found):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def server(json_response):
    """An MCP server with two tools, which answers by JSON or by streams of events."""
    mcp = FastMCP("tools", json_response=json_response, stateless_http=True)

    @mcp.tool(structured_output=False)
    async def search(query: str, context: Context) -> str:
        meta = context.request_context.meta
        called.append((query, meta.model_dump(exclude_none=True) if meta else {}))
        await context.info("half way")
        return f"search: {query}"

    @mcp.tool(structured_output=False)
    async def render(query: str) -> str:
        called.append((query, {}))
        return query

    listener = socket.create_server(("127.0.0.1", 0))
    served = uvicorn.Server(uvicorn.Config(mcp.streamable_http_app(), log_level="warning"))
    threading.Thread(target=served.run, kwargs={"sockets": [listener]}, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def gateway(upstream, name):
    """A gateway of its own before `upstream`."""
    path = os.path.join(FOLDER, f"{name}.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"""
public_url: http://127.0.0.1:8402
listen: {{ http: 127.0.0.1:0 }}
nano:
  nodes: ["{NODE}"]
  pool: {{ seed_file: {name}-pool.seed, size: 16 }}
  work: {{ send: "{THRESHOLD}", receive: "{THRESHOLD}" }}
challenge: {{ key_file: {name}-challenge.key }}
store: {{ path: {name}.db }}
upstreams: {{ tools: {{ url: "{upstream}" }} }}
routes:
  - match: POST /mcp
    name: tools
    upstream: tools
    grants: {{ requests: 2, within: 1h }}
    mcp:
      bills: result
      methods: {{ initialize: free, ping: free, tools/list: free }}
      tools: {{ search: 0.001 XNO, render: 0.01 XNO }}
  - {{ match: GET /mcp, upstream: tools, free: true }}
  - {{ match: DELETE /mcp, upstream: tools, free: true }}
""")
    command = [FAREGATE, "serve", "--config", path, "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            pattern = re.compile(r'"message":"listening","address":"([0-9.:]+)"')
            found = next((it for it in map(pattern.search, process.stderr) if it), None)
            if found is None:
                raise RuntimeError("the gateway ended")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield f"http://{found.group(1)}"
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def session(url):
    async with streamablehttp_client(f"{url}/mcp") as (reader, writer, _):
        async with ClientSession(reader, writer) as opened:
            await opened.initialize()
            yield opened


def paying(mechanism):
    client = x402Client()
    client.register("nano:mainnet", payer)
    cap = {"network": "nano:mainnet", "asset": "XNO", "max_amount_per_payment": str(2 * 10**27)}
    client.set_spend_controls({"allowed_assets": [cap]})
    client.register_policy(lambda _, entries: [it for it in entries if it.extra["mechanism"] == mechanism])
    return client


async def sells(url, mechanism):
    before = len(payer.signed)
    async with session(url) as opened:
        bought = x402MCPSession(opened, paying(mechanism))
        tools = await bought.list_tools()
        equal("the tools, free", ["render", "search"], sorted(it.name for it in tools.tools))
        equal("blocks signed for what is free", before, len(payer.signed))

        query = f'über "{mechanism}" \u2028 😀'
        answer = await bought.call_tool("search", {"query": query})
        equal("the tool's answer", (False, f"search: {query}"), (answer.is_error, answer.content[0].text))
        equal("a payment was made", True, answer.payment_made)
        equal("what the server saw", (query, {}), called[-1])
        equal("blocks signed for one call", before + 1, len(payer.signed))
        receipt = answer.payment_response
        told = (receipt.success, receipt.network, receipt.payer, receipt.transaction.upper())
        equal("receipt", (True, "nano:mainnet", payer.account.addr, payer.signed[-1]), told)

        # The use that is left, by the capability as the result has it.
        own = answer.raw_result.meta["faregate/capability"]
        equal("left", 1, own["remaining"])
        again = await opened.call_tool(name="search", arguments={"query": "2"}, meta={"faregate/capability": own})
        equal("by capability", (False, "search: 2"), (again.isError, again.content[0].text))
        equal("what the server saw of it", ("2", {}), called[-1])
        equal("left then", 0, again.meta["faregate/capability"]["remaining"])
        spent = await opened.call_tool(name="search", arguments={"query": "3"}, meta={"faregate/capability": own})
        told = (spent.isError, spent.structuredContent["error"])
        equal("once it is used up", (True, "CAPABILITY_EXHAUSTED"), told)

        # Without a wallet the bill is what the tool answers.
        poor = await x402MCPSession(opened, x402Client(), auto_payment=False).call_tool("search", {"query": "4"})
        equal("unpaid", (True, False), (poor.is_error, poor.payment_made))
        try:
            await bought.call_tool("render", {"query": "5"})
        except Exception as error:
            print(f"a price above the cap: {error}", file=sys.stderr)
        else:
            raise AssertionError("a price above the cap was paid")
        equal("blocks signed in all", before + 1, len(payer.signed))
        equal("what reached the server last", "2", called[-1][0])


async def served(url):
    """Until the server takes connections."""
    for _ in range(200):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url)
            return
        await asyncio.sleep(0.05)


failed = False
for name, json_response in (("mcp-json", True), ("mcp-events", False)):
    upstream = server(json_response)
    asyncio.run(served(upstream))
    with gateway(upstream, name) as url:
        for mechanism in ("nanoTxn", "nanoSignature"):
            try:
                asyncio.run(sells(url, mechanism))
                result = "ok"
            except BaseException as error:
                traceback.print_exc()
                failed, result = True, " ".join(str(error).split())
            kind = "JSON" if json_response else "events"
            version = importlib.metadata.version("x402")
            print(f"x402.mcp, {kind}", version, mechanism, result, sep="\t", flush=True)
sys.exit(failed)
