"""Stands in for the APIs of OpenAI (chat completions, responses) and Anthropic (messages): requests, answers,
events, `usage` and errors are as their references document them. The model answers a number of equal tokens, and
the last message says, as JSON, how many and what comes of it:

    {"call": "any text, another for each call",
     "input": 17, "cached": 5, "output": 9,    what it says it used; `cached` beside `input`
     "written": 3,                             Anthropic: tokens that are written into its cache
     "fail": [500, 429],                       the statuses of the first tries
     "then": "end"}                            or, after half of the tokens of a stream (in place of a whole answer):
                                               "error": an error that is an event, "cut": the connection ends,
                                               "stall": nothing more until `POST /go-on` with the `call`, then
                                               comments, until nobody listens
     "running": true                           chat completions: each event says what was used so far, as some
                                               servers of this API do

`POST /go-on` answers what had come and gone by then: {"request_bytes", "text_bytes"}.

usage: provider.py KEY        prints its address. Who does not have the key of the API is refused, as is who shows
                              it a payment.
"""

import gzip
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = sys.argv[1]
TOKEN = "token "
LONGEST_STALL_S = 60

tries = {}
stalls = {}
changed = threading.Condition()


class Stopped(Exception):
    """The connection is to end here."""


class Work:
    """What is asked for, and how much of it comes."""

    def __init__(self, told, model):
        self.call = told["call"]
        self.input, self.cached, self.written = (told.get(it, 0) for it in ("input", "cached", "written"))
        self.output = told.get("output", 1)
        self.fail = told.get("fail", [])
        self.then = told.get("then", "end")
        self.running = told.get("running", False)
        # An alias is answered by the name of the version that it stands for.
        self.model = f"{model}-2024-07-18"
        self.asked_model = model
        self.streams = self.include_usage = False

    def text(self):
        return TOKEN * self.output

    def begun(self):
        """The tokens of a stream that does not come to its end."""
        return self.output if self.then == "end" else self.output // 2


