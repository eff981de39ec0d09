"""gRPC through a gateway of its own, with grpcio on both sides: a bill is metadata of an error, a payment is
metadata of the next call, streams pass both ways, and a call that fails costs nothing. Prints a row of the table of
upstreams.
"""

import base64
import json
import os
import re
import subprocess
import time
from concurrent import futures
from types import SimpleNamespace

import grpc
from payer import Payer

STARTED_WITHIN_S = 10.0
CALLED_WITHIN_S = 10.0
SERVICE = "faregate.test.Echo"

CONFIG = """
public_url: http://127.0.0.1:8402
listen: {{ http: 127.0.0.1:0, h2c: true }}
nano:
  nodes: [{node}]
  pool: {{ seed_file: grpc.seed, size: 8 }}
  work: {{ send: "{threshold}", receive: "{threshold}" }}
challenge: {{ key_file: grpc.key }}
store: {{ path: grpc.db }}
upstreams:
  echo: {{ url: "http://127.0.0.1:{port}", protocol: h2c, timeout: 1s }}
routes:
  - {{ name: echo, match: "/{service}/**", upstream: echo, price: 1 raw, grants: {{ requests: 10, within: 1h }} }}
"""


def bidirectional(requests, context):
    for request in requests:
        yield request[::-1]


def failing(request, context):
    context.abort(grpc.StatusCode.INTERNAL, "broken on purpose")


def serve():
    """The server, and its port."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    methods = {
        "Once": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
        "Fail": grpc.unary_unary_rpc_method_handler(failing),
        "Both": grpc.stream_stream_rpc_method_handler(bidirectional),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def listening(process):
    """The address that the gateway prints in its log."""
    until = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < until:
        line = process.stderr.readline()
        found = re.search(r'"message":"listening","address":"([0-9.:]+)"', line)
        if found:
            return found.group(1)
    raise RuntimeError("the gateway did not start")


def metadata(call, name):
    return dict(call.initial_metadata() or ()).get(name) or dict(call.trailing_metadata() or ()).get(name)


def pay(payer, call):
    """The proof for a bill that came as metadata."""
    required = json.loads(base64.b64decode(metadata(call, "payment-required")))
    entry = next(it for it in required["accepts"] if it["extra"]["mechanism"] == "nanoTxn")
    asked = SimpleNamespace(pay_to=entry["payTo"], amount=entry["amount"], extra=entry["extra"])
    payload = {"x402Version": 2, "accepted": entry, "payload": payer.create_payment_payload(asked)}
    return base64.b64encode(json.dumps(payload).encode()).decode()


def calls(address, payer):
    channel = grpc.insecure_channel(address)
    once = channel.unary_unary(f"/{SERVICE}/Once")
    fail = channel.unary_unary(f"/{SERVICE}/Fail")
    both = channel.stream_stream(f"/{SERVICE}/Both")
    try:
        once(b"unpaid", timeout=CALLED_WITHIN_S)
        raise AssertionError("an unpaid call was served")
    except grpc.RpcError as bill:
        assert bill.code() is grpc.StatusCode.FAILED_PRECONDITION, bill
        proof = pay(payer, bill)
    answer, paid = once.with_call(b"paid", timeout=CALLED_WITHIN_S, metadata=(("payment-signature", proof),))
    assert answer == b"paid"
    capability = metadata(paid, "payment-capability")
    assert "remaining=9" in capability, capability
    token = (("payment-capability", capability.split(";")[0]),)
    assert list(both(iter([b"abc", b"def"]), timeout=CALLED_WITHIN_S, metadata=token)) == [b"cba", b"fed"]
    for _ in range(2):
        try:
            fail(b"", timeout=CALLED_WITHIN_S, metadata=token)
            raise AssertionError("a failing call was served")
        except grpc.RpcError as failed:
            assert failed.code() is grpc.StatusCode.INTERNAL, failed
            assert failed.details() == "broken on purpose", failed
    # Neither of the two took a use.
    _, last = once.with_call(b"again", timeout=CALLED_WITHIN_S, metadata=token)
    assert "remaining=7" in metadata(last, "payment-capability"), metadata(last, "payment-capability")
    channel.close()


def main():
    folder = os.environ["FOLDER"]
    payer = Payer(os.environ["NODE"], os.environ["SEED"])
    server, port = serve()
    config = os.path.join(folder, "grpc.yaml")
    with open(config, "w") as file:
        threshold = os.environ["THRESHOLD"]
        file.write(CONFIG.format(node=os.environ["NODE"], threshold=threshold, port=port, service=SERVICE))
    command = [os.environ["FAREGATE"], "serve", "--config", config, "--log-format", "json"]
    gateway = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        calls(listening(gateway), payer)
        print(f"grpcio\t{grpc.__version__}\tgrpcio\t{grpc.__version__}\tgRPC\tok")
    finally:
        gateway.terminate()
        gateway.wait(STARTED_WITHIN_S)
        server.stop(0)


if __name__ == "__main__":
    main()
