"""The project of a run of pytest, in the form that workloads may be shown it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_gvisor.run.project import Project


def project_of(config: pytest.Config) -> Project:
    """Return the root folder, and the names that are left out. Raises `UsageError`."""
    from pytest_gvisor.run import left_out, project  # noqa: PLC0415 -- only for who runs workloads

    hidden = left_out.patterns(config.getini(left_out.KEY))
    return project.Project(root=str(config.rootpath), hidden=hidden)
