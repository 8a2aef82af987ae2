"""What tests inside have measured, handed on to pytest-cov."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pytest_gvisor.inside.session import InsideSession
from pytest_gvisor.inside.start import Inside
from pytest_gvisor.settings import Isolation


def test_coverage_that_is_none_is_a_warning(tmp_path: Path) -> None:
    """The rest counts."""
    warned: list[Warning] = []
    cov = SimpleNamespace(get_option=lambda _: str(tmp_path / ".coverage"))
    controller = SimpleNamespace(cov_controller=SimpleNamespace(cov=cov))
    config = SimpleNamespace(
        pluginmanager=SimpleNamespace(get_plugin=lambda _: controller),
        getini=lambda _: [],
        issue_config_time_warning=lambda warning, **_: warned.append(warning),
    )
    session = InsideSession(cast("Any", config), Isolation.SESSION, Inside())
    session._coverage = ["é", "a", base64.b64encode(b"data").decode()]
    session.close()
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"data"
    assert len(warned) == 2
