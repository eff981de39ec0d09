"""Tries the Python clients of x402 with a gateway: one line of `client TAB version TAB mechanism TAB
result` each; the exit status is 1 if any result is not `ok`.

environment: GATEWAY and NODE (URLs), SEED (64 hexadecimal digits), THRESHOLD (of the ledger's work, 16
hexadecimal digits), NANO_PAY_HOME (an empty folder for feeless402's wallet)
"""

import asyncio
import base64
import importlib.metadata
import json
import os
import sys
import traceback

import httpx
import requests
from nano_pay import rpc as feeless_rpc
from nano_pay import wallet as feeless_wallet
from nano_pay import x402 as feeless
from payer import Payer
from x402 import x402Client, x402ClientSync
from x402.http.clients import wrapHttpxWithPayment, wrapRequestsWithPayment
from x402.http.utils import decode_payment_response_header, encode_payment_signature_header

GATEWAY, NODE, SEED = (os.environ[name] for name in ("GATEWAY", "NODE", "SEED"))
ONE = f"{GATEWAY}/v1/quote/XNO"
MANY = f"{GATEWAY}/v1/search/nano"
AMPLE = 10**30


def equal(what, expected, found):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


payer = Payer(NODE, SEED)


def choosing(client, mechanism, cap, sent):
    """nanoTxn is what an unconfigured selection has to arrive at; the other is chosen by its name."""
    client.register("nano:mainnet", payer)
    client.on_after_payment_creation(lambda made: sent.append(encode_payment_signature_header(made.payment_payload)))
    xno = {"network": "nano:mainnet", "asset": "XNO", "max_amount_per_payment": str(cap)}
    client.set_spend_controls({"allowed_assets": [xno]})
    if mechanism != "nanoTxn":
        client.register_policy(lambda _, entries: [it for it in entries if it.extra["mechanism"] == mechanism])
    return client


def by_requests(mechanism, cap, sent):
    session = wrapRequestsWithPayment(requests.Session(), choosing(x402ClientSync(), mechanism, cap, sent))
    return lambda url, headers=None: session.get(url, headers=headers, timeout=30)


def by_httpx(mechanism, cap, sent):
    async def get(url, headers):
        async with wrapHttpxWithPayment(choosing(x402Client(), mechanism, cap, sent), timeout=30) as client:
            return await client.get(url, headers=headers)

    return lambda url, headers=None: asyncio.run(get(url, headers))


def refused(what, get):
    """The price is above the client's cap: it says so, and signs nothing."""
    known = len(payer.signed)
    try:
        get(ONE)
    except Exception as error:
        print(f"{what}: {error}", file=sys.stderr)
    else:
        raise AssertionError(f"{what}: a price above the cap was paid")
    equal("blocks signed for a price above the cap", known, len(payer.signed))


def replayed(proof):
    answer = requests.get(ONE, headers={"PAYMENT-SIGNATURE": proof}, timeout=30)
    equal("replayed", (402, "DUPLICATE_BLOCK_HASH"), (answer.status_code, answer.json()["error"]))
    receipt = decode_payment_response_header(answer.headers["payment-response"])
    equal("the replay's receipt", (False, "DUPLICATE_BLOCK_HASH"), (receipt.success, receipt.error_reason))


def trial(make, mechanism):
    sent = []
    get = make(mechanism, AMPLE, sent)
    equal("unpaid", 402, requests.get(ONE, timeout=30).status_code)

    before = len(payer.signed)
    paid = get(ONE)
    equal("paid", (200, "XNO"), (paid.status_code, paid.json()["symbol"]))
    equal("blocks signed for one request", before + 1, len(payer.signed))

    receipt = decode_payment_response_header(paid.headers["payment-response"])
    told = (receipt.success, receipt.network, receipt.payer, receipt.transaction.upper())
    equal("receipt", (True, "nano:mainnet", payer.account.addr, payer.signed[-1]), told)
    replayed(sent[-1])

    first = get(MANY)
    token = first.headers["payment-capability"].split(";")[0]
    known = len(payer.signed)
    second = get(MANY, {"PAYMENT-CAPABILITY": token})
    equal("by capability", 200, second.status_code)
    equal("left", True, "remaining=98" in second.headers["payment-capability"])
    equal("blocks signed for a request by capability", known, len(payer.signed))

    refused(mechanism, make(mechanism, 1, []))