class Chat:
    """POST /v1/chat/completions"""

    def work(self, body):
        work = Work(json.loads(body["messages"][-1]["content"]), body["model"])
        work.streams = bool(body.get("stream"))
        work.include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return work

    def usage(self, work, output):
        return {
            "prompt_tokens": work.input + work.cached,
            "completion_tokens": output,
            "total_tokens": work.input + work.cached + output,
            "prompt_tokens_details": {"cached_tokens": work.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def frame(self, work, kind, **rest):
        return {
            "id": "chatcmpl-9x",
            "object": kind,
            "created": 1764288000,
            "model": work.model,
            "service_tier": "default",
            "system_fingerprint": "fp_9x",
            **rest,
        }

    def whole(self, work):
        message = {"role": "assistant", "content": work.text(), "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return self.frame(work, "chat.completion", choices=[choice], usage=self.usage(work, work.output))

    def events(self, work):
        def chunk(delta, output, finish=None):
            choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
            rest = {"choices": choices}
            if work.include_usage:
                rest["usage"] = self.usage(work, output) if work.running else None
            return None, self.frame(work, "chat.completion.chunk", **rest)

        yield chunk({"role": "assistant", "content": "", "refusal": None}, 0)
        for count in range(work.begun()):
            yield chunk({"content": TOKEN}, count + 1)
        if work.then == "error":
            yield None, self.error(500)
        yield work.then
        yield chunk({}, work.output, "stop")
        if work.include_usage:
            yield None, self.frame(work, "chat.completion.chunk", choices=[], usage=self.usage(work, work.output))
        yield None, "[DONE]"

    def error(self, status):
        """An error's body, by the guide to error codes."""
        kinds = {
            400: ("Unrecognized request argument supplied", "invalid_request_error", None),
            401: ("Incorrect API key provided", "invalid_request_error", "invalid_api_key"),
            404: ("Invalid URL", "invalid_request_error", None),
            429: ("Rate limit reached for requests", "requests", "rate_limit_exceeded"),
            500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
        }
        message, kind, code = kinds[status]
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def limits(self, status):
        return {"retry-after-ms": "1", "x-ratelimit-remaining-requests": "0"} if status == 429 else {}


class Responses(Chat):
    """POST /v1/responses"""

    def work(self, body):
        asked = body["input"]
        work = Work(json.loads(asked if isinstance(asked, str) else asked[-1]["content"]), body["model"])
        work.streams = bool(body.get("stream"))
        return work

    def usage(self, work, output):
        return {
            "input_tokens": work.input + work.cached,
            "input_tokens_details": {"cached_tokens": work.cached},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": work.input + work.cached + output,
        }

    def response(self, work, status, output, usage, error=None):
        return {
            "id": "resp_9x",
            "object": "response",
            "created_at": 1764288000,
            "status": status,
            "error": error,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": work.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage,
        }

    def message(self, text, status):
        content = [{"type": "output_text", "text": text, "annotations": []}] if status == "completed" else []
        return {"id": "msg_9x", "type": "message", "role": "assistant", "status": status, "content": content}

    def whole(self, work):
        message = self.message(work.text(), "completed")
        return self.response(work, "completed", [message], self.usage(work, work.output))

    def events(self, work):
        number = iter(range(1 << 30))

        def event(kind, **rest):
            return kind, {"type": kind, "sequence_number": next(number), **rest}

        where = {"item_id": "msg_9x", "output_index": 0, "content_index": 0}
        empty = {"type": "output_text", "text": "", "annotations": []}
        part = {"type": "output_text", "text": work.text(), "annotations": []}
        yield event("response.created", response=self.response(work, "in_progress", [], None))
        yield event("response.in_progress", response=self.response(work, "in_progress", [], None))
        yield event("response.output_item.added", output_index=0, item=self.message("", "in_progress"))
        yield event("response.content_part.added", **where, part=empty)
        for _ in range(work.begun()):
            yield event("response.output_text.delta", **where, delta=TOKEN, logprobs=[])
        if work.then == "error":
            error = {"code": "server_error", "message": "The model failed to generate a response."}
            yield event("response.failed", response=self.response(work, "failed", [], None, error))
        yield work.then
        yield event("response.output_text.done", **where, text=work.text(), logprobs=[])
        yield event("response.content_part.done", **where, part=part)
        yield event("response.output_item.done", output_index=0, item=self.message(work.text(), "completed"))
        yield event("response.completed", response=self.whole(work))


class Messages:
    """POST /v1/messages"""

    def work(self, body):
        work = Work(json.loads(body["messages"][-1]["content"]), body["model"])
        work.streams = bool(body.get("stream"))
        return work

    def usage(self, work, output):
        written = {"ephemeral_5m_input_tokens": work.written, "ephemeral_1h_input_tokens": 0}
        return {
            "input_tokens": work.input,
            "cache_creation_input_tokens": work.written,
            "cache_read_input_tokens": work.cached,
            "cache_creation": written,
            "output_tokens": output,
            "service_tier": "standard",
        }

    def message(self, work, content, stop, output):
        return {
            "id": "msg_9x",
            "type": "message",
            "role": "assistant",
            "model": work.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": self.usage(work, output),
        }

    def whole(self, work):
        return self.message(work, [{"type": "text", "text": work.text()}], "end_turn", work.output)

    def events(self, work):
        def event(kind, **rest):
            return kind, {"type": kind, **rest}

        yield event("message_start", message=self.message(work, [], None, 1))
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield event("ping")
        for _ in range(work.begun()):
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": TOKEN})
        if work.then == "error":
            yield event("error", error={"type": "overloaded_error", "message": "Overloaded"})
        yield work.then
        yield event("content_block_stop", index=0)
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        yield event("message_delta", delta=end, usage={"output_tokens": work.output})
        yield event("message_stop")

    def error(self, status):
        """An error's body, by the reference on errors."""
        kinds = {
            400: ("invalid_request_error", "Invalid request"),
            401: ("authentication_error", "invalid x-api-key"),
            404: ("not_found_error", "Not found"),
            429: ("rate_limit_error", "This request would exceed your account's rate limit."),
            500: ("api_error", "Internal server error"),
            529: ("overloaded_error", "Overloaded"),
        }
        kind, message = kinds[status]
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_9x"}

    def limits(self, status):
        return {"retry-after": "0", "anthropic-ratelimit-requests-remaining": "0"} if status == 429 else {}


APIS = {"/v1/chat/completions": Chat(), "/v1/responses": Responses(), "/v1/messages": Messages()}


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/go-on":
            return self.go_on(body.decode())
        api = APIS.get(self.path.split("?")[0])
        if not api:
            return self.answer(404, Chat().error(404))
        shown = self.headers["x-api-key"] if isinstance(api, Messages) else self.headers["authorization"]
        if shown != (KEY if isinstance(api, Messages) else f"Bearer {KEY}"):
            return self.answer(401, api.error(401))
        if any(name.lower().startswith("payment-") for name in self.headers):
            return self.answer(400, api.error(400))
        work = api.work(json.loads(body))
        with changed:
            tried = tries[work.call] = tries.get(work.call, -1) + 1
        if tried < len(work.fail):
            status = work.fail[tried]
            return self.answer(status, api.error(status), api.limits(status))
        if work.streams:
            return self.stream(api, work, len(body))
        if work.then != "end":
            self.stall(work, len(body), 0)
        self.answer(200, api.whole(work))

    def go_on(self, call):
        with changed:
            came = changed.wait_for(lambda: call in stalls, LONGEST_STALL_S)
            figures, stalls[call] = stalls.get(call), "over"
            changed.notify_all()
        self.answer(200 if came else 404, figures or {})

    def stall(self, work, request_bytes, text_bytes):
        with changed:
            stalls[work.call] = {"request_bytes": request_bytes, "text_bytes": text_bytes}
            changed.notify_all()
            changed.wait_for(lambda: stalls[work.call] == "over", LONGEST_STALL_S)

    def answer(self, status, value, headers={}):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        for name, text in headers.items():
            self.send_header(name, text)
        # As these APIs do where they may.
        if "gzip" in (self.headers["accept-encoding"] or ""):
            body = gzip.compress(body)
            self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        try:
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            # Who has waited long enough has left.
            self.close_connection = True

    def stream(self, api, work, request_bytes):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for it in api.events(work):
                if isinstance(it, tuple):
                    self.event(*it)
                else:
                    self.reached(it, work, request_bytes)
            self.chunk(b"")
        except (Stopped, ConnectionError):
            self.close_connection = True

    def reached(self, then, work, request_bytes):
        """The middle of a stream."""
        if then == "cut":
            with changed:
                stalls[work.call] = {"request_bytes": request_bytes, "text_bytes": len(TOKEN) * work.begun()}
                changed.notify_all()
            raise Stopped
        if then == "error":
            self.chunk(b"")
            raise Stopped
        if then == "stall":
            self.stall(work, request_bytes, len(TOKEN) * work.begun())
            until = time.monotonic() + LONGEST_STALL_S
            while time.monotonic() < until:
                self.chunk(b": still here\n\n")
                time.sleep(0.05)
            raise Stopped

    def event(self, name, data):
        head = f"event: {name}\n" if name else ""
        text = data if isinstance(data, str) else json.dumps(data)
        self.chunk(f"{head}data: {text}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


server = Server(("127.0.0.1", 0), Provider)
print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
