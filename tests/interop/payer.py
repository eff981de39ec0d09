"""A Nano account that pays x402's `exact` scheme by both mechanisms, with nanopy and a node's RPC. It knows
nothing of Faregate beyond what the bill says.
"""

import hashlib
import os
import time

import nanopy
import requests

CONFIRMED_WITHIN_S = 10.0
ASKED_EVERY_S = 0.05


class Payer:
    """An account that pays by both mechanisms, with nanopy and a node's RPC."""

    scheme = "exact"

    def __init__(self, node, seed):
        self.node = node
        self.account = nanopy.Account(sk=nanopy.deterministic_key(seed, 0))
        self.signed = []

    def rpc(self, **request):
        answer = requests.post(self.node, json=request, timeout=10).json()
        if "error" in answer:
            raise RuntimeError(f"{request['action']}: {answer['error']}")
        return answer

    def block(self, entry):
        """Signs a send of the entry's amount to its `payTo`, with work. It is not broadcast."""
        info = self.rpc(action="account_info", account=self.account.addr, representative="true")
        self.account.frontier = info["frontier"]
        self.account.raw_bal = int(info["balance"])
        self.account.rep = nanopy.Account(addr=info["representative"])
        work = self.rpc(action="work_generate", hash=info["frontier"])["work"]
        block = self.account.send(nanopy.Account(addr=entry.pay_to), int(entry.amount), work=work)
        self.signed.append(block.hash_.upper())
        return block

    def confirmed(self, block_hash):
        until = time.monotonic() + CONFIRMED_WITHIN_S
        while time.monotonic() < until:
            info = self.rpc(action="block_info", json_block="true", hash=block_hash)
            if str(info["confirmed"]).lower() == "true":
                return
            time.sleep(ASKED_EVERY_S)
        raise RuntimeError(f"{block_hash} is not confirmed after {CONFIRMED_WITHIN_S} s")

    def sign(self, message):
        """The signature of an off-chain message (ORIS-001), made as that of a block's hash."""
        text = message.encode()
        told = b"\x18Nano Off-chain Message:\n" + len(text).to_bytes(4, "big") + text
        digest = hashlib.blake2b(told, digest_size=32).digest()
        return nanopy.ext.sign(bytes.fromhex(self.account.sk), digest, os.urandom(32)).hex()

    def create_payment_payload(self, entry, context=None):
        """The `payload` that answers an entry: what an x402 client asks of a registered scheme."""
        block = self.block(entry)
        if entry.extra["mechanism"] == "nanoTxn":
            return {"block": block.dict_}
        self.rpc(action="process", json_block="true", subtype="send", block=block.dict_)
        self.confirmed(block.hash_)
        block_hash = block.hash_.lower()
        message = f"{block_hash}:{entry.extra['nonce']}:{entry.extra['validBefore']}"
        return {"blockHash": block_hash, "account": self.account.addr, "signature": self.sign(message)}
