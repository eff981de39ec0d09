"""A gateway before servers that others made, asked by clients that others made, over HTTP/1.1, HTTP/2, WebSocket
and server-sent events: before and after each path is paid for. Prints a line `client TAB version TAB upstream TAB
version TAB protocol TAB result` for each; the exit status is 1 if any result is not `ok`.

environment: FAREGATE (the program), FOLDER (for its files), NODE (URL), SEED (64 hexadecimal digits), THRESHOLD (of
the ledger's work, 16 hexadecimal digits), NPM (the folder of the JavaScript packages and scripts; none: no JavaScript)
"""

import base64
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import traceback
from types import SimpleNamespace

import httpx
import requests
from httpx_sse import connect_sse
from payer import Payer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_websocket

FAREGATE, FOLDER, NODE, SEED, THRESHOLD = (
    os.environ[name] for name in ("FAREGATE", "FOLDER", "NODE", "SEED", "THRESHOLD")
)
NPM = os.environ.get("NPM")
HERE = os.path.dirname(os.path.abspath(__file__))
UPSTREAMS = os.path.join(os.path.dirname(HERE), "upstreams")
WITHIN_S = 10.0
EVENTS = ["0", "1", "2"]
AT_LEAST_S = 0.2

CONFIG = """
public_url: http://127.0.0.1:8402
listen: {{ http: 127.0.0.1:0, h2c: true }}
nano:
  nodes: ["{node}"]
  pool: {{ seed_file: transports.seed, size: 16 }}
  work: {{ send: "{threshold}", receive: "{threshold}" }}
challenge: {{ key_file: transports.key }}
store: {{ path: transports.db }}
upstreams:
{upstreams}
routes:
{routes}
"""

processes = []


def start(command, name, **options):
    """Starts a program; what it prints goes to a file, whose path is given."""
    path = os.path.join(FOLDER, f"transports-{name}.log")
    with open(path, "w") as log:
        processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options))
    return path


