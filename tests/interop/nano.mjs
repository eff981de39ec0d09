// Tries the library of x402.Nano itself, which is not on npm: its own reader of bills, its check of a
// nanoSession entry, its payload, and its parser of receipts. Prints as clients.mjs does.
//
// environment: GATEWAY and NODE (URLs), SEED (64 hexadecimal digits), X402_NANO (a checkout), VERSION (its
// commit)

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

import { transform } from "sucrase";

import { Payer } from "./payer.mjs";

const { GATEWAY, NODE, SEED, X402_NANO, VERSION } = process.env;
const MANY = `${GATEWAY}/v1/search/nano`;

/** The library as it stands in the checkout, without its types. */
async function library() {
  const made = new URL("./x402.nano/", import.meta.url);
  mkdirSync(made, { recursive: true });
  for (const name of ["builders", "compat", "constants", "utils"]) {
    const source = readFileSync(`${X402_NANO}/packages/core/src/${name}.ts`, "utf8");
    writeFileSync(new URL(`${name}.js`, made), transform(source, { transforms: ["typescript"] }).code);
  }
  const load = (name) => import(new URL(`${name}.js`, made));
  return { ...(await load("builders")), ...(await load("compat")), ...(await load("utils")) };
}

const nano = await library();
const payer = new Payer(NODE, SEED);

/** A receipt that the parser reads; it gives null for one that it does not. */
function receipt(answer) {
  const read = nano.decodePaymentResponse(answer.headers.get("payment-response"));
  assert(read, "the parser reads the receipt");
  return read;
}

async function show(payload) {
  return fetch(MANY, { headers: { "PAYMENT-SIGNATURE": nano.encodePaymentPayload(payload) } });
}

async function trial(mechanism) {
  const required = nano.decodePaymentRequired((await fetch(MANY)).headers.get("payment-required"));
  assert(required, "the bill is read");
  const entry = required.accepts.find((it) => it.extra.mechanism === mechanism);
  const payload = await payer.answer(entry);
  let envelope = { x402Version: 2, accepted: entry, payload };
  if (mechanism === "nanoSession") {
    nano.assertValidPaymentRequirements(entry);
    assert.equal(nano.calculateTaggedAmount(entry), entry.amount, "what is to be sent");
    envelope = nano.createPaymentPayload({ accepted: entry, proof: payload.proof });
  }
  const paid = await show(envelope);
  assert.equal(paid.status, 200, "paid");
  const settled = receipt(paid);
  assert.equal(settled.success, true, "the receipt's success");
  assert.equal(settled.result.mode, "settled", "the receipt's mode");
  assert.equal(settled.result.sendHash.toUpperCase(), payer.signed.at(-1).toUpperCase(), "the receipt's block");
  assert.equal(settled.result.payerAccount, payer.address, "the receipt's payer");

  const bent = structuredClone(envelope);
  bent.accepted.extra.validBefore += 1;
  const refused = await show(bent);
  assert.equal(refused.status, 402, "bent");
  assert.equal(receipt(refused).success, false, "the refusal's receipt");
}

for (const mechanism of ["nanoTxn", "nanoSignature", "nanoSession"]) {
  let result = "ok";
  try {
    await trial(mechanism);
  } catch (error) {
    result = error.message.split("\n").join(" ");
    console.error(error);
    process.exitCode = 1;
  }
  console.log(["x402.Nano core", VERSION.slice(0, 10), mechanism, result].join("\t"));
}
