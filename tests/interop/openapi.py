"""Holds what the gateway publishes about its prices against the OpenAPI specification: one line of `client TAB
version TAB mechanism TAB result`; the exit status is 1 if the result is not `ok`.

environment: GATEWAY (URL)
"""

import importlib.metadata
import json
import os
import sys
import traceback
import urllib.request

from openapi_spec_validator import OpenAPIV31SpecValidator

GATEWAY = os.environ["GATEWAY"]


def document(path):
    with urllib.request.urlopen(GATEWAY + path, timeout=10) as answer:
        return json.load(answer)


def trial():
    api = document("/openapi.json")
    OpenAPIV31SpecValidator(api).validate()
    listed = {item["resource"] for item in document("/.well-known/x402")["items"]}
    priced = [path for path, item in api["paths"].items() if "x-payment-info" in json.dumps(item)]
    assert listed and len(listed) == len(priced), (listed, priced)


result = "ok"
try:
    trial()
except Exception as error:
    traceback.print_exc()
    result = " ".join(str(error).split())[:200]
print("openapi-spec-validator", importlib.metadata.version("openapi-spec-validator"), "openapi.json", result, sep="\t")
sys.exit(result != "ok")
