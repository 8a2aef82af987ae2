"""Whether a sandbox of tests inside can be saved at its gate, by its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_gvisor.errors import SnapshotError
from pytest_gvisor.runsc import saving
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.settings import Network

if TYPE_CHECKING:
    from pytest_gvisor.inside.start import Plan


def obstacle(plan: Plan) -> str:
    """Return why a sandbox cannot be saved; nothing if it can."""
    if plan.settings.network is not Network.NONE:
        return f"with network={plan.settings.network} none is saved"
    try:
        saving.check(plan.runsc, plan.platform, Way.OWN if plan.way is Way.FLAG else plan.way)
    except SnapshotError as error:
        return str(error)
    return ""
