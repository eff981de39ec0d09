// What `@x402/express` and `@x402/hono` need to sell for Nano by a Faregate facilitator: a scheme server, to
// be registered for `nano:mainnet`. It has each entry made by the facilitator.
//
// A route's option names the price in raw, what is sold and how it may be paid:
//   { scheme: "exact", network: "nano:mainnet", payTo: "", price: { asset: "XNO", amount: "1000" },
//     extra: { resource: "https://shop.example/report", mechanism: "nanoTxn" } }

export class ExactNano {
  scheme = "exact";
  defaultAssetTransferMethod = "default";
  // A signed block is settled after the handler; a block that was sent already, before it.
  paymentFlows = { default: { supported: ["authorization", "upfront"], default: "authorization" } };
  // Each entry is a challenge of its own. What a payer sends back of it, the facilitator recognises.
  dynamicExtraFields = ["challenge", "nonce", "validBefore"];

  /**
   * @param {string} facilitator its URL
   * @param {string} [token] the content of its `token_file`
   */
  constructor(facilitator, token) {
    this.url = `${facilitator}/requirements`;
    this.headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
  }

  getAssetDecimals() {
    return 30;
  }

  async parsePrice(price) {
    return { asset: "XNO", amount: price.amount };
  }

  async enhancePaymentRequirements({ amount, maxTimeoutSeconds, extra }) {
    const order = { resource: { url: extra.resource }, amount, maxTimeoutSeconds, mechanisms: [extra.mechanism] };
    const answer = await fetch(this.url, { method: "POST", headers: this.headers, body: JSON.stringify(order) });
    const bill = await answer.json();
    if (!answer.ok) throw new Error(`the facilitator says ${answer.status}: ${bill.message}`);
    return bill.accepts[0];
  }
}
