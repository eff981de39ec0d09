// A client of the official MCP SDK, and a server of it or a public one of the registry, with the gateway between
// them, and a crawler that reads what the gateway publishes: one line of `client TAB version TAB mechanism TAB
// result` each, and for the public server a row of the table of upstreams in the file TRANSPORTS. The exit status is
// 1 if any result is not `ok`.
//
// environment: FAREGATE (the program), FOLDER (for its files), NODE (URL), SEED (64 hexadecimal digits),
// THRESHOLD (of the ledger's work, 16 hexadecimal digits), TRANSPORTS (a file)

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

import { discoverOriginSchema, getOpenAPI, getWarningsForOpenAPI } from "@agentcash/discovery";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { parsePaymentRequired } from "@x402/core/schemas";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { z } from "zod";

import { Payer } from "./payer.mjs";

const { FAREGATE, FOLDER, NODE, SEED, THRESHOLD, TRANSPORTS } = process.env;
const PUBLIC = "@modelcontextprotocol/server-everything";
const payer = new Payer(NODE, SEED);

/** An MCP server with two tools; what each was called with is in `called`. */
async function server(called) {
  const sessions = new Map();
  const serve = async (request, answer) => {
    let transport = sessions.get(request.headers["mcp-session-id"]);
    if (!transport) {
      transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID,
        onsessioninitialized: (id) => sessions.set(id, transport),
      });
      const mcp = new McpServer({ name: "tools", version: "1" }, { capabilities: { logging: {} } });
      for (const name of ["search", "render-page"]) {
        mcp.registerTool(name, { description: name, inputSchema: { query: z.string() } }, async ({ query }, { sendNotification }) => {
          called.push(`${name} ${query}`);
          await sendNotification({ method: "notifications/message", params: { level: "info", data: "half way" } });
          return { content: [{ type: "text", text: `${name}: ${query}` }] };
        });
      }
      await mcp.connect(transport);
    }
    await transport.handleRequest(request, answer);
  };
  const listener = createServer((request, answer) => serve(request, answer).catch(() => answer.destroy()));
  await new Promise((resolve) => listener.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${listener.address().port}`, close: () => listener.closeAllConnections() || listener.close() };
}

/** The public server, as its package starts it; it has tools of every kind. */
async function publicServer() {
  const at = (path) => new URL(path, import.meta.url).pathname;
  const program = at(`./node_modules/${PUBLIC}/dist/index.js`);
  const child = spawn(process.execPath, ["--import", at("./loopback.mjs"), program, "streamableHttp"]);
  const url = await printed(child, child.stdout, /http:\/\/[0-9.:]+/);
  return { url, close: () => child.kill() };
}

/** The first match of `pattern` in what a program prints. */
function printed(child, stream, pattern) {
  return new Promise((resolve, reject) => {
    let text = "";
    child.on("exit", () => reject(new Error(`it ended: ${text}`)));
    stream.on("data", (data) => {
      text += data;
      const found = text.match(pattern);
      if (found) resolve(found.at(-1));
    });
  });
}

/** A gateway of its own in front of `upstream`, which sells these `tools`. */
async function gateway(upstream, name, tools, bills = "http") {
  const config = join(FOLDER, `${name}.yaml`);
  writeFileSync(config, `
public_url: http://127.0.0.1:8402
listen: { http: 127.0.0.1:0 }
nano:
  nodes: ["${NODE}"]
  pool: { seed_file: ${name}-pool.seed, size: 16 }
  work: { send: "${THRESHOLD}", receive: "${THRESHOLD}" }
challenge: { key_file: ${name}-challenge.key }
store: { path: ${name}.db }
upstreams: { tools: { url: "${upstream}" } }
routes:
  - match: POST /mcp
    name: tools
    upstream: tools
    grants: { requests: 2, within: 1h }
    description: Two tools
    mcp:
      bills: ${bills}
      methods: { initialize: free, ping: free, tools/list: free, logging/setLevel: free }
      tools: ${tools}
  - { match: GET /mcp, upstream: tools, free: true }
  - { match: DELETE /mcp, upstream: tools, free: true }
  - { match: "GET /v1/{name}", upstream: tools, price: 0.25 XNO, description: One thing by its name, mime_type: application/json }
  - { match: "POST /v1/**", upstream: tools, price: 0.5 XNO, description: Anything, mime_type: application/json }
  - { match: /secret/**, upstream: tools, price: 1 XNO, hidden: true }
`);
  const child = spawn(FAREGATE, ["serve", "--config", config, "--log-format", "json"], { stdio: ["ignore", "ignore", "pipe"] });
  const address = await printed(child, child.stderr, /"message":"listening","address":"([0-9.:]+)"/);
  const close = () => new Promise((resolve) => {
    child.removeAllListeners("exit").on("exit", resolve);
    child.kill();
  });
  return { url: `http://${address}`, close };
}

/** A client that pays by `mechanism`, up to `cap` raw. */
function wallet(mechanism, cap) {
  const client = new x402Client();
  client.register("nano:mainnet", {
    scheme: "exact",
    createPaymentPayload: async (x402Version, entry) => ({ x402Version, payload: await payer.answer(entry) }),
  });
  client.registerPolicy((_version, entries) => entries.filter((it) => it.extra.mechanism === mechanism));
  const maxAmountPerPayment = cap.toString();
  client.setSpendControls({ allowedAssets: [{ network: "nano:mainnet", asset: "XNO", maxAmountPerPayment }] });
  return client;
}

/** A fetch that pays as `wallet` does, and keeps the last capability it was given. */
function paying(mechanism, cap) {
  const client = wallet(mechanism, cap);
  const kept = { token: null };
  const watching = async (input, init) => {
    const answer = await fetch(input, init);
    const capability = answer.headers.get("payment-capability");
    if (capability) kept.token = capability.split(";")[0];
    return answer;
  };
  return { fetch: wrapFetchWithPayment(watching, client), kept };
}

async function connect(url, options) {
  const client = new Client({ name: "trial", version: "1" });
  const transport = new StreamableHTTPClientTransport(new URL(`${url}/mcp`), options);
  await client.connect(transport);
  return { client, transport };
}

async function sells(url, called, mechanism) {
  const { fetch: paid, kept } = paying(mechanism, 2n * 10n ** 27n);
  const { client, transport } = await connect(url, { fetch: paid });
  const before = payer.signed.length;
  const { tools } = await client.listTools();
  assert.deepEqual(tools.map((it) => it.name).sort(), ["render-page", "search"], "the tools, free");
  assert.equal(payer.signed.length, before, "blocks signed for what is free");

  const query = `über "${mechanism}" \u2028 😀`;
  const { content } = await client.callTool({ name: "search", arguments: { query } });
  assert.equal(content[0].text, `search: ${query}`, "the tool's answer");
  assert.equal(called.at(-1), `search ${query}`);
  assert.equal(payer.signed.length, before + 1, "blocks signed for one call");

  // The other use that was bought, by its capability; without it the call is billed.
  const held = await connect(url, { requestInit: { headers: { "PAYMENT-CAPABILITY": kept.token } } });
  assert.equal((await held.client.callTool({ name: "search", arguments: { query: "2" } })).content[0].text, "search: 2");
  await assert.rejects(held.client.callTool({ name: "search", arguments: { query: "3" } }), /CAPABILITY_EXHAUSTED/);
  const poor = await connect(url, {});
  await assert.rejects(poor.client.callTool({ name: "search", arguments: { query: "4" } }), /PAYMENT_REQUIRED/);

  await assert.rejects(client.callTool({ name: "render-page", arguments: { query: "5" } }), "a price above the cap");
  await assert.rejects(client.callTool({ name: "delete-all", arguments: {} }), /not_offered/);
  assert.equal(payer.signed.length, before + 1, "blocks signed in all");
  assert.equal(called.at(-1), "search 2", "what reached the server last");
  await transport.terminateSession();
  for (const it of [client, held.client, poor.client]) await it.close();
}

/**
 * Billed in results and paid in `_meta`, by the official SDK and the payments of x402's own library, put together as
 * x402's library for MCP does it. That one, `@x402/mcp`, is not on every registry.
 */
async function sellsInResults(url, called, mechanism) {
  const payments = wallet(mechanism, 2n * 10n ** 27n);
  const { client, transport } = await connect(url, {});
  const before = payer.signed.length;
  const call = async (query, meta) => client.callTool({ name: "search", arguments: { query }, ...(meta && { _meta: meta }) });

  const unpaid = await call("1");
  assert.equal(unpaid.isError, true);
  assert.deepEqual(JSON.parse(unpaid.content[0].text), unpaid.structuredContent);
  const bill = parsePaymentRequired(unpaid.structuredContent);
  assert.ok(bill.success, JSON.stringify(bill.error));
  const query = `über "${mechanism}" \u2028 😀`;
  const paid = await call(query, { "x402/payment": await payments.createPaymentPayload(unpaid.structuredContent) });
  assert.equal(paid.content[0].text, `search: ${query}`, "the tool's answer");
  assert.equal(called.at(-1), `search ${query}`);
  assert.equal(payer.signed.length, before + 1, "blocks signed for one call");
  const receipt = paid._meta["x402/payment-response"];
  assert.deepEqual([receipt.success, receipt.network, receipt.payer], [true, "nano:mainnet", payer.address]);
  const held = paid._meta["faregate/capability"];
  assert.equal((await call("2", { "faregate/capability": held })).content[0].text, "search: 2");
  const spent = await call("3", { "faregate/capability": held.token });
  assert.deepEqual([spent.isError, spent.structuredContent.error], [true, "CAPABILITY_EXHAUSTED"]);
  const dear = await client.callTool({ name: "render-page", arguments: { query: "4" } });
  await assert.rejects(payments.createPaymentPayload(dear.structuredContent), "a price above the cap");
  assert.equal(payer.signed.length, before + 1, "blocks signed in all");
  assert.equal(called.at(-1), "search 2", "what reached the server last");
  await transport.terminateSession();
  await client.close();
}

/** The tools of the public server, whose answers are streams of events. */
async function sellsPublic(url) {
  const { fetch: paid, kept } = paying("nanoTxn", 2n * 10n ** 27n);
  const { client, transport } = await connect(url, { fetch: paid });
  const before = payer.signed.length;
  const { tools } = await client.listTools();
  assert.ok(["echo", "get-sum", "get-env"].every((name) => tools.some((it) => it.name === name)), "its tools, free");
  assert.equal(payer.signed.length, before, "blocks signed for what is free");
  const { content } = await client.callTool({ name: "echo", arguments: { message: "hällo 😀" } });
  assert.match(content[0].text, /hällo 😀/);
  assert.equal(payer.signed.length, before + 1, "blocks signed for one call");
  const held = await connect(url, { requestInit: { headers: { "PAYMENT-CAPABILITY": kept.token } } });
  assert.match((await held.client.callTool({ name: "echo", arguments: { message: "again" } })).content[0].text, /again/);
  await assert.rejects(held.client.callTool({ name: "echo", arguments: { message: "3" } }), /CAPABILITY_EXHAUSTED/);
  await assert.rejects(client.callTool({ name: "get-sum", arguments: { a: 1, b: 2 } }), "a price above the cap");
  await assert.rejects(client.callTool({ name: "get-env", arguments: {} }), /not_offered/);
  assert.equal(payer.signed.length, before + 1, "blocks signed in all");
  await transport.terminateSession();
  for (const it of [client, held.client]) await it.close();
}

async function publishes(url) {
  const found = await discoverOriginSchema({ target: url });
  assert.equal(found.found, true, JSON.stringify(found));
  assert.equal(found.source, "openapi");
  const endpoints = found.endpoints.map((it) => `${it.method} ${it.path} ${it.authMode} ${it.price ?? ""}`).sort();
  assert.ok(!JSON.stringify(found).includes("secret"), "what is hidden");
  assert.ok(endpoints.some((it) => it.startsWith("GET /v1/{name} paid") && it.includes("0.25")), endpoints.join("\n"));
  assert.ok(endpoints.some((it) => it.startsWith("POST /mcp paid")), endpoints.join("\n"));
  const document = (await getOpenAPI(url)).match((it) => it, (error) => assert.fail(JSON.stringify(error)));
  const warnings = getWarningsForOpenAPI(document).filter((it) => it.severity !== "info");
  assert.deepEqual(warnings, [], JSON.stringify(warnings));
}

function version(name) {
  const path = new URL(`./node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")).version;
}

async function outcome(work) {
  try {
    await work();
    return "ok";
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
    return error.message.split("\n").join(" ");
  }
}

async function trial(name, mechanism, work) {
  console.log([name, version(name), mechanism, await outcome(work)].join("\t"));
}

const called = [];
const upstream = await server(called);
const gate = await gateway(upstream.url, "mcp", '{ search: 0.001 XNO, "render-*": 0.01 XNO }');
for (const mechanism of ["nanoTxn", "nanoSignature"]) {
  await trial("@modelcontextprotocol/sdk", mechanism, () => sells(gate.url, called, mechanism));
}
await trial("@agentcash/discovery", "openapi.json", () => publishes(gate.url));
await gate.close();
const inResults = await gateway(upstream.url, "mcp-results", '{ search: 0.001 XNO, "render-*": 0.01 XNO }', "result");
for (const mechanism of ["nanoTxn", "nanoSignature"]) {
  await trial("@x402/core", `${mechanism}, MCP`, () => sellsInResults(inResults.url, called, mechanism));
}
await inResults.close();
upstream.close();

const result = await outcome(async () => {
  const everything = await publicServer();
  try {
    const before = await gateway(everything.url, "everything", "{ echo: 0.001 XNO, get-sum: 0.01 XNO }");
    await sellsPublic(before.url).finally(before.close);
  } finally {
    everything.close();
  }
});
const sdk = "@modelcontextprotocol/sdk";
const row = [sdk, version(sdk), PUBLIC.split("/")[1], version(PUBLIC), "MCP over streams", result];
appendFileSync(TRANSPORTS, `${row.join("\t")}\n`);
