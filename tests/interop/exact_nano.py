"""What x402's FastAPI middleware needs to sell for Nano by a Faregate facilitator: a scheme server, to be
registered for `nano:mainnet`. It has each entry made by the facilitator.

A route's option names the price in raw, what is sold and how it may be paid:
    PaymentOption(scheme="exact", network="nano:mainnet", pay_to="",
                  price=AssetAmount(asset="XNO", amount="1000"),
                  extra={"resource": "https://shop.example/report", "mechanism": "nanoTxn"})
"""

import httpx
from x402.schemas import AssetAmount, PaymentRequirements


class ExactNano:
    scheme = "exact"
    default_asset_transfer_method = "default"
    # A signed block is settled after the handler; a block that was sent already, before it.
    payment_flows = {"default": {"supported": ("authorization", "upfront"), "default": "authorization"}}
    # Each entry is a challenge of its own. What a payer sends back of it, the facilitator recognises.
    dynamic_extra_fields = ["challenge", "nonce", "validBefore"]

    def __init__(self, facilitator, token=None):
        self.url = f"{facilitator}/requirements"
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get_asset_decimals(self, asset, network):
        return 30

    def parse_price(self, price, network):
        return AssetAmount(asset="XNO", amount=price.amount)

    def enhance_payment_requirements(self, requirements, supported_kind, extensions):
        order = {
            "resource": {"url": requirements.extra["resource"]},
            "amount": requirements.amount,
            "maxTimeoutSeconds": requirements.max_timeout_seconds,
            "mechanisms": [requirements.extra["mechanism"]],
        }
        answer = httpx.post(self.url, json=order, headers=self.headers, timeout=10)
        answer.raise_for_status()
        return PaymentRequirements.model_validate(answer.json()["accepts"][0])
