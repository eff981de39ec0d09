"""Judges what clients.py and clients.mjs saw: each call must have ended as calls.json says, and have cost, by the
gateway's access log, exactly what it used at the rates of faregate.yaml. Prints the table; the exit status is 1 if
anything is otherwise.

usage: costs.py FOLDER      with access.log, calls (a line for each call), and purses/NAME.json
"""

import json
import pathlib
import re
import sys
import time

FOLDER, HERE = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
CALLS = {call["how"]: call for call in json.loads((HERE / "calls.json").read_text())}
ROUTES = {"chat": "openai", "responses": "openai", "messages": "anthropic"}
# What a purse is bought with: a first call.
FIRST = {"how": "whole, pays", "input": 41, "cached": 1, "output": 3, "outcome": "200", "costs": "all"}
# How many bytes count as a token where nothing was reported (config/README.md).
BYTES_PER_TOKEN = 3
LOGGED_WITHIN_S = 15


def meters():
    """The deposit and the rates of each route, in raw for 1,000 tokens."""
    text = (HERE / "faregate.yaml").read_text()
    for name, block in re.findall(r"- name: (\w+)\n(.*?)(?=\n  - name:|\Z)", text, re.S):
        rates = dict(re.findall(r"(input|cached|cache_write|output): (\d+) raw", block))
        yield name, (int(re.search(r"deposit: (\d+) raw", block)[1]), {key: int(it) for key, it in rates.items()})


METERS = dict(meters())


def price(api, input=0, cached=0, written=0, output=0):
    """Rounded up once, to the raw."""
    rates = METERS[ROUTES[api]][1]
    sum = input * rates["input"] + cached * rates["cached"] + output * rates["output"]
    return -(-(sum + written * rates.get("cache_write", 0)) // 1000)


def expected(api, call, row):
    costs = call["costs"] if isinstance(call["costs"], str) else call["costs"][api]
    counts = {name: call.get(name, 0) for name in ("input", "cached")}
    if ROUTES[api] == "anthropic":
        counts["written"] = call.get("written", 0)
    if costs == "nothing":
        return 0
    if costs == "estimate":
        request, text = (-(-row["passed"][name] // BYTES_PER_TOKEN) for name in ("request_bytes", "text_bytes"))
        return price(api, input=request, output=text)
    return price(api, **counts, output={"all": call.get("output"), "half": call.get("output", 0) // 2, "start": 1}[costs])


def used(api, call):
    """What a client is told that it used: once all of the answer has come, or as it comes."""
    if call["costs"] not in ("all", "half"):
        return None
    input = call["input"] + (call.get("cached", 0) if ROUTES[api] == "openai" else 0)
    return [input, call["output"] // (2 if call["costs"] == "half" else 1)]


def logged(ids):
    """The lines of the access log, once each of these requests has one."""
    until = time.monotonic() + LOGGED_WITHIN_S
    while True:
        lines = [json.loads(line) for line in (FOLDER / "access.log").read_text().splitlines(keepends=True) if line.endswith("\n")]
        missing = set(ids) - {line["request_id"] for line in lines}
        if not missing:
            return {line["request_id"]: line for line in lines}
        if time.monotonic() > until:
            sys.exit(f"costs: no line in the access log for {len(missing)} requests: {missing}")
        time.sleep(0.1)


rows = [json.loads(line) for line in (FOLDER / "calls").read_text().splitlines()]
log = logged([it for row in rows for it in row["ids"]])
failed = False


def show(*fields):
    print("{:<30} {:<8} {:<10} {:<27} {:<22} {:>8}  {}".format(*fields))


def judge(row, call, cost, faults):
    global failed
    wanted = expected(row["api"], call, row)
    if cost != wanted:
        faults.append(f"it should cost {wanted}")
    if row["outcome"] != call["outcome"]:
        faults.append(f"it should end with: {call['outcome']}")
    failed |= bool(faults)
    show(row["client"], row["version"], row["api"], call["how"], row["outcome"], cost, "; ".join(faults) or "ok")


show("client", "version", "API", "how", "what its caller got", "cost raw", "result")
for path in sorted((FOLDER / "purses").glob("*.json")):
    paid = json.loads(path.read_text())
    calls = [row for row in rows if row["purse"] == path.stem]
    api = path.stem.split("-")[1]
    deposit = METERS[ROUTES[api]][0]
    ids = {it for row in calls for it in row["ids"]}
    lines = [line for line in log.values() if line.get("block", "").lower() == paid["payment"]["block"].lower()]
    first = [line for line in lines if line["request_id"] not in ids]
    cost = sum(int(line.get("cost_raw", 0)) for line in first)
    faults = [] if len(first) == 1 else [f"{len(first)} requests were logged"]
    if int(paid["payment"]["amount_raw"]) != deposit:
        faults.append(f"it paid {paid['payment']['amount_raw']}, not {deposit}")
    row = {"client": "faregate pay", "version": "", "api": api, "outcome": str(paid["status"])}
    judge(row, FIRST, cost, faults)
    spent = cost
    if [row["how"] for row in calls] != [it["how"] for it in CALLS.values() if api in it.get("apis", ROUTES)]:
        failed = True
        print(f"{path.stem}: not every call was made")
    for row in calls:
        call = CALLS[row["how"]]
        cost = sum(int(log[it].get("cost_raw", 0)) for it in row["ids"])
        spent += cost
        faults = []
        if row["used"] != used(api, call):
            faults.append(f"its caller is told {row['used']}")
        if len(row["ids"]) != 1 + call.get("retries", 0):
            faults.append(f"{len(row['ids'])} requests")
        if call["outcome"] == "402" and not re.search(r"\d+ raw left", "".join(row["said"])):
            faults.append(f"its caller is told {row['said']}")
        judge(row, call, cost, faults)
    # A line says what is left after its own charge.
    left = [line["balance_raw"] for line in log.values() if line["request_id"] in ids and "cost_raw" in line][-1:]
    if left != [str(deposit - spent)]:
        failed = True
        print(f"{path.stem}: {deposit - spent} raw should be left in the purse, not {left}")
sys.exit(failed)
