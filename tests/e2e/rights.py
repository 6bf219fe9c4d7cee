#!/usr/bin/env python3
"""rights.py [--all] INSTALLED AUDIT_LOG...: Fettle's rights, proved both ways from what was asked of a real API server.

INSTALLED is `kubectl get clusterroles,roles,clusterrolebindings,rolebindings -A -o json`, the logs are the API server's. Says what is wrong, one line
each, and ends with a line of counts; exit code 1 when anything is wrong:

- a request of Fettle's accounts was refused, and nobody reviewed that such a thing may be refused (REFUSALS);
- a request was allowed by a role that is not Fettle's, or an account of Fettle's is bound to one; a role is wider than it may be;
- with --all (every story was told): a right that no request used, and nobody wrote down why it is there (UNUSED).
"""

import argparse
import collections
import json
import re
import sys

NAMESPACE = "fettle-system"
ACCOUNTS = ("fettle-manager", "fettle-server")
TENANT = "fettle-tenant"  # role of the manager where a tenant binds it
SECRET = re.compile(r"fettle-secret-.+")  # a tenant's roles for one named secret each
# what the API server grants to everybody who has a name
EVERYBODY = ("system:basic-user", "system:discovery", "system:public-info-viewer")

# Rights no story on the cluster uses: (role, verb, resource) and why they are there.
UNUSED = {
    (TENANT, "delete", "tekton.dev/pipelineruns"): "a day after a check is archived; told in process, tests/world",
    (TENANT, "patch", "tekton.dev/pipelineruns"): "stops a check that is cancelled or too late; told in process, tests/world/stories.rs",
    (TENANT, "get", "tekton.dev/pipelines"): "a pipeline of the tenant's own; told in process, tests/world/stories.rs",
    ("fettle-manager", "get", "fettle.dev/patchruns"): "the quorum read before a direct launch; told in process, tests/world/plans.rs",
    ("fettle-manager", "get", "fettle.dev/patchruns/status"): "after a direct launch; told in process, tests/world/plans.rs",
    ("fettle-manager", "get", "tekton.dev/pipelineruns"): "one that the cache does not know yet; told in process, tests/world/losses.rs",
    ("fettle-manager", "patch", "events.k8s.io/events"): "an event that happens again is counted; none does in a short story",
    ("fettle-manager", "create", "authorization.k8s.io/selfsubjectaccessreviews"): "everybody may, in a cluster whose defaults nobody took away",
}

# Requests that may be refused: (account, verb, resource) and why that is well.
REFUSALS = {
    ("fettle-manager", "watch", "secrets"): "a tenant may allow it; without it a changed Secret is seen within a minute (docs/operations.md)",
    ("fettle-manager", "get", "secrets"): "until the tenant makes the Role that the condition RightsMissing prints",
    ("fettle-manager", "get", "configmaps"): "as above, for the binding of fettle-tenant; and in a namespace that is being deleted, whose bindings go first",
    ("fettle-manager", "watch", "configmaps"): "in a namespace that is being deleted, or that never bound fettle-tenant",
    ("fettle-manager", "get", "pods/log"): "in a namespace that is being deleted",
}

Right = collections.namedtuple("Right", "role verb resource")


def named(group, resource):
    return f"{group}/{resource}" if group else resource


def account_of(subject, namespace):
    """The name of Fettle's account that a subject of a binding is; None for others."""
    if subject.get("kind") == "Group":
        return subject["name"] if subject["name"] in ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}") else None
    fettle = subject.get("kind") == "ServiceAccount" and subject.get("namespace", namespace) == NAMESPACE
    return subject["name"] if fettle and subject["name"] in ACCOUNTS else None


def is_ours(role):
    return role in (*ACCOUNTS, TENANT) or SECRET.fullmatch(role)


