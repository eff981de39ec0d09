// Tries the JavaScript clients of x402 with a gateway: one line of `client TAB version TAB mechanism TAB
// result` each; the exit status is 1 if any result is not `ok`.
//
// environment: GATEWAY and NODE (URLs), SEED (64 hexadecimal digits)

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { wrap } from "@faremeter/fetch";
import { isValidationError } from "@faremeter/types";
import { x402SettleResponse } from "@faremeter/types/x402v2";
import * as official from "@x402/axios";
import axios from "axios";
import { appendPaymentIdentifierToExtensions, generatePaymentId } from "@x402/extensions/payment-identifier";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";

import { Payer } from "./payer.mjs";

const { GATEWAY, NODE, SEED } = process.env;
const ONE = `${GATEWAY}/v1/quote/XNO`;
const MANY = `${GATEWAY}/v1/search/nano`;
const NAMED = `${GATEWAY}/v1/named/XNO`;
const MECHANISMS = ["nanoTxn", "nanoSignature"];
const AMPLE = 10n ** 30n;

const payer = new Payer(NODE, SEED);

/** Keeps the payment header that a client sends, so that it can be replayed. */
function recording(sent) {
  return async (input, init) => {
    const headers = new Headers(init?.headers ?? input.headers);
    if (headers.has("payment-signature")) sent.push(headers.get("payment-signature"));
    return fetch(input, init);
  };
}

const scheme = {
  scheme: "exact",
  createPaymentPayload: async (x402Version, entry) => ({ x402Version, payload: await payer.answer(entry) }),
};

/** nanoTxn is what an unconfigured selection has to arrive at; the other is chosen by its name. */
function choosing(client, mechanism) {
  client.register("nano:mainnet", scheme);
  if (mechanism !== "nanoTxn") {
    client.registerPolicy((_version, entries) => entries.filter((it) => it.extra.mechanism === mechanism));
  }
  return client;
}

/** What a client is for this trial: `get` answers {status, text, header(name)}, `receipt` parses. */
const CLIENTS = {
  "@x402/fetch": (mechanism, cap, sent) => {
    const client = choosing(new x402Client(), mechanism);
    const maxAmountPerPayment = cap.toString();
    client.setSpendControls({ allowedAssets: [{ network: "nano:mainnet", asset: "XNO", maxAmountPerPayment }] });
    const paying = wrapFetchWithPayment(recording(sent), client);
    return { get: async (url, headers) => read(await paying(url, { headers })), receipt: decodePaymentResponseHeader };
  },
  "@x402/axios": (mechanism, cap, sent) => {
    const client = choosing(new official.x402Client(), mechanism);
    client.registerPolicy((_version, entries) => entries.filter((it) => BigInt(it.amount) <= cap));
    const plain = axios.create({ responseType: "text" });
    plain.interceptors.request.use((config) => {
      const proof = config.headers.get("payment-signature");
      if (proof) sent.push(proof);
      return config;
    });
    const paying = official.wrapAxiosWithPayment(plain, client);
    return {
      get: async (url, headers) => {
        const answer = await paying.get(url, { headers });
        return { status: answer.status, text: answer.data, header: (name) => answer.headers[name] };
      },
      receipt: official.decodePaymentResponseHeader,
    };
  },
  "@faremeter/fetch": (mechanism, cap, sent) => {
    const handler = async (_context, entries) =>
      entries
        .filter((it) => it.extra.mechanism === mechanism && BigInt(it.amount) <= cap)
        .map((it) => ({ requirements: it, exec: async () => ({ payload: await payer.answer(it) }) }));
    const paying = wrap(recording(sent), { handlers: [handler], retryCount: 0 });
    return {
      get: async (url, headers) => read(await paying(url, { headers })),
      receipt: (header) => {
        const receipt = x402SettleResponse(JSON.parse(atob(header)));
        assert(!isValidationError(receipt), String(receipt));
        return receipt;
      },
    };
  },
};

async function read(answer) {
  return { status: answer.status, text: await answer.text(), header: (name) => answer.headers.get(name) };
}

