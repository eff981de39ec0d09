"""The dashboard and the alerts: files against each other, and their queries against a Prometheus.

check.py files                   the dashboard is whole; alerts are tested and explained; metrics that are named exist
check.py wait PROMETHEUS QUERY   until the query has a result
check.py ask PROMETHEUS          every query of the dashboard, and what Prometheus makes of the alerts
"""

import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

TREE = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = TREE / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/faregate.json").read_text())
ALERTS = (DEPLOY / "prometheus/alerts.yaml").read_text()
README = (DEPLOY / "README.md").read_text()

# How long a panel may take to have data, in seconds.
PATIENCE = 90
# What Grafana puts in place of its variables. The run is a minute or two old.
VARIABLES = {
    "$job": "faregate",
    "$route": ".*",
    "$__rate_interval": "2m",
    "$__range": "5m",
    "$__interval": "15s",
}


def fail(faults):
    for fault in faults:
        print(f"monitoring: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)


def panels():
    return [it for it in DASHBOARD["panels"] if it["type"] != "row"]


def may_be_empty(panel):
    """Such a panel counts faults, or what this gateway does not do; it says "none" in place of data."""
    return panel["fieldConfig"]["defaults"].get("noValue") == "none"


def queries():
    """Each query with the name of what shows it, and whether it must have a result."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"], not may_be_empty(panel), target.get("instant", False)
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"], False, False
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            text = variable["query"]["query"]
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", text)
            yield variable["name"], f"count by ({found[2]}) ({found[1]})", True, True


def overlap(one, other):
    a, b = one["gridPos"], other["gridPos"]
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )


def declared():
    """The metrics of the table in deploy/README.md, with their labels; a test compares it with the program."""
    table = README.split("| metric | labels |", 1)[1].split("\n\n", 1)[0]
    found = {}
    for row in table.splitlines()[2:]:
        cells = row.split("|")
        for name in re.findall(r"`(\w+)`", cells[1]):
            found[name] = set(re.findall(r"`(\w+)`", cells[2]))
    return found


def of_files():
    faults = []
    every = DASHBOARD["panels"]
    if len({it["id"] for it in every}) != len(every):
        faults.append("two panels have one id")
    if len({it["title"] for it in every}) != len(every):
        faults.append("two panels have one title")
    for at, one in enumerate(every):
        if one["gridPos"]["x"] + one["gridPos"]["w"] > 24:
            faults.append(f"«{one['title']}» is wider than the page")
        faults += [f"«{one['title']}» lies on «{it['title']}»" for it in every[:at] if overlap(one, it)]

    metrics = declared()
    known = {"__name__", "job", "instance", "le", "alertname", "severity", "alertstate"}
    texts = [(name, text) for name, text, _, _ in queries()] + [("alerts.yaml", ALERTS)]
    for where, text in texts:
        for name in re.findall(r"\bfaregate_(\w+)", text):
            if name not in metrics and re.sub("_(bucket|sum|count)$", "", name) not in metrics:
                faults.append(f"{where}: there is no metric faregate_{name}")
        for metric, matchers in re.findall(r"\bfaregate_(\w+)\{([^}]*)\}", text):
            labels = known | metrics.get(re.sub("_(bucket|sum|count)$", "", metric), metrics.get(metric, set()))
            for label in re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers):
                if label not in labels:
                    faults.append(f"{where}: faregate_{metric} has no label {label}")

    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    tests = "".join(it.read_text() for it in (DEPLOY / "prometheus").glob("*.test.yaml"))
    tested = re.findall(r"alertname: (\w+)(?:, |\s+)exp_alerts:( \[\])?", tests)
    for alert in alerts:
        if (alert, "") not in tested:
            faults.append(f"{alert} is not seen to fire")
        if (alert, " []") not in tested:
            faults.append(f"{alert} is not seen not to fire")
        if f"\n| `{alert}` |" not in README:
            faults.append(f"{alert} has no row in deploy/README.md")
    for alert in re.findall(r"`(Faregate[A-Z]\w+)`", README):
        if alert not in alerts:
            faults.append(f"deploy/README.md explains {alert}, which does not exist")
    fail(faults)
    print(f"ok: {len(panels())} panels and {len(alerts)} alerts name what exists")


def get(server, path, **arguments):
    try:
        with urllib.request.urlopen(f"{server}{path}?{urllib.parse.urlencode(arguments)}", timeout=20) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except urllib.error.URLError:
        # It has not begun to answer.
        return None


def until(what, done):
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            fail([f"after {PATIENCE} s: {what()}"])
        time.sleep(0.2)


def asked(server, text, instant):
    for name, value in VARIABLES.items():
        text = re.sub(re.escape(name) + r"\b", value, text)
    if "$" in text:
        fail([f"a variable is not known here: {text}"])
    if instant:
        return get(server, "/api/v1/query", query=text)
    now = time.time()
    return get(server, "/api/v1/query_range", query=text, start=now - 120, end=now, step=5)


def numbers(series):
    """The values of a result that can be drawn."""
    pairs = series.get("values") or [series["value"]]
    return [value for _, value in pairs if value not in ("NaN", "+Inf", "-Inf")]


def of_prometheus(server):
    left = list(queries())
    total = len(left)

    def ask():
        still = []
        for name, text, needed, instant in left:
            answer = asked(server, text, instant)
            if isinstance(answer, str):
                fail([f"«{name}»: {text}: {answer}"])
            if needed and not (answer and any(numbers(it) for it in answer["result"])):
                still.append((name, text, needed, instant))
        left[:] = still
        return not left

    until(lambda: "no data: " + "; ".join(f"«{name}»: {text}" for name, text, _, _ in left), ask)

    rules = []

    def evaluated():
        groups = get(server, "/api/v1/rules")["groups"]
        rules[:] = [rule for group in groups for rule in group["rules"]]
        return rules and all(it["health"] != "unknown" for it in rules)

    until(lambda: "not all alerts were evaluated", evaluated)
    fail([f"{it['name']}: {it.get('lastError')}" for it in rules if it["health"] != "ok"])
    fail([f"{it['name']} fires at a gateway that is well" for it in rules if it["state"] == "firing"])
    empty = [it["title"] for it in panels() if may_be_empty(it)]
    print(f"ok: {total} queries, and data for each panel but those that may have none: {', '.join(empty)}")
    print(f"ok: {len(rules)} alerts are evaluated, and none fires")


match sys.argv[1:]:
    case ["files"]:
        of_files()
    case ["wait", server, query]:
        def there():
            answer = get(server, "/api/v1/query", query=query)
            return isinstance(answer, dict) and answer["result"]
        until(lambda: f"no result of {query}", there)
    case ["ask", server]:
        of_prometheus(server)
    case _:
        sys.exit(__doc__)
