// Plays calls.json with the official JavaScript clients of OpenAI and Anthropic, through a gateway: a line of JSON
// for each call, with what its caller saw. costs.py judges them.
//
// environment: GATEWAY and PROVIDER (URLs), FOLDER (with purses/javascript-API.json, as `faregate pay --json` printed
// it)

import { readFileSync } from "node:fs";

import * as anthropic from "@anthropic-ai/sdk";
import * as openai from "openai";

const { GATEWAY, PROVIDER, FOLDER } = process.env;
const CALLS = JSON.parse(readFileSync(new URL("./calls.json", import.meta.url)));
// Longer than the gateway waits for an answer to begin.
const PATIENCE_MS = 8000;

const count = (text) => text.split(" ").filter(Boolean).length;

/** The caller leaves where the stream stalls. */
class Left extends Error {}

function adds(seen, call, text) {
  seen.text += text;
  if (call.then === "stall" && count(seen.text) === Math.floor(call.output / 2)) throw new Left();
}

const APIS = {
  chat: {
    package: openai,
    name: "openai",
    path: "openai/v1",
    model: "gpt-4o-mini",
    async play(client, call, { prompt, ...asked }, seen) {
      asked.messages = [{ role: "user", content: prompt }];
      if (call.include_usage) asked.stream_options = { include_usage: true };
      const used = (it) => [it.prompt_tokens, it.completion_tokens];
      if (call.helper) {
        const stream = client.chat.completions.stream(asked);
        stream.on("content", (text) => (seen.text += text));
        seen.used = used(await stream.totalUsage());
      } else if (call.stream) {
        const chunks = await client.chat.completions.create({ ...asked, stream: true });
        seen.begun = true;
        for await (const chunk of chunks) {
          for (const it of chunk.choices) adds(seen, call, it.delta.content ?? "");
          if (chunk.usage) seen.used = used(chunk.usage);
        }
      } else {
        const answer = await client.chat.completions.create(asked);
        seen.text = answer.choices[0].message.content;
        seen.used = used(answer.usage);
      }
    },
  },
  responses: {
    package: openai,
    name: "openai",
    path: "openai/v1",
    model: "gpt-4o-mini",
    async play(client, call, { prompt, max_tokens, ...asked }, seen) {
      asked.input = prompt;
      asked.max_output_tokens = max_tokens;
      const used = (it) => [it.input_tokens, it.output_tokens];
      if (call.helper) {
        const stream = client.responses.stream(asked);
        stream.on("response.output_text.delta", (event) => (seen.text += event.delta));
        seen.used = used((await stream.finalResponse()).usage);
      } else if (call.stream) {
        const events = await client.responses.create({ ...asked, stream: true });
        seen.begun = true;
        for await (const event of events) {
          if (event.type === "response.output_text.delta") adds(seen, call, event.delta);
          else if (event.type === "response.completed") seen.used = used(event.response.usage);
          else if (event.type === "response.failed") seen.failed = true;
        }
      } else {
        const answer = await client.responses.create(asked);
        seen.text = answer.output_text;
        seen.used = used(answer.usage);
      }
    },
  },
  messages: {
    package: anthropic,
    name: "@anthropic-ai/sdk",
    path: "anthropic",
    model: "claude-haiku-4-5",
    async play(client, call, { prompt, ...asked }, seen) {
      asked.messages = [{ role: "user", content: prompt }];
      const used = (it) => [it.input_tokens, it.output_tokens];
      if (call.helper) {
        const stream = client.messages.stream(asked);
        stream.on("text", (text) => (seen.text += text));
        seen.used = used((await stream.finalMessage()).usage);
      } else if (call.stream) {
        const events = await client.messages.create({ ...asked, stream: true });
        seen.begun = true;
        let input = 0;
        for await (const event of events) {
          if (event.type === "message_start") input = event.message.usage.input_tokens;
          else if (event.type === "content_block_delta") adds(seen, call, event.delta.text);
          else if (event.type === "message_delta") seen.used = [input, event.usage.output_tokens];
        }
      } else {
        const answer = await client.messages.create(asked);
        seen.text = answer.content.map((it) => it.text).join("");
        seen.used = used(answer.usage);
      }
    },
  },
};

function version(name) {
  const path = new URL(`./node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")).version;
}

/** What the caller sees in the end. */
async function outcome(api, client, call, asked, seen) {
  try {
    await api.play(client, call, asked, seen);
    return seen.failed ? `error after ${count(seen.text)} tokens` : `${count(seen.text)} tokens`;
  } catch (error) {
    const after = `after ${count(seen.text)} tokens`;
    if (error instanceof Left) return `left ${after}`;
    if (error instanceof api.package.APIError && error.status && !seen.begun) return String(error.status);
    const isOfConnection = error instanceof api.package.APIConnectionError || !(error instanceof api.package.APIError);
    console.error(`${call.how}:`, error.message);
    return `${isOfConnection ? "broken" : "error"} ${after}`;
  }
}

for (const [name, api] of Object.entries(APIS)) {
  const purse = `javascript-${name}`;
  const { capability } = JSON.parse(readFileSync(`${FOLDER}/purses/${purse}.json`, "utf8"));
  for (const call of CALLS.filter((it) => it.apis?.includes(name) ?? true)) {
    const ids = [];
    const said = [];
    const noting = async (input, init) => {
      const answer = await fetch(input, init);
      ids.push(answer.headers.get("x-request-id"));
      if (answer.status === 402) said.push((await answer.clone().json()).message);
      return answer;
    };
    const client = new api.package.default({
      apiKey: "the clients need none",
      baseURL: `${GATEWAY}/${api.path}`,
      defaultHeaders: { "PAYMENT-CAPABILITY": capability.token },
      maxRetries: call.retries ?? 0,
      timeout: PATIENCE_MS,
      fetch: noting,
    });
    const prompt = { call: `${purse} ${call.how}` };
    for (const key of ["input", "cached", "written", "output", "fail", "then", "running"]) {
      if (key in call) prompt[key] = call[key];
    }
    const asked = { model: call.model ?? api.model, max_tokens: call.max_tokens ?? 100, prompt: JSON.stringify(prompt) };
    const seen = { text: "", used: null };
    const row = { client: `${api.name} (npm)`, version: version(api.name), api: name, purse, how: call.how };
    row.outcome = await outcome(api, client, call, asked, seen);
    if (call.then === "stall" || call.then === "cut") {
      row.passed = await (await fetch(`${PROVIDER}/go-on`, { method: "POST", body: prompt.call })).json();
    }
    console.log(JSON.stringify({ ...row, used: seen.used, ids, said }));
  }
}
