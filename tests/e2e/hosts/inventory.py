#!/usr/bin/env python3
"""inventory.py DIRECTORY: write the inventory of the fleet, given on standard
input as lines `name address role service`.

DIRECTORY/inventory.json  list of {name, ansible_host, vars}, for stories and the AAP stand-in
DIRECTORY/inventory.yml   the same as an Ansible inventory, with key and known hosts
"""
import json
import sys

directory = sys.argv[1]
hosts = []
for line in sys.stdin:
    name, address, role, service = line.split()
    hosts.append({"name": name, "ansible_host": address, "vars": {
        "ansible_user": "root", "fettle_role": role, "fettle_services": [service], "patch_group": "5"}})
with open(f"{directory}/inventory.json", "w", encoding="utf-8") as file:
    print(json.dumps(hosts, indent=2), file=file)

connection = {
    "ansible_ssh_private_key_file": f"{directory}/id",
    "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={directory}/known_hosts -o StrictHostKeyChecking=yes",
}
named = {host["name"]: {"ansible_host": host["ansible_host"], **host["vars"]} for host in hosts}
with open(f"{directory}/inventory.yml", "w", encoding="utf-8") as file:
    print(json.dumps({"all": {"vars": connection, "hosts": named}}, indent=2), file=file)  # JSON is YAML
