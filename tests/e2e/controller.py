#!/usr/bin/env python3
"""controller.py HOSTS_STATE PROJECT COLLECTION: the configuration of the AAP stand-in for a bed, as YAML (JSON is YAML).

Templates `fettle-stage|apply|reboot` run the collection's playbooks; `mark-…` run a short playbook that leaves a countable mark on
each host; `unprompted` does not prompt for the limit; `sliced` is cut in two.
"""

import json
import pathlib
import sys

state, project, collection = (pathlib.Path(argument) for argument in sys.argv[1:])
hosts = json.loads((state / "inventory.json").read_text(encoding="utf-8"))
if isinstance(hosts, dict):
    hosts = hosts["hosts"]


def host(entry):
    """One host of the inventory: the name, and everything else as variables."""
    variables = dict(entry.get("vars", {}))
    if "ansible_host" in entry:
        variables["ansible_host"] = entry["ansible_host"]
    return {"name": entry["name"], "variables": variables}


def template(name, playbook, **more):
    """A template that prompts for limit and variables, unless `more` says otherwise."""
    fixed = {"inventory": "fleet", "project": "fettle", "credentials": ["hosts"], "ask": ["limit", "variables"]}
    return {"name": name, "playbook": playbook, **fixed, **more}


def user(name, role, **more):
    """A user with a token of its own."""
    return {"username": name, "password": f"{name}-password", "role": role, "tokens": [{"token": f"{name}-token"}], **more}


config = {
    "flavour": "awx",
    "timing": {"schedule_tick": 5.0},
    "organizations": [{"name": "Ops"}],
    "users": [
        user("admin", "admin"),
        user("execute", "execute", inventories=["fleet"]),
        user("read", "read", inventories=["fleet"]),
    ],
    "inventories": [{"name": "fleet", "hosts": [host(entry) for entry in hosts]}],
    "projects": [{"name": "fettle", "path": str(project)}],
    "credentials": [
        {
            "name": "hosts",
            "username": "root",
            "ssh_key_file": str(state / "id"),
            "known_hosts_file": str(state / "known_hosts"),
        }
    ],
    "collections": [{"name": "fettle.patching", "path": str(collection)}],
    "job_templates": [
        *(template(f"fettle-{phase}", f"{phase}.yml") for phase in ("stage", "apply", "reboot")),
        *(template(f"mark-{phase}", "mark.yml") for phase in ("stage", "apply", "reboot")),
        template("unprompted", "mark.yml", ask=["variables"]),
        template("sliced", "mark.yml", job_slice_count=2),
    ],
}
json.dump(config, sys.stdout, indent=1)
