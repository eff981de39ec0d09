"""Plays calls.json with the official Python clients of OpenAI and Anthropic, through a gateway: a line of JSON for
each call, with what its caller saw. costs.py judges them.

environment: GATEWAY and PROVIDER (URLs), FOLDER (with purses/python-API.json, as `faregate pay --json` printed it)
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import traceback
import urllib.request

import anthropic
import httpx2
import openai

GATEWAY, PROVIDER, FOLDER = (os.environ[name] for name in ("GATEWAY", "PROVIDER", "FOLDER"))
HERE = pathlib.Path(__file__).parent
# Longer than the gateway waits for an answer to begin, and shorter than a stream stalls.
PATIENCE_S = 8
STALL_PATIENCE_S = 3


class Seen:
    """What the caller of one call sees."""

    def __init__(self):
        self.text, self.used = "", None
        self.begun = self.failed = False

    def tokens(self):
        return len(self.text.split())


def chat(client, call, asked, seen):
    asked |= {"messages": [{"role": "user", "content": asked.pop("prompt")}]}
    if call.get("include_usage"):
        asked["stream_options"] = {"include_usage": True}
    if call.get("helper"):
        with client.chat.completions.stream(**asked) as events:
            for event in events:
                if event.type == "content.delta":
                    seen.text += event.delta
            usage = events.get_final_completion().usage
        seen.used = [usage.prompt_tokens, usage.completion_tokens]
    elif call.get("stream"):
        with client.chat.completions.create(stream=True, **asked) as chunks:
            seen.begun = True
            for chunk in chunks:
                seen.text += "".join(it.delta.content or "" for it in chunk.choices)
                if chunk.usage:
                    seen.used = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens]
    else:
        answer = client.chat.completions.create(**asked)
        seen.text = answer.choices[0].message.content
        seen.used = [answer.usage.prompt_tokens, answer.usage.completion_tokens]


def responses(client, call, asked, seen):
    asked |= {"input": asked.pop("prompt"), "max_output_tokens": asked.pop("max_tokens")}
    if call.get("helper"):
        with client.responses.stream(**asked) as events:
            for event in events:
                if event.type == "response.output_text.delta":
                    seen.text += event.delta
            usage = events.get_final_response().usage
    elif call.get("stream"):
        usage = None
        with client.responses.create(stream=True, **asked) as events:
            seen.begun = True
            for event in events:
                if event.type == "response.output_text.delta":
                    seen.text += event.delta
                elif event.type == "response.completed":
                    usage = event.response.usage
                elif event.type == "response.failed":
                    seen.failed = True
    else:
        answer = client.responses.create(**asked)
        seen.text, usage = answer.output_text, answer.usage
    seen.used = usage and [usage.input_tokens, usage.output_tokens]


def messages(client, call, asked, seen):
    asked |= {"messages": [{"role": "user", "content": asked.pop("prompt")}]}
    if call.get("helper"):
        with client.messages.stream(**asked) as stream:
            for text in stream.text_stream:
                seen.text += text
            usage = stream.get_final_message().usage
        seen.used = [usage.input_tokens, usage.output_tokens]
    elif call.get("stream"):
        with client.messages.create(stream=True, **asked) as events:
            seen.begun = True
            for event in events:
                if event.type == "message_start":
                    start = event.message.usage
                elif event.type == "content_block_delta":
                    seen.text += event.delta.text
                elif event.type == "message_delta":
                    seen.used = [start.input_tokens, event.usage.output_tokens]
    else:
        answer = client.messages.create(**asked)
        seen.text = "".join(it.text for it in answer.content)
        seen.used = [answer.usage.input_tokens, answer.usage.output_tokens]


APIS = {
    "chat": (chat, openai, openai.OpenAI, "openai/v1", "gpt-4o-mini"),
    "responses": (responses, openai, openai.OpenAI, "openai/v1", "gpt-4o-mini"),
    "messages": (messages, anthropic, anthropic.Anthropic, "anthropic", "claude-haiku-4-5"),
}


def outcome(run, package, client, call, asked, seen):
    try:
        run(client, call, asked, seen)
        return f"error after {seen.tokens()} tokens" if seen.failed else f"{seen.tokens()} tokens"
    # Anthropic's client hands on what its transport raises within a stream.
    except (package.APITimeoutError, httpx2.TimeoutException):
        return f"left after {seen.tokens()} tokens"
    except (package.APIConnectionError, httpx2.TransportError):
        return f"broken after {seen.tokens()} tokens"
    except package.APIStatusError as error:
        # Its client makes one of an error within a stream too.
        return f"error after {seen.tokens()} tokens" if seen.begun else str(error.status_code)
    except package.APIError:
        return f"error after {seen.tokens()} tokens"


def play(api, call):
    run, package, make, path, model = APIS[api]
    purse = json.loads(pathlib.Path(FOLDER, "purses", f"python-{api}.json").read_text())
    ids, said = [], []

    def note(response):
        ids.append(response.headers["x-request-id"])
        if response.status_code == 402:
            said.append(json.loads(response.read())["message"])

    client = make(
        api_key="the clients need none",
        base_url=f"{GATEWAY}/{path}",
        default_headers={"PAYMENT-CAPABILITY": purse["capability"]["token"]},
        max_retries=call.get("retries", 0),
        timeout=STALL_PATIENCE_S if call.get("stream") else PATIENCE_S,
        http_client=package.DefaultHttpxClient(event_hooks={"response": [note]}),
    )
    prompt = {"call": f"python {api} {call['how']}"} | {
        name: call[name] for name in ("input", "cached", "written", "output", "fail", "then", "running") if name in call
    }
    model = call.get("model", model)
    asked = {"model": model, "max_tokens": call.get("max_tokens", 100), "prompt": json.dumps(prompt)}
    seen = Seen()
    row = {"client": f"{package.__name__} (PyPI)", "version": importlib.metadata.version(package.__name__)}
    row |= {"api": api, "purse": f"python-{api}", "how": call["how"]}
    try:
        row["outcome"] = outcome(run, package, client, call, asked, seen)
    except Exception as error:
        traceback.print_exc()
        row["outcome"] = " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        client.close()
    if call.get("then") in ("stall", "cut"):
        told = urllib.request.Request(f"{PROVIDER}/go-on", data=prompt["call"].encode())
        row["passed"] = json.load(urllib.request.urlopen(told, timeout=30))
    print(json.dumps(row | {"used": seen.used, "ids": ids, "said": said}), flush=True)


for api in APIS:
    for call in json.loads((HERE / "calls.json").read_text()):
        if api in call.get("apis", APIS):
            play(api, call)