class LosingAnswers(requests.Session):
    """A connection that breaks after the gateway has answered the first payment it carries."""

    lost = 0

    def send(self, request, **kwargs):
        answer = super().send(request, **kwargs)
        if "PAYMENT-SIGNATURE" in request.headers and not LosingAnswers.lost:
            LosingAnswers.lost += 1
            raise requests.ConnectionError("the answer was lost")
        return answer


def trial_of_feeless402(_, __):
    """The client as it comes; only its node, and what work that node's ledger asks for, are set."""
    feeless_wallet.NET.send_difficulty = os.environ["THRESHOLD"]
    wallet = feeless_wallet.Wallet().create(SEED)
    node = feeless_rpc.RPC(urls=[NODE], work_urls=[])

    def pay(url, cap=AMPLE, **rest):
        return feeless.request_with_payment("GET", url, wallet, node, cap, **rest)

    quote = pay(ONE, dry_run=True)
    equal("unpaid", 402, quote[0].status_code)
    paid, receipt = pay(ONE)
    equal("paid", (200, "XNO"), (paid.status_code, paid.json()["symbol"]))
    told = tuple(receipt.get(field) for field in ("success", "settled", "ledger", "payer"))
    equal("receipt", (True, True, "confirmed", wallet.address), told)
    equal("the receipt's block", receipt["block"].upper(), receipt["transaction"].upper())
    equal("the receipt is about another block", None, receipt.get("receipt_hash_mismatch"))
    replayed(paid.request.headers["PAYMENT-SIGNATURE"])

    first, _ = pay(MANY)
    token = first.headers["payment-capability"].split(";")[0]
    second, spent = pay(MANY, headers={"PAYMENT-CAPABILITY": token})
    equal("by capability", (200, None), (second.status_code, spent))

    balance = int(node.account_info(wallet.address)["balance"])
    try:
        pay(ONE, cap=1)
    except feeless.PriceCapExceeded as error:
        print(error, file=sys.stderr)
    else:
        raise AssertionError("a price above the cap was paid")
    equal("balance", balance, int(node.account_info(wallet.address)["balance"]))

    # It presents the same block again when an answer is lost; that is no second bill.
    ordinary, requests.sessions.Session = requests.sessions.Session, LosingAnswers
    try:
        again, receipt = pay(MANY)
    finally:
        requests.sessions.Session = ordinary
    equal("after a lost answer", (200, True, 1), (again.status_code, receipt["settled"], LosingAnswers.lost))
    price = quote_of(MANY)
    equal("paid once", balance - price, int(node.account_info(wallet.address)["balance"]))


def quote_of(url):
    bill = requests.get(url, timeout=30).headers["payment-required"]
    return int(json.loads(base64.b64decode(bill))["accepts"][0]["amount"])


def main():
    both = ("nanoTxn", "nanoSignature")
    trials = [("x402", "requests", trial, by_requests, it) for it in both]
    trials += [("x402", "httpx", trial, by_httpx, it) for it in both]
    trials += [("feeless402", None, trial_of_feeless402, None, "nanoTxn")]
    failed = False
    for package, transport, run, make, mechanism in trials:
        result = "ok"
        try:
            run(make, mechanism)
        except Exception as error:
            traceback.print_exc()
            result = " ".join(f"{type(error).__name__}: {error}".split())
            failed = True
        name = f"{package}[{transport}]" if transport else package
        print("\t".join((name, importlib.metadata.version(package), mechanism, result)), flush=True)
    sys.exit(failed)


main()