def granted(installed):
    """Rights by the roles of Fettle, and what is wrong with roles and bindings."""
    rights, wrong = set(), []
    for item in installed["items"]:
        name, namespace = item["metadata"]["name"], item["metadata"].get("namespace")
        where = f"{item['kind']} {namespace + '/' if namespace else ''}{name}"
        if item["kind"] in ("ClusterRole", "Role") and name.startswith("fettle-"):
            for rule in item.get("rules") or []:
                words = [word for field in ("verbs", "resources", "apiGroups", "nonResourceURLs") for word in rule.get(field, [])]
                if "*" in words:
                    wrong.append(f"{where} holds a wildcard: {rule}")
                forbidden = {"escalate", "bind", "impersonate"} & set(words)
                if forbidden or "pods/exec" in words or rule.get("nonResourceURLs"):
                    wrong.append(f"{where} is too wide: {rule}")
                if "secrets" in words and not (SECRET.fullmatch(name) and rule.get("resourceNames") and set(rule["verbs"]) <= {"get", "watch"}):
                    wrong.append(f"{where} speaks of secrets other than one by name: {rule}")
                if is_ours(name) and not SECRET.fullmatch(name):
                    rights |= {
                        Right(name, verb, named(group, resource))
                        for group in rule.get("apiGroups", [])
                        for resource in rule.get("resources", [])
                        for verb in rule["verbs"]
                    }
        if item["kind"] in ("ClusterRoleBinding", "RoleBinding"):
            accounts = [account for account in (account_of(s, namespace) for s in item.get("subjects") or []) if account]
            role = item["roleRef"]["name"]
            if accounts and not is_ours(role) and role not in (*EVERYBODY, "system:service-account-issuer-discovery"):
                wrong.append(f"{where} gives {', '.join(accounts)} the role {role}")
            if accounts and item["kind"] == "ClusterRoleBinding" and (role == TENANT or SECRET.fullmatch(role)):
                wrong.append(f"{where} gives {role} in every namespace")
    return rights, wrong


# as the authorizer explains itself: RBAC: allowed by RoleBinding "b/ns" of ClusterRole "r" to ServiceAccount "a/ns"
ALLOWED = re.compile(r'RBAC: allowed by \w+ "[^"]*" of (?:Cluster)?Role "([^"]+)"')


def requests(logs):
    """What Fettle's accounts asked for: account, verb, resource, code, decision, role, message."""
    for path in logs:
        with open(path, encoding="utf-8") as log:
            for line in log:
                if f":{NAMESPACE}:" not in line:
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the last line of a server that was killed
                user = event.get("user", {}).get("username", "")
                account = user.removeprefix(f"system:serviceaccount:{NAMESPACE}:")
                if account == user or account not in ACCOUNTS or event.get("stage") == "RequestReceived":
                    continue
                about = event.get("objectRef")
                if not about:
                    resource = event.get("requestURI", "").split("?")[0]
                else:
                    resource = named(about.get("apiGroup", ""), about.get("resource", ""))
                    if about.get("subresource"):
                        resource += f"/{about['subresource']}"
                notes = event.get("annotations") or {}
                role = ALLOWED.match(notes.get("authorization.k8s.io/reason", ""))
                status = event.get("responseStatus") or {}
                decision = notes.get("authorization.k8s.io/decision", "")
                yield account, event["verb"], resource, status.get("code"), decision, role and role[1], status.get("message", "")


def check(installed, logs, every):
    """What is wrong, and a line of counts."""
    rights, wrong = granted(installed)
    used, count, refused = set(), 0, collections.Counter()
    for account, verb, resource, code, decision, role, message in requests(logs):
        count += 1
        if decision == "forbid":
            refused[(account, verb, resource)] += 1
        elif code == 403 and "being terminated" not in message:
            wrong.append(f"{account}: {verb} {resource} was refused by admission: {message}")
        if decision == "allow" and role and not is_ours(role) and role not in EVERYBODY:
            wrong.append(f"{account}: {verb} {resource} was allowed by the role {role}, which is none of Fettle's")
        if decision == "allow":
            # by whichever binding: a right counts as used where the account has it
            used |= {right for right in rights if right.verb == verb and right.resource == resource and right.role in (account, TENANT)}
    if not count:
        wrong.append("no request of Fettle's accounts is in the logs")
    for (account, verb, resource), times in sorted(refused.items()):
        if (account, verb, resource) not in REFUSALS:
            wrong.append(f"{account}: {verb} {resource} was refused {times} times")
    idle = sorted(rights - used)
    if every:
        wrong += [f"{right.role}: no story uses {right.verb} {right.resource}" for right in idle if right not in UNUSED]
    for right in UNUSED:
        if rights and right not in rights:
            wrong.append(f"{' '.join(right)} is excused and not even granted: take it off the list")
    told = f"{len(rights)} rights, {len(rights) - len(idle)} used; {count} requests, {sum(refused.values())} refused"
    needless = sorted(" ".join(right) for right in UNUSED if right in used)
    note = f"excused although used: {', '.join(needless)}\n" if needless else ""
    return sorted(set(wrong)), f"{note}rights: {told}; {len(set(wrong))} things are wrong"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every story was told")
    parser.add_argument("installed")
    parser.add_argument("logs", nargs="+")
    options = parser.parse_args()
    with open(options.installed, encoding="utf-8") as file:
        installed = json.load(file)
    wrong, counts = check(installed, options.logs, options.all)
    for line in wrong:
        print(line)
    print(counts)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