function version(name) {
  const path = new URL(`./node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")).version;
}

async function trial(make, mechanism) {
  const sent = [];
  const client = make(mechanism, AMPLE, sent);

  assert.equal((await fetch(ONE)).status, 402, "unpaid");

  const before = payer.signed.length;
  const paid = await client.get(ONE);
  assert.equal(paid.status, 200, "paid");
  assert.match(paid.text, /"symbol":"XNO"/, "the upstream's answer");
  assert.equal(payer.signed.length, before + 1, "blocks signed for one request");

  const receipt = client.receipt(paid.header("payment-response"));
  assert.equal(receipt.success, true, "the receipt's success");
  assert.equal(receipt.network, "nano:mainnet", "the receipt's network");
  assert.equal(receipt.payer, payer.address, "the receipt's payer");
  assert.equal(receipt.transaction.toUpperCase(), payer.signed.at(-1).toUpperCase(), "the receipt's block");

  const replay = await fetch(ONE, { headers: { "PAYMENT-SIGNATURE": sent.at(-1) } });
  assert.equal(replay.status, 402, "replayed");
  assert.equal((await replay.json()).error, "DUPLICATE_BLOCK_HASH", "why the replay is refused");
  const refusal = client.receipt(replay.headers.get("payment-response"));
  assert.equal(refusal.success, false, "the replay's receipt");
  assert.equal(refusal.errorReason, "DUPLICATE_BLOCK_HASH", "the reason in the replay's receipt");

  const first = await client.get(MANY);
  const [token] = first.header("payment-capability").split(";");
  const known = payer.signed.length;
  const second = await client.get(MANY, { "PAYMENT-CAPABILITY": token });
  assert.equal(second.status, 200, "by capability");
  assert.match(second.header("payment-capability"), /remaining=98/, "what the capability has left");
  assert.equal(payer.signed.length, known, "blocks signed for a request by capability");

  const sparing = make(mechanism, 1n, []);
  await assert.rejects(sparing.get(ONE), "a price above the cap");
  assert.equal(payer.signed.length, known, "blocks signed for a price above the cap");
}

/** The official client with the official helper for payment identifiers, on a route that requires one. */
async function trialOfIdentifiers(mechanism) {
  const under = (id) => {
    const client = choosing(new x402Client(), mechanism);
    const maxAmountPerPayment = AMPLE.toString();
    client.setSpendControls({ allowedAssets: [{ network: "nano:mainnet", asset: "XNO", maxAmountPerPayment }] });
    client.onBeforePaymentCreation(async ({ paymentRequired }) => {
      if (id) appendPaymentIdentifierToExtensions(paymentRequired.extensions, id);
    });
    return wrapFetchWithPayment(fetch, client);
  };
  const block = (answer) => decodePaymentResponseHeader(answer.headers.get("payment-response")).transaction;

  const nameless = await under(null)(NAMED);
  assert.equal(nameless.status, 400, "without an id");
  assert.equal((await nameless.json()).error, "payment_identifier_required", "why");

  const id = generatePaymentId();
  const first = await under(id)(NAMED);
  assert.equal(first.status, 200, "under an id");
  const text = await first.text();

  // The helper's second request signs another payment: it must not be taken.
  const again = await under(id)(NAMED);
  assert.equal(again.status, 200, "under the same id");
  assert.equal(await again.text(), text, "the same answer");
  assert.equal(again.headers.get("idempotent-replayed"), "true", "from the store");
  assert.equal(block(again), block(first), "what paid for it");

  const other = await under(id)(`${NAMED}?other`);
  assert.equal(other.status, 409, "another request under the same id");
}

for (const mechanism of MECHANISMS) {
  let result = "ok";
  try {
    await trialOfIdentifiers(mechanism);
  } catch (error) {
    result = error.message.split("\n").join(" ");
    console.error(error);
    process.exitCode = 1;
  }
  console.log(["@x402/extensions", version("@x402/extensions"), mechanism, result].join("\t"));
}

for (const [name, make] of Object.entries(CLIENTS)) {
  for (const mechanism of MECHANISMS) {
    let result = "ok";
    try {
      await trial(make, mechanism);
    } catch (error) {
      result = error.message.split("\n").join(" ");
      console.error(error);
      process.exitCode = 1;
    }
    console.log([name, version(name), mechanism, result].join("\t"));
  }
}
