"""Rendered resources: whether they fit the schemas of Kubernetes and one another, and the program runs with them.

check.py FAREGATE OPERATOR FILE...     writes the resources of the Prometheus operator to OPERATOR, one JSON object a line
"""

import json
import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import kubernetes_validate
import yaml

# How long the program may take to start or to become ready, in seconds.
PATIENCE = 120
# The oldest and the newest version of Kubernetes.
VERSIONS = ("1.30", "1.37")
OPERATOR = "monitoring.coreos.com/"
# The file that is looked at.
looked_at = ""


def expect(what, condition):
    if not condition:
        sys.exit(f"kubernetes: {looked_at}: {what}")


def read(path):
    return [it for it in yaml.safe_load_all(pathlib.Path(path).read_text()) if it]


def of_kind(all_, kind):
    return [it for it in all_ if it["kind"] == kind]


def named(all_, kind, name):
    found = [it for it in of_kind(all_, kind) if it["metadata"]["name"] == name]
    expect(f"there is no {kind} {name}", found)
    return found[0]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def fits(all_):
    """Returns the Deployment's container and its pod."""
    [deployment] = of_kind(all_, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    ports = {it["name"] for it in container["ports"]}
    expect("the Deployment does not select its pods", selects(deployment["spec"]["selector"]["matchLabels"], labels))
    services = of_kind(all_, "Service")
    for service in services:
        expect("a Service selects no pod", selects(service["spec"]["selector"], labels))
        expect("a Service leads to no port", all(it["targetPort"] in ports for it in service["spec"]["ports"]))
        public = {it["targetPort"] for it in service["spec"]["ports"]} == {"http"}
        expect("metrics and clients share a Service", public or service["spec"].get("clusterIP") == "None")
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        [one] = of_kind(all_, kind)
        selector = one["spec"].get("selector") or one["spec"].get("podSelector") or {}
        expect(f"the {kind} selects no pod", selector and selects(selector["matchLabels"], labels))
    for rule in named(all_, "NetworkPolicy", deployment["metadata"]["name"])["spec"]["ingress"]:
        expect("a rule names no port", all(it["port"] in ports for it in rule["ports"]))
        expect("everybody may read the metrics", rule.get("from") or rule["ports"] == [{"port": "http"}])
    for monitor in of_kind(all_, "ServiceMonitor"):
        expect("a ServiceMonitor selects no Service", any(
            selects(monitor["spec"]["selector"]["matchLabels"], it["metadata"]["labels"])
            and {end["port"] for end in monitor["spec"]["endpoints"]} <= {port["name"] for port in it["spec"]["ports"]}
            for it in services))
        label = monitor["spec"]["jobLabel"]
        expect("the job is not faregate", all(it["metadata"]["labels"].get(label) == "faregate" for it in services))
    many = deployment["spec"]["replicas"] > 1
    shared = "state" not in {it["name"] for it in pod["volumes"]}
    expect("several instances, and one volume", shared or not many)
    expect("two instances at once, and one volume", shared or deployment["spec"]["strategy"]["type"] == "Recreate")
    return container, pod


def lay_out(all_, container, pod, place):
    """Makes the files that the container would have; returns where each path of the container is."""
    kinds = {it["name"]: it for it in pod["volumes"]}
    where = {}
    for mount in container["volumeMounts"]:
        volume = kinds.pop(mount["name"], None)
        expect(f"{mount['name']} is mounted and is no volume", volume)
        target = place / mount["name"]
        target.mkdir()
        where[mount["mountPath"]] = target
        if "configMap" in volume:
            for name, text in named(all_, "ConfigMap", volume["configMap"]["name"])["data"].items():
                (target / name).write_text(text)
        elif "secret" in volume:
            # Helm's are made elsewhere.
            found = [it for it in of_kind(all_, "Secret") if it["metadata"]["name"] == volume["secret"]["secretName"]]
            names = found[0]["data"] if found else ("pool.seed", "challenge.key", "postgres.password")
            for name in names:
                (target / name).write_text(secrets.token_hex(32))
                # What the kubelet writes is root's. Of another user's file the group may not read.
                os.chmod(target / name, volume["secret"]["defaultMode"] if os.getuid() == 0 else 0o600)
        elif "persistentVolumeClaim" in volume:
            named(all_, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        else:
            expect(f"{mount['name']} is of no kind that is known", False)
    expect(f"volumes are not mounted: {list(kinds)}", not kinds)
    return where


def wait_for(log, pattern):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := re.search(pattern, log.read_text()):
            return found[1]
        time.sleep(0.05)
    sys.exit(f"kubernetes: {looked_at}: no «{pattern}» after {PATIENCE} s in:\n{log.read_text()}")


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def serves(faregate, file, container, place):
    """Starts the program beside a development ledger, asks its probes, and ends it as Kubernetes does."""
    (place / "devnet.log").touch()
    (place / "gateway.log").touch()
    with open(place / "devnet.log", "w") as log:
        ledger = subprocess.Popen([faregate, "devnet", "--rpc", "127.0.0.1:0"], stdout=log, stderr=log)
    gateway = None
    try:
        node = wait_for(place / "devnet.log", r"(http://127\.0\.0\.1:\d+)")
        text = file.read_text().replace("http://nano-node:7076", node).replace("http://api:80", node)
        text = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", text)
        # Deriving many addresses takes a debug build seconds.
        file.write_text(re.sub(r"\bsize: \d+", "size: 8", text))
        arguments = [str(file) if it == "/etc/faregate/faregate.yaml" else it for it in container["args"]]
        with open(place / "gateway.log", "w") as log:
            gateway = subprocess.Popen([faregate, *arguments], stdout=log, stderr=log)
        admin = wait_for(place / "gateway.log", r'"listening, admin","address":"([0-9.:]+)"')
        for probe in ("livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            expect(f"the {probe} asks another port", container[probe]["httpGet"]["port"] == "admin")
            end = time.monotonic() + PATIENCE
            while (answered := status(f"http://{admin}{path}")) != 200:
                expect(f"{path} is answered {answered} for {PATIENCE} s", time.monotonic() < end)
                time.sleep(0.05)
        ledger.terminate()
        ledger.wait(PATIENCE)
        # Without a node nothing is sold, and nothing is restarted for it.
        end = time.monotonic() + PATIENCE
        while status(f"http://{admin}/readyz") != 503:
            expect("/readyz is 200 without a node", time.monotonic() < end)
            time.sleep(0.05)
        for path in ("/healthz", "/livez", "/readyz?for=bought"):
            expect(f"{path} is not 200 without a node", status(f"http://{admin}{path}") == 200)
        gateway.send_signal(signal.SIGTERM)
        expect("SIGTERM does not end it", gateway.wait(PATIENCE) == 0)
    finally:
        for process in (gateway, ledger):
            if process and process.poll() is None:
                process.kill()
                process.wait()


def of_deployment(all_, faregate):
    container, pod = fits(all_)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        where = lay_out(all_, container, pod, place)
        file = where["/etc/faregate"] / "faregate.yaml"
        config = yaml.safe_load(file.read_text())
        ports = {it["name"]: str(it["containerPort"]) for it in container["ports"]}
        for name, address in (("http", config["listen"]["http"]), ("admin", config["admin"]["listen"])):
            expect(f"{name} is not where it listens", address == f"0.0.0.0:{ports[name]}")
        # The longer of two paths that begin alike is first.
        text = file.read_text()
        for path in sorted(where, key=len, reverse=True):
            text = text.replace(f"{path}/", f"{where[path]}/")
        file.write_text(text)
        checked = subprocess.run([faregate, "check", "--config", str(file)], capture_output=True, text=True)
        expect(f"faregate check: {checked.stdout}{checked.stderr}", checked.returncode == 0)
        store = config["store"]
        if "postgres" not in store:
            serves(faregate, file, container, place)
    print(f"ok: {looked_at}: {'checked' if 'postgres' in store else 'checked and started'}")


def of_schemas(all_):
    for one in all_:
        if one["apiVersion"].startswith(OPERATOR):
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(map(str, error.path))
                expect(f"{one['kind']} does not fit Kubernetes {version}: {where}: {error.message}", False)
            except kubernetes_validate.SchemaNotFoundError as error:
                expect(error.message, False)


if len(sys.argv) < 4:
    sys.exit(__doc__)
faregate, operator, *files = sys.argv[1:]
with open(operator, "w") as lines:
    for path in files:
        looked_at = pathlib.Path(path).name
        resources = read(path)
        of_schemas(resources)
        of_deployment(resources, faregate)
        for it in resources:
            if it["apiVersion"].startswith(OPERATOR):
                lines.write(json.dumps(it) + "\n")
print(f"ok: {len(files)} sets of resources fit Kubernetes {' and '.join(VERSIONS)}")
