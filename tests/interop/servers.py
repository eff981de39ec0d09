"""A FastAPI server with x402's middleware, which has its payments verified and settled by the gateway's
facilitator, paid by x402's httpx client and both mechanisms: one line of
`server TAB version TAB client TAB mechanism TAB result` each; the exit status is 1 if any result is not `ok`.

environment: FACILITATOR and NODE (URLs), TOKEN, SEED (64 hexadecimal digits)
"""

import asyncio
import importlib.metadata
import os
import sys
import threading
import time
import traceback

import httpx
import uvicorn
from exact_nano import ExactNano
from fastapi import FastAPI
from payer import Payer
from x402 import x402Client, x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.clients import wrapHttpxWithPayment
from x402.http.facilitator_client_base import CreateHeadersAuthProvider
from x402.http.middleware.fastapi import payment_middleware
from x402.http.types import PaymentOption, RouteConfig
from x402.http.utils import decode_payment_response_header, encode_payment_signature_header
from x402.schemas import AssetAmount

FACILITATOR, TOKEN = os.environ["FACILITATOR"], os.environ["TOKEN"]
MECHANISMS = ("nanoTxn", "nanoSignature")
PRICE = str(10**26)
STARTED_WITHIN_S = 20.0

payer = Payer(os.environ["NODE"], os.environ["SEED"])
delivered = []


def equal(what, expected, found):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def option(mechanism):
    return PaymentOption(
        scheme="exact",
        network="nano:mainnet",
        pay_to="",
        price=AssetAmount(asset="XNO", amount=PRICE),
        extra={"resource": "https://shop.example/fastapi/report", "mechanism": mechanism},
    )


def make_app():
    shown = {"Authorization": f"Bearer {TOKEN}"}
    shows = CreateHeadersAuthProvider(lambda: {"verify": shown, "settle": shown, "supported": shown})
    server = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=FACILITATOR, auth_provider=shows)))
    server.register("nano:mainnet", ExactNano(FACILITATOR, TOKEN))
    app = FastAPI()
    paying = payment_middleware({"GET /report": RouteConfig(accepts=[option(it) for it in MECHANISMS])}, server)

    @app.middleware("http")
    async def payment(request, call_next):
        return await paying(request, call_next)

    @app.get("/report")
    async def report():
        delivered.append(1)
        return {"report": "paid for"}

    return app


def start():
    """The server's URL; it runs for as long as this program."""
    server = uvicorn.Server(uvicorn.Config(make_app(), host="127.0.0.1", port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    until = time.monotonic() + STARTED_WITHIN_S
    while not server.started:
        if time.monotonic() > until:
            raise RuntimeError(f"no server after {STARTED_WITHIN_S} s")
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    return f"http://127.0.0.1:{port}/report"


async def pay(url, mechanism, sent):
    client = x402Client()
    client.register("nano:mainnet", payer)
    client.on_after_payment_creation(lambda made: sent.append(encode_payment_signature_header(made.payment_payload)))
    xno = {"network": "nano:mainnet", "asset": "XNO", "max_amount_per_payment": PRICE}
    client.set_spend_controls({"allowed_assets": [xno]})
    client.register_policy(lambda _, entries: [it for it in entries if it.extra["mechanism"] == mechanism])
    async with wrapHttpxWithPayment(client, timeout=30) as paying:
        return await paying.get(url)


def trial(url, mechanism):
    equal("unpaid", 402, httpx.get(url).status_code)
    sent, blocks, before = [], len(payer.signed), len(delivered)
    paid = asyncio.run(pay(url, mechanism, sent))
    equal("paid", (200, {"report": "paid for"}), (paid.status_code, paid.json()))
    equal("blocks signed for one request", blocks + 1, len(payer.signed))
    equal("deliveries of one payment", before + 1, len(delivered))
    receipt = decode_payment_response_header(paid.headers["payment-response"])
    told = (receipt.success, receipt.payer, receipt.transaction.upper())
    equal("receipt", (True, payer.account.addr, payer.signed[-1]), told)
    for _ in range(2):
        equal("replayed", 402, httpx.get(url, headers={"PAYMENT-SIGNATURE": sent[-1]}, timeout=30).status_code)
    equal("deliveries after replays", before + 1, len(delivered))


def main():
    url, failed = start(), False
    versions = {name: importlib.metadata.version(name) for name in ("x402", "fastapi")}
    for mechanism in MECHANISMS:
        result = "ok"
        try:
            trial(url, mechanism)
        except Exception as error:
            traceback.print_exc()
            result = " ".join(f"{type(error).__name__}: {error}".split())
            failed = True
        server = f"x402[fastapi {versions['fastapi']}]"
        client = f"x402[httpx] {versions['x402']}"
        print("\t".join((server, versions["x402"], client, mechanism, result)), flush=True)
    sys.exit(failed)


main()
