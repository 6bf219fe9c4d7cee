"""Write what happened to each host of a playbook run, one JSON line a host."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
name: report
type: aggregate
short_description: One JSON line for each host
version_added: 1.0.0
description:
  - At the end of a run, writes the counts of every host and the report that the playbook handed over with C(set_stats).
  - Does nothing unless O(file) is set.
  - "A line: C({host, ok, changed, failures, unreachable, skipped, rescued, ignored, report}); C(report) is null when the host gave none."
requirements:
  - enabled with C(callbacks_enabled = fettle.patching.report)
options:
  file:
    description: Where to write. The file appears complete or not at all.
    type: path
    env:
      - name: FETTLE_REPORT_FILE
author:
  - The Fettle authors
"""

import json
import os

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Aggregate callback; see DOCUMENTATION for the contract."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fettle.patching.report"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats):
        """Write the file. `stats.custom["_run"]` holds what set_stats collected over all hosts."""
        path = self.get_option("file")
        if not path:
            return
        reports = stats.custom.get("_run", {}).get("fettle_report", {})
        lines = []
        for host in sorted(stats.processed):
            # summarize() knows no "skipped" of hosts that skipped nothing: it fills every count with 0.
            line = {"host": host, "report": reports.get(host)}
            line.update(stats.summarize(host))
            lines.append(json.dumps(line, sort_keys=True))
        temporary = path + ".new"
        with open(temporary, "w") as handle:
            handle.writelines(line + "\n" for line in lines)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
