"""What rights.py finds in a log, on a log that is made up here. Run: python3 -m unittest discover -s tests/e2e"""

import copy
import json
import pathlib
import tempfile
import unittest

import rights

MANAGER = "system:serviceaccount:fettle-system:fettle-manager"


def role(kind, name, *rules, namespace=None):
    fields = ("apiGroups", "resources", "verbs", "resourceNames")
    found = [{field: value for field, value in zip(fields, rule) if value} for rule in rules]
    for rule, given in zip(found, rules):
        rule["apiGroups"] = given[0]
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "rules": found}


def binding(kind, name, of, account="fettle-manager", namespace=None):
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "fettle-system"}
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "roleRef": {"kind": "ClusterRole", "name": of}, "subjects": [subject]}


INSTALLED = {
    "items": [
        role("ClusterRole", "fettle-manager", (["fettle.dev"], ["patchruns"], ["list", "watch"]), ([""], ["pods"], ["get"])),
        role("ClusterRole", "fettle-tenant", (["tekton.dev"], ["pipelineruns"], ["create"]), ([""], ["configmaps"], ["get"])),
        role("Role", "fettle-secret-aap", ([""], ["secrets"], ["get"], ["aap"]), namespace="team"),
        role("ClusterRole", "cluster-admin", (["*"], ["*"], ["*"])),
        binding("ClusterRoleBinding", "fettle-manager", "fettle-manager"),
        binding("RoleBinding", "fettle-tenant", "fettle-tenant", namespace="team"),
        binding("RoleBinding", "fettle-secret-aap", "fettle-secret-aap", namespace="team"),
    ]
}


def event(verb, resource, group="", by="fettle-manager", user=MANAGER, code=200, decision="allow", message="", sub=None):
    reason = f'RBAC: allowed by ClusterRoleBinding "{by}" of ClusterRole "{by}" to ServiceAccount "fettle-manager/fettle-system"' if decision == "allow" else ""
    about = {"resource": resource, "apiGroup": group, "namespace": "team", "name": "x"}
    if sub:
        about["subresource"] = sub
    return {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "stage": "ResponseComplete", "verb": verb, "user": {"username": user},
        "objectRef": about, "responseStatus": {"code": code, "message": message},
        "annotations": {"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason},
    }


GOOD = [
    event("list", "patchruns", "fettle.dev"),
    event("watch", "patchruns", "fettle.dev"),
    event("get", "pods"),
    event("create", "pipelineruns", "tekton.dev", by="fettle-tenant"),
    event("get", "configmaps", by="fettle-tenant"),
    event("get", "secrets", by="fettle-secret-aap"),
    event("watch", "secrets", code=403, decision="forbid"),
    event("delete", "nodes", user="admin", by="cluster-admin"),
]


class Rights(unittest.TestCase):
    def setUp(self):
        self.unused, rights.UNUSED = rights.UNUSED, {}

    def tearDown(self):
        rights.UNUSED = self.unused

    def found(self, events, installed=None, every=True):
        with tempfile.TemporaryDirectory() as directory:
            logs = [pathlib.Path(directory, name) for name in ("audit-1.log", "audit.log")]
            half = len(events) // 2
            logs[0].write_text("".join(json.dumps(e) + "\n" for e in events[:half]), "utf-8")
            logs[1].write_text("".join(json.dumps(e) + "\n" for e in events[half:]) + '{"user": ":fettle-system:', "utf-8")
            return rights.check(installed or INSTALLED, logs, every)

    def test_all_is_well(self):
        wrong, counts = self.found(GOOD)
        self.assertEqual(wrong, [])
        self.assertIn("5 rights, 5 used; 7 requests, 1 refused", counts)

    def test_a_right_that_nobody_uses_is_found(self):
        without = [e for e in GOOD if e["objectRef"]["resource"] != "pods"]
        self.assertEqual(self.found(without)[0], ["fettle-manager: no story uses get pods"])
        self.assertEqual(self.found(without, every=False)[0], [])
        rights.UNUSED = {("fettle-manager", "get", "pods"): "a test"}
        self.assertEqual(self.found(without)[0], [])
        self.assertIn("excused although used: fettle-manager get pods", self.found(GOOD)[1])
        rights.UNUSED[("fettle-manager", "get", "nodes")] = "a test"
        self.assertIn("excused and not even granted", self.found(GOOD)[0][0])

    def test_a_refusal_that_nobody_reviewed_is_found(self):
        wrong, _ = self.found([*GOOD, event("delete", "pods", code=403, decision="forbid")])
        self.assertEqual(wrong, ["fettle-manager: delete pods was refused 1 times"])
        # a subresource is another thing than the resource
        wrong, _ = self.found([*GOOD, event("get", "secrets", code=403, decision="forbid", sub="other")])
        self.assertEqual(len(wrong), 1)
        ends = event("create", "pipelineruns", "tekton.dev", by="fettle-tenant", code=403, message="unable to create: it is being terminated")
        self.assertEqual(self.found([*GOOD, ends])[0], [])
        ends["responseStatus"]["message"] = "denied by a webhook"
        self.assertEqual(len(self.found([*GOOD, ends])[0]), 1)

    def test_what_another_role_allows_is_found(self):
        wrong, _ = self.found([*GOOD, event("get", "nodes", by="cluster-admin")])
        self.assertEqual(wrong, ["fettle-manager: get nodes was allowed by the role cluster-admin, which is none of Fettle's"])
        self.assertEqual(self.found([*GOOD, event("get", "/apis", by="system:discovery")])[0], [])

    def test_what_is_too_wide_is_found(self):
        for wide in (
            role("ClusterRole", "fettle-server", ([""], ["pods"], ["*"])),
            role("ClusterRole", "fettle-server", ([""], ["secrets"], ["get"], ["one"])),
            role("Role", "fettle-secret-all", ([""], ["secrets"], ["get"]), namespace="team"),
            role("Role", "fettle-secret-write", ([""], ["secrets"], ["get", "update"], ["one"]), namespace="team"),
            role("ClusterRole", "fettle-server", (["rbac.authorization.k8s.io"], ["clusterroles"], ["bind"])),
            role("ClusterRole", "fettle-server", ([""], ["pods/exec"], ["create"])),
            role("ClusterRole", "fettle-viewer", (["fettle.dev"], ["*"], ["get"])),
            binding("ClusterRoleBinding", "more", "cluster-admin"),
            binding("ClusterRoleBinding", "everywhere", "fettle-tenant"),
            binding("RoleBinding", "view", "view", account="fettle-server", namespace="team"),
        ):
            installed = copy.deepcopy(INSTALLED)
            installed["items"].append(wide)
            self.assertTrue(self.found(GOOD, installed, every=False)[0], wide)

    def test_a_log_of_others_proves_nothing(self):
        self.assertIn("no request of Fettle's accounts", self.found([GOOD[-1], GOOD[-1]], every=False)[0][0])


if __name__ == "__main__":
    unittest.main()
