#!/usr/bin/python3
"""manifests.py FILE...: every object in these YAML files is sound; prints what is not, and then ends with exit code 1.

Sound: apiVersion, kind and name are there, no key is given twice, no two objects of a file are the same; every image has a name
and a tag that is not `latest` (or a digest); every container has requests of CPU and memory, and is not allowed to be root; no role
speaks of all verbs or resources, and no cluster-wide role of secrets.
"""

import sys

import yaml


class Unique(yaml.SafeLoader):
    """Refuses a key that is given twice, which YAML libraries quietly accept."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def faults(item):
    """What is wrong with one object, a sentence each."""
    for field in ("apiVersion", "kind"):
        if not isinstance(item.get(field), str):
            yield f"no {field}"
    if not item.get("metadata", {}).get("name"):
        yield "no name"
    if item.get("kind") in ("ClusterRole", "Role"):
        yield from role_faults(item["kind"], item.get("rules") or [])
    install = item.get("spec", {}).get("install", {}).get("spec", {})
    for permission in install.get("clusterPermissions", []):
        yield from role_faults("ClusterRole", permission["rules"])
    for permission in install.get("permissions", []):
        yield from role_faults("Role", permission["rules"])
    for pod in pods(item):
        for container in pod.get("containers", []) + pod.get("initContainers", []):
            yield from container_faults(pod, container)
    for related in item.get("spec", {}).get("relatedImages", []):
        yield from image_faults(related.get("image", ""))
    checks = (item.get("data") or {}).get("CHECKS_IMAGE")
    if checks is not None:
        yield from image_faults(checks)


def role_faults(kind, rules):
    for rule in rules:
        words = [word for field in ("verbs", "resources", "apiGroups") for word in rule.get(field, [])]
        if "*" in words:
            yield f"a rule for everything: {rule}"
        if kind == "ClusterRole" and "secrets" in rule.get("resources", []):
            yield f"a cluster-wide rule about secrets: {rule}"


def pods(item):
    """Every pod specification in an object."""
    if item.get("kind") == "Deployment":
        yield item["spec"]["template"]["spec"]
    for deployment in item.get("spec", {}).get("install", {}).get("spec", {}).get("deployments", []):
        yield deployment["spec"]["template"]["spec"]


def container_faults(pod, container):
    name = container.get("name")
    yield from image_faults(container.get("image", ""))
    requests = container.get("resources", {}).get("requests", {})
    for each in ("cpu", "memory"):
        if each not in requests:
            yield f"container {name} requests no {each}"
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    wanted = {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
    for key, value in wanted.items():
        if security.get(key) is not value:
            yield f"container {name}: securityContext.{key} is not {value}"
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"container {name} keeps capabilities"


def image_faults(image):
    name, _, tag = image.rpartition("/")[2].partition(":")
    if "@sha256:" in image:
        return
    if not name or not tag or tag == "latest":
        yield f"image {image!r} must have a name and a tag that is not latest"


def main(files):
    """Check the files; returns the exit code."""
    found = 0
    for file in files:
        seen = set()
        with open(file, encoding="utf-8") as text:
            objects = [item for item in yaml.load_all(text, Unique) if item is not None]  # noqa: S506, it is a SafeLoader
        if not objects:
            found += 1
            print(f"{file}: no object")
        for item in objects:
            metadata = item.get("metadata", {})
            identity = (item.get("apiVersion"), item.get("kind"), metadata.get("namespace"), metadata.get("name"))
            wrong = list(faults(item))
            if identity in seen:
                wrong.append("is there twice")
            seen.add(identity)
            found += len(wrong)
            for fault in wrong:
                print(f"{file}: {item.get('kind')} {metadata.get('name')}: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
