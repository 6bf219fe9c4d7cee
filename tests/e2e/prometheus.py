#!/usr/bin/env python3
"""prometheus.py DASHBOARD: asks a Prometheus on 127.0.0.1:9090 whether it reads manager and server, evaluates every alert, and has an
answer to every question of the dashboard. One line for each thing that is wrong; ends with "N passed, N failed"."""

import json
import sys
import time
import urllib.parse
import urllib.request

# Questions whose answer may be empty: nothing of the kind happened in the stories that were told.
MAY_BE_EMPTY = ("fettle_failures_total", "fettle_server_history", "fettle_unfinished_runs")


def ask(path, **query):
    """The data of an answer of Prometheus."""
    url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        return {"error": error.read().decode()}


def targets():
    """What is wrong with the targets."""
    found = ask("targets")["activeTargets"]
    jobs = {target["labels"]["job"] for target in found if target["health"] == "up"}
    return [f"no target of the job {job} is up: {found}" for job in ("manager", "server") if job not in jobs]


def rules():
    """What is wrong with the alerts."""
    found = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    wrong = [f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in found if rule["health"] != "ok"]
    return wrong + ([] if len(found) >= 9 else [f"only {len(found)} alerts"])


def panels(dashboard):
    """What is wrong with the panels, one list for each."""
    for panel in dashboard["panels"]:
        wrong = []
        for target in panel["targets"]:
            expression = target["expr"].replace("$__range", "1h").replace("$__rate_interval", "5m")
            answer = ask("query", query=expression, time=time.time())
            if "error" in answer:
                wrong.append(f"{panel['title']}: {answer['error']}")
            elif not answer["result"] and not any(word in expression for word in MAY_BE_EMPTY):
                wrong.append(f"{panel['title']}: no answer to {expression}")
        yield wrong


def main():
    """Entry point."""
    with open(sys.argv[1], encoding="utf-8") as file:
        dashboard = json.load(file)
    results = [targets(), rules(), *panels(dashboard)]
    failed = sum(1 for wrong in results if wrong)
    for wrong in results:
        print("\n".join(f"FAILED  {line}" for line in wrong), end="\n" if wrong else "")
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
