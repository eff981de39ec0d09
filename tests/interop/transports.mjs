// JavaScript clients of HTTP/1.1, HTTP/2, WebSocket and server-sent events before a gateway: a row of the table
// for each of them and each upstream; the exit status is 1 if any result is not `ok`.
//
// environment: GATEWAY (URL), UPSTREAMS (JSON: name, version, token and features of each)

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http2 from "node:http2";

import { EventSource } from "eventsource";
import WebSocket from "ws";

const { GATEWAY, UPSTREAMS } = process.env;
const EVENTS = ["0", "1", "2"];
const AT_LEAST_MS = 200;
const WITHIN_MS = 10_000;

/** The headers of a client that has bought something, or has not. */
const paid = (token) => (token ? { "PAYMENT-CAPABILITY": token } : {});

async function byFetch(path, token) {
  const answer = await fetch(GATEWAY + path, { headers: paid(token) });
  return { status: answer.status, text: await answer.text() };
}

function byHttp2(path, token) {
  return new Promise((resolve, reject) => {
    const session = http2.connect(GATEWAY);
    session.on("error", reject);
    const request = session.request({ ":path": path, ...paid(token) });
    let [status, text] = [0, ""];
    request.on("response", (headers) => { status = headers[":status"]; });
    request.on("data", (part) => { text += part; });
    request.on("end", () => { session.close(); resolve({ status, text }); });
    request.on("error", reject);
  });
}

/** Status 101 and what came back, or the status of the refusal. */
function byWebSocket(path, token) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(GATEWAY.replace("http", "ws") + path, { headers: paid(token) });
    socket.on("unexpected-response", (request, answer) => { request.destroy(); resolve({ status: answer.statusCode }); });
    socket.on("error", reject);
    socket.on("close", (code) => reject(new Error(`closed with ${code}`)));
    socket.on("open", () => socket.send("hällo 😀"));
    socket.on("message", (data) => {
      socket.close();
      resolve({ status: 101, text: data.toString() });
    });
  });
}

/** Status 200 with the events and how long they took, or the status of the refusal. */
function byEventSource(path, token) {
  return new Promise((resolve) => {
    const withToken = (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...paid(token) } });
    const source = new EventSource(GATEWAY + path, { fetch: withToken });
    const events = [];
    let began;
    source.addEventListener("tick", (event) => {
      began ??= performance.now();
      events.push(event.data);
      if (events.length < EVENTS.length) return;
      source.close();
      resolve({ status: 200, events, took: performance.now() - began });
    });
    source.addEventListener("error", (event) => {
      source.close();
      resolve({ status: event.code });
    });
  });
}

function version(name) {
  const path = new URL(`./node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")).version;
}

async function row(client, of, upstream, protocol, path, ask, check) {
  let [result, timer] = ["ok"];
  try {
    const late = new Promise((_, reject) => { timer = setTimeout(reject, WITHIN_MS, new Error("too late")); });
    const unpaid = await Promise.race([ask(path, undefined), late]);
    assert.equal(unpaid.status, 402, "the status before it is paid for");
    check(await Promise.race([ask(path, upstream.token), late]));
  } catch (error) {
    result = error.message.split("\n").join(" ");
    console.error(client, upstream.name, protocol, error);
    process.exitCode = 1;
  }
  clearTimeout(timer);
  console.log([client, of, upstream.name, upstream.version, protocol, result].join("\t"));
}

for (const upstream of JSON.parse(UPSTREAMS)) {
  const at = (path) => `/${upstream.name}/${path}`;
  const isText = ({ status, text }) => assert.deepEqual([status, text], [200, `GET ${at("text")}`]);
  await row("node fetch", process.version, upstream, "HTTP/1.1", at("text"), byFetch, isText);
  await row("node:http2", process.version, upstream, "HTTP/2", at("text"), byHttp2, isText);
  if (upstream.features.includes("socket")) {
    const isEcho = ({ status, text }) => assert.deepEqual([status, text], [101, "hällo 😀"]);
    await row("ws", version("ws"), upstream, "WebSocket", at("socket"), byWebSocket, isEcho);
  }
  if (upstream.features.includes("events")) {
    await row("eventsource", version("eventsource"), upstream, "SSE", at("events"), byEventSource, ({ status, events, took }) => {
      assert.deepEqual([status, events], [200, EVENTS]);
      assert.ok(took > AT_LEAST_MS, `each as it is sent, not all at once: ${took} ms`);
    });
  }
}
process.exit();
