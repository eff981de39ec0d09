// Servers made with the JavaScript middleware of x402, which have their payments verified and settled by the
// gateway's facilitator, each paid by two clients and both mechanisms: one line of
// `server TAB version TAB client TAB mechanism TAB result` each; the exit status is 1 if any result is not `ok`.
//
// environment: FACILITATOR and NODE (URLs), TOKEN, SEED (64 hexadecimal digits)

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { wrap } from "@faremeter/fetch";
import { createMiddleware } from "@faremeter/middleware/express";
import { createHTTPFacilitatorHandler } from "@faremeter/middleware/http-handler";
import { serve } from "@hono/node-server";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { paymentMiddleware as expressPayment, x402ResourceServer } from "@x402/express";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { paymentMiddleware as honoPayment, x402ResourceServer as HonoResourceServer } from "@x402/hono";
import express from "express";
import { Hono } from "hono";

import { ExactNano } from "./exact_nano.mjs";
import { Payer } from "./payer.mjs";

const { FACILITATOR, NODE, SEED, TOKEN } = process.env;
const MECHANISMS = ["nanoTxn", "nanoSignature"];
const REPORT = "a report that was paid for";
const PRICE = "100000000000000000000000000";
const payer = new Payer(NODE, SEED);
const authorization = { authorization: `Bearer ${TOKEN}` };

/** How often each server's handler ran. */
const delivered = {};

function listening(server) {
  return new Promise((resolve) => {
    const told = () => resolve([`http://127.0.0.1:${server.address().port}`, server]);
    if (server.listening) told();
    else server.once("listening", told);
  });
}

/** The routes of the official middleware. */
function routes(name) {
  const option = (mechanism) => ({
    scheme: "exact",
    network: "nano:mainnet",
    payTo: "",
    price: { asset: "XNO", amount: PRICE },
    extra: { resource: `https://shop.example/${name}/report`, mechanism },
  });
  return { "GET /report": { accepts: MECHANISMS.map(option), description: "A report" } };
}

function facilitator() {
  const createAuthHeaders = async () => ({
    verify: authorization,
    settle: authorization,
    supported: authorization,
  });
  return new HTTPFacilitatorClient({ url: FACILITATOR, createAuthHeaders });
}

const SERVERS = {
  "@x402/express": async (name) => {
    const app = express();
    const server = new x402ResourceServer(facilitator()).register("nano:mainnet", new ExactNano(FACILITATOR, TOKEN));
    app.use(expressPayment(routes(name), server));
    app.get("/report", (_request, answer) => {
      delivered[name] = (delivered[name] ?? 0) + 1;
      answer.send(REPORT);
    });
    return listening(app.listen(0, "127.0.0.1"));
  },
  "@x402/hono": async (name) => {
    const app = new Hono();
    const server = new HonoResourceServer(facilitator()).register("nano:mainnet", new ExactNano(FACILITATOR, TOKEN));
    app.use(honoPayment(routes(name), server));
    app.get("/report", (context) => {
      delivered[name] = (delivered[name] ?? 0) + 1;
      return context.text(REPORT);
    });
    return listening(serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" }));
  },
  "@faremeter/middleware": async (name) => {
    const app = express();
    // Without a cache: two payers must not be sent one challenge.
    const handler = createHTTPFacilitatorHandler(FACILITATOR, {
      capabilities: { networks: ["nano:mainnet"], assets: ["XNO"] },
      schemes: ["exact"],
      fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...authorization } }),
    });
    const pricing = [{ network: "nano:mainnet", asset: "XNO", amount: PRICE, recipient: "" }];
    const supportedVersions = { x402v1: false, x402v2: true };
    app.use(await createMiddleware({ x402Handlers: [handler], pricing, supportedVersions }));
    app.get("/report", (_request, answer) => {
      delivered[name] = (delivered[name] ?? 0) + 1;
      answer.send(REPORT);
    });
    return listening(app.listen(0, "127.0.0.1"));
  },
};

/** Keeps the payment header that a client sends, so that it can be replayed. */
function recording(sent) {
  return async (input, init) => {
    const headers = new Headers(init?.headers ?? input.headers);
    if (headers.has("payment-signature")) sent.push(headers.get("payment-signature"));
    return fetch(input, init);
  };
}

const CLIENTS = {
  "@x402/fetch": (mechanism, sent) => {
    const client = new x402Client();
    const createPaymentPayload = async (x402Version, entry) => ({ x402Version, payload: await payer.answer(entry) });
    client.register("nano:mainnet", { scheme: "exact", createPaymentPayload });
    client.registerPolicy((_version, entries) => entries.filter((it) => it.extra.mechanism === mechanism));
    const xno = { network: "nano:mainnet", asset: "XNO", maxAmountPerPayment: PRICE };
    client.setSpendControls({ allowedAssets: [xno] });
    return wrapFetchWithPayment(recording(sent), client);
  },
  "@faremeter/fetch": (mechanism, sent) => {
    const handler = async (_context, entries) =>
      entries
        .filter((it) => it.extra.mechanism === mechanism)
        .map((it) => ({ requirements: it, exec: async () => ({ payload: await payer.answer(it) }) }));
    return wrap(recording(sent), { handlers: [handler], retryCount: 0 });
  },
};

function version(name) {
  const path = new URL(`./node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")).version;
}

async function trial(url, name, make, mechanism) {
  const unpaid = await fetch(url);
  assert.equal(unpaid.status, 402, "unpaid");
  const bill = JSON.parse(atob(unpaid.headers.get("payment-required")));
  assert.deepEqual(bill.accepts.map((it) => it.extra.mechanism), MECHANISMS, "the bill's mechanisms");

  const [sent, blocks, before] = [[], payer.signed.length, delivered[name] ?? 0];
  const paid = await make(mechanism, sent)(url);
  assert.equal(await paid.text(), REPORT, "paid");
  assert.equal(paid.status, 200, "paid");
  assert.equal(payer.signed.length, blocks + 1, "blocks signed for one request");
  assert.equal(delivered[name], before + 1, "deliveries of one payment");
  const receipt = decodePaymentResponseHeader(paid.headers.get("payment-response"));
  assert.equal(receipt.success, true, "the receipt's success");
  assert.equal(receipt.payer, payer.address, "the receipt's payer");
  assert.equal(receipt.transaction.toUpperCase(), payer.signed.at(-1).toUpperCase(), "the receipt's block");

  const replays = Array.from({ length: 3 }, () => fetch(url, { headers: { "PAYMENT-SIGNATURE": sent.at(-1) } }));
  for (const replay of await Promise.all(replays)) assert.equal(replay.status, 402, "replayed");
  assert.equal(delivered[name], before + 1, "deliveries after replays");
}

for (const [name, start] of Object.entries(SERVERS)) {
  const [origin, server] = await start(name);
  for (const [client, make] of Object.entries(CLIENTS)) {
    for (const mechanism of MECHANISMS) {
      let result = "ok";
      try {
        await trial(`${origin}/report`, name, make, mechanism);
      } catch (error) {
        result = error.message.split("\n").join(" ");
        console.error(error);
        process.exitCode = 1;
      }
      console.log([name, version(name), `${client} ${version(client)}`, mechanism, result].join("\t"));
    }
  }
  server.closeAllConnections?.();
  server.close();
}