def until_found(pattern, path):
    """The first match of a pattern in a file, once it is there."""
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        with open(path) as log:
            found = re.search(pattern, log.read())
        if found:
            return found
        time.sleep(0.05)
    raise RuntimeError(f"no {pattern!r} in {path}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def first_version(*command):
    printed = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+(\.\d+)+", printed.stdout + printed.stderr).group()


def listens(url):
    """Waits until somebody takes connections at a URL."""
    port = int(url.rsplit(":", 1)[1])
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nobody listens at {url}")


def servers():
    """The name, version, URL, protocol and features of each server that can be started here."""
    url = r"http://127\.0\.0\.1:\d+"
    plain = ("http1", [])
    if NPM:
        path = start(["node", os.path.join(NPM, "transport_server.mjs")], "node")
        yield "node", first_version("node", "--version"), until_found(url, path).group(), "http1", ["socket", "events"]
    for name, protocol, features in (("uvicorn", "http1", ["socket", "events"]), ("hypercorn", "h2c", ["events"])):
        path = start([sys.executable, os.path.join(HERE, "transport_server.py"), name], name)
        yield name, importlib.metadata.version(name), until_found(url, path).group(), protocol, features
    command = [sys.executable, "-m", "gunicorn", "--chdir", UPSTREAMS, "--bind", "127.0.0.1:0", "wsgi:application"]
    environment = {**os.environ, "LOG": os.path.join(FOLDER, "transports-gunicorn.seen")}
    path = start(command, "gunicorn", env=environment)
    yield "gunicorn", importlib.metadata.version("gunicorn"), until_found(url, path).group(), *plain
    if shutil.which("php"):
        address = f"127.0.0.1:{free_port()}"
        environment = {**os.environ, "LOG": os.path.join(FOLDER, "transports-php.seen")}
        start(["php", "-S", address, os.path.join(UPSTREAMS, "router.php")], "php", env=environment)
        yield "php", first_version("php", "--version"), f"http://{address}", *plain
    if shutil.which("go"):
        server = os.path.join(FOLDER, "go-server")
        environment = {**os.environ, "GOCACHE": os.path.join(FOLDER, "go-cache"), "GOFLAGS": "-mod=mod"}
        command = ["go", "build", "-o", server, os.path.join(UPSTREAMS, "server.go")]
        subprocess.run(command, env=environment, check=True)
        path = start([server, os.path.join(FOLDER, "transports-go.seen")], "go")
        yield "go", first_version("go", "version"), until_found(url, path).group(), *plain
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if nginx:
        port, folder = free_port(), os.path.join(FOLDER, "transports-nginx")
        os.mkdir(folder)
        with open(os.path.join(UPSTREAMS, "nginx.conf")) as file:
            text = file.read().replace("FOLDER", folder).replace("PORT", str(port))
        with open(os.path.join(folder, "nginx.conf"), "w") as file:
            file.write(text)
        start([nginx, "-p", folder, "-c", os.path.join(folder, "nginx.conf")], "nginx")
        yield "nginx", first_version(nginx, "-v"), f"http://127.0.0.1:{port}", *plain


def gateway(upstreams):
    """Starts a gateway before these servers; gives its URL."""
    path = os.path.join(FOLDER, "transports.yaml")
    lines = "\n".join(f'  {it.name}: {{ url: "{it.url}", protocol: {it.protocol} }}' for it in upstreams)
    grants = "grants: { requests: 1000, within: 1h }"
    routes = "\n".join(
        f"  - {{ match: /{it.name}/**, upstream: {it.name}, price: 1 raw, {grants} }}" for it in upstreams
    )
    with open(path, "w") as file:
        file.write(CONFIG.format(node=NODE, threshold=THRESHOLD, upstreams=lines, routes=routes))
    log = start([FAREGATE, "serve", "--config", path, "--log-format", "json"], "gateway")
    return "http://" + until_found(r'"message":"listening","address":"([0-9.:]+)"', log).group(1)


def buy(payer, url):
    """Pays for a path; gives the capability."""
    bill = requests.get(url, timeout=WITHIN_S)
    required = json.loads(base64.b64decode(bill.headers["payment-required"]))
    entry = next(it for it in required["accepts"] if it["extra"]["mechanism"] == "nanoTxn")
    asked = SimpleNamespace(pay_to=entry["payTo"], amount=entry["amount"], extra=entry["extra"])
    payload = {"x402Version": 2, "accepted": entry, "payload": payer.create_payment_payload(asked)}
    proof = base64.b64encode(json.dumps(payload).encode()).decode()
    paid = requests.get(url, headers={"PAYMENT-SIGNATURE": proof}, timeout=WITHIN_S)
    assert paid.status_code == 200, (paid.status_code, paid.text)
    return paid.headers["payment-capability"].split(";")[0]


def headers(token):
    return {"PAYMENT-CAPABILITY": token} if token else {}


def by_curl(*options):
    def ask(url, token):
        fields = ["--header", f"PAYMENT-CAPABILITY: {token}"] if token else []
        command = ["curl", "--silent", "--max-time", str(WITHIN_S), *options, *fields, "--write-out", "\n%{http_code}"]
        printed = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
        text, status = printed.rsplit("\n", 1)
        return int(status), text

    return ask


def by_requests(url, token):
    answer = requests.get(url, headers=headers(token), timeout=WITHIN_S)
    return answer.status_code, answer.text


def by_httpx(**versions):
    def ask(url, token):
        with httpx.Client(timeout=WITHIN_S, **versions) as client:
            answer = client.get(url, headers=headers(token))
        assert answer.http_version == ("HTTP/2" if versions else "HTTP/1.1"), answer.http_version
        return answer.status_code, answer.text

    return ask


def by_websockets(url, token):
    try:
        with connect_websocket("ws" + url[4:], additional_headers=headers(token), open_timeout=WITHIN_S) as socket:
            socket.send("hällo 😀")
            return 101, socket.recv(WITHIN_S)
    except InvalidStatus as refused:
        return refused.response.status_code, None


def by_httpx_sse(**versions):
    def ask(url, token):
        with httpx.Client(timeout=WITHIN_S, **versions) as client:
            with connect_sse(client, "GET", url, headers=headers(token)) as source:
                if source.response.status_code != 200:
                    return source.response.status_code, None
                seen = [(it.data, time.monotonic()) for it in source.iter_sse() if it.event == "tick"]
        took = seen[-1][1] - seen[0][1]
        assert took > AT_LEAST_S, f"each as it is sent, not all at once: {took} s"
        return 200, [data for data, _ in seen]

    return ask


def is_row(client, version, upstream, protocol, path, ask, expected):
    """Prints a row; whether it holds."""
    result = "ok"
    try:
        url = f"{gate}/{upstream.name}/{path}"
        unpaid = ask(url, None)[0]
        assert unpaid == 402, f"the status before it is paid for is {unpaid}"
        answer = ask(url, upstream.token)
        assert answer == expected, f"expected {expected!r}, found {answer!r}"
    except Exception as error:
        traceback.print_exc()
        result = f"{type(error).__name__}: {error}".replace("\n", " ")
    print("\t".join([client, version, upstream.name, upstream.version, protocol, result]), flush=True)
    return result == "ok"


def rows(upstream):
    """Whether all rows of an upstream hold."""
    version = importlib.metadata.version
    text = (200, f"GET /{upstream.name}/text")
    asked = [
        ("requests", version("requests"), "HTTP/1.1", "text", by_requests, text),
        ("httpx", version("httpx"), "HTTP/1.1", "text", by_httpx(), text),
        ("httpx", version("httpx"), "HTTP/2", "text", by_httpx(http1=False, http2=True), text),
    ]
    if shutil.which("curl"):
        curl = first_version("curl", "--version")
        asked.append(("curl", curl, "HTTP/1.1", "text", by_curl("--http1.1"), text))
        asked.append(("curl", curl, "HTTP/2", "text", by_curl("--http2-prior-knowledge"), text))
    if "socket" in upstream.features:
        echo = (101, "hällo 😀")
        asked.append(("websockets", version("websockets"), "WebSocket", "socket", by_websockets, echo))
    if "events" in upstream.features:
        for protocol, versions in (("SSE", {}), ("SSE over HTTP/2", {"http1": False, "http2": True})):
            ask = by_httpx_sse(**versions)
            asked.append(("httpx-sse", version("httpx-sse"), protocol, "events", ask, (200, EVENTS)))
    return all([is_row(client, of, upstream, *rest) for client, of, *rest in asked])


def javascript(upstreams):
    """Whether all rows of the JavaScript clients hold."""
    described = json.dumps([vars(it) for it in upstreams])
    environment = {**os.environ, "GATEWAY": gate, "UPSTREAMS": described}
    return subprocess.run(["node", os.path.join(NPM, "transports.mjs")], env=environment).returncode == 0


try:
    started = []
    for name, version, url, protocol, features in servers():
        listens(url)
        started.append(SimpleNamespace(name=name, version=version, url=url, protocol=protocol, features=features))
    gate = gateway(started)
    payer = Payer(NODE, SEED)
    for upstream in started:
        upstream.token = buy(payer, f"{gate}/{upstream.name}/text")
    good = all([rows(it) for it in started])
    if NPM:
        good = javascript(started) and good
finally:
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(WITHIN_S)
sys.exit(0 if good else 1)
