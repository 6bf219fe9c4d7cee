"""The controller's half of host_precheck: compare the clocks around the module's run."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import time

from ansible.plugins.action import ActionBase
from ansible_collections.fettle.patching.plugins.module_utils.host import check, verdict


class ActionModule(ActionBase):
    """Runs the module and adds the check `clock`; see the module's documentation."""

    def run(self, tmp=None, task_vars=None):
        """Run the module between two looks at the controller's clock."""
        result = super(ActionModule, self).run(tmp, task_vars)
        before = time.time()
        result.update(self._execute_module("fettle.patching.host_precheck", self._task.args, task_vars=task_vars))
        after = time.time()
        if "report" in result:
            limit = int(self._task.args.get("max_clock_skew", 30))
            clock = compare(result.pop("begun") - before, result.pop("ended") - after, limit)
            result["report"]["checks"].insert(0, clock)
            result["ok"], result["msg"] = verdict(result["report"]["checks"])
        return result


def compare(most, least, limit):
    """The check that the host's clock is no more than `limit` seconds ahead (positive) or behind.

    A message takes time, never less than none: the host is at most `most` ahead (its clock when the module began, less
    the controller's before it was sent) and at least `least` (the same after the answer). How long a slow connection
    takes widens the range, and is never taken for a wrong clock.
    """
    skew = max(least, 0) if least > 0 else min(most, 0)
    text = "the host's clock is at least %.0f s %s the controller's" % (abs(skew), "ahead of" if skew > 0 else "behind")
    return check("clock", abs(skew) <= limit, "%s, %d s allowed" % (text, limit) if skew else "agrees with the controller's")
