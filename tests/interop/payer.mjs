// A Nano account that pays x402's `exact` scheme by every mechanism, with the `nanocurrency` library and a
// node's RPC. It knows nothing of Faregate beyond what the bill says.

import blake from "blakejs";
import nano from "nanocurrency";

const CONFIRMED_WITHIN_MS = 10_000;
const ASKED_EVERY_MS = 50;
const NOMS_PREAMBLE = Buffer.concat([Buffer.from([0x18]), Buffer.from("Nano Off-chain Message:\n")]);

export class Payer {
  /** Blocks signed so far: whether a client paid is seen in it. */
  signed = [];

  /**
   * @param {string} node the URL of a node's RPC
   * @param {string} seed 64 hexadecimal digits
   */
  constructor(node, seed) {
    this.node = node;
    this.secretKey = nano.deriveSecretKey(seed, 0);
    this.address = nano.deriveAddress(nano.derivePublicKey(this.secretKey), { useNanoPrefix: true });
  }

  async rpc(request) {
    const answer = await fetch(this.node, { method: "POST", body: JSON.stringify(request) });
    const json = await answer.json();
    if (json.error) throw new Error(`${request.action}: ${json.error}`);
    return json;
  }

  /** Signs a send of the entry's amount to its `payTo`, with work. It is not broadcast. */
  async block(entry) {
    const info = await this.rpc({ action: "account_info", account: this.address, representative: "true" });
    const { work } = await this.rpc({ action: "work_generate", hash: info.frontier });
    const signed = nano.createBlock(this.secretKey, {
      work,
      previous: info.frontier,
      representative: info.representative,
      balance: (BigInt(info.balance) - BigInt(entry.amount)).toString(),
      link: entry.payTo,
    });
    this.signed.push(signed.hash);
    return signed;
  }

  async confirmed(hash) {
    for (let waited = 0; waited < CONFIRMED_WITHIN_MS; waited += ASKED_EVERY_MS) {
      const info = await this.rpc({ action: "block_info", json_block: "true", hash });
      if (String(info.confirmed) === "true") return;
      await new Promise((resolve) => setTimeout(resolve, ASKED_EVERY_MS));
    }
    throw new Error(`${hash} is not confirmed after ${CONFIRMED_WITHIN_MS} ms`);
  }

  /** The signature of an off-chain message (ORIS-001), which is made as that of a block's hash. */
  sign(message) {
    const text = Buffer.from(message);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.length);
    const hash = blake.blake2bHex(Buffer.concat([NOMS_PREAMBLE, length, text]), undefined, 32);
    return nano.signBlock({ hash, secretKey: this.secretKey });
  }

  /** The `payload` that answers an entry of `accepts`. */
  async answer(entry) {
    const { hash, block } = await this.block(entry);
    if (entry.extra.mechanism === "nanoTxn") return { block };
    await this.rpc({ action: "process", json_block: "true", subtype: "send", block });
    await this.confirmed(hash);
    if (entry.extra.mechanism === "nanoSession") return { proof: hash };
    const blockHash = hash.toLowerCase();
    const signature = this.sign(`${blockHash}:${entry.extra.nonce}:${entry.extra.validBefore}`);
    return { blockHash, account: this.address, signature };
  }
}
