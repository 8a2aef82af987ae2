"""The interpreter inside is the one outside, and so are the programs beside it."""

import site
import sys
import sysconfig
import venv
from pathlib import Path

import pytest


@pytest.fixture
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two virtual environments, the first on top of the second, as ``uv run --with`` has them."""
    folder = tmp_path_factory.mktemp("layers")
    made = [folder / "top", folder / "base"]
    for path in made:
        venv.create(path, symlinks=True)
    top, base = (
        Path(sysconfig.get_path("purelib", vars={"base": str(path), "platbase": str(path)}))
        for path in made
    )
    (base / "below.py").write_text("NAME = 'below'\n")
    tool = made[1] / "bin/tool"
    tool.write_text(f"#!{made[1]}/bin/python\nimport below; print(below.NAME)\n")
    tool.chmod(0o755)
    added = [str(base), *(path for path in site.getsitepackages() if path.startswith(sys.prefix))]
    (top / "layers.pth").write_text(f"import site; [*map(site.addsitedir, {added!r})]\n")
    return made


def test_python_and_its_tools_are_those_of_the_host(
    project: pytest.Pytester, layers: list[Path]
) -> None:
    """In an environment on top of another, tests inside and workloads see the programs of both."""
    top, base = layers
    project.makepyfile(
        f"""
        import os, shutil, subprocess, sys
        import below

        ASK = "import below, sys; print(sys.prefix, below.NAME)"
        ANSWER = "{top} below\\n"

        def test_inside():
            assert sys.executable == "{top}/bin/python"
            assert os.environ["PATH"].startswith("{top}/bin:{base}/bin:")
            for python in ("python3", sys.executable):
                assert subprocess.check_output([python, "-c", ASK], text=True) == ANSWER
            assert subprocess.check_output(["tool"], text=True) == "below\\n"

        def test_workload(gvisor):
            assert gvisor.python == sys.executable
            for python in ("python3", gvisor.python):
                assert gvisor.run([python, "-c", ASK]).stdout == ANSWER
            assert gvisor.run(["tool"]).stdout == "below\\n"
        """
    )
    options = ("--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider")
    result = project.run(f"{top}/bin/python", "-m", "pytest", *options)
    assert result.parseoutcomes() == {"passed": 2}


def test_flags_and_names_are_those_of_the_host(project: pytest.Pytester) -> None:
    """The flags of any kind, the command line, and ``__main__``, which spawned processes run."""
    flags = ["-O", "-B", "-X", "dev", "-X", "int_max_str_digits=5000", "-W", "error::FutureWarning"]
    options = ["-m", "pytest", "--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider"]
    project.makepyfile(
        f"""
        import argparse, inspect, multiprocessing, os, sys, __main__

        def test_flags():
            flags = sys.flags.optimize, sys.flags.dont_write_bytecode, sys.flags.dev_mode
            assert flags == (1, 1, True)
            assert sys.get_int_max_str_digits() == 5000
            assert sys._xoptions == {{"dev": True, "int_max_str_digits": "5000"}}
            assert "error::FutureWarning" in sys.warnoptions

        def test_names():
            assert sys.orig_argv[1:] == {[*flags, *options]!r}
            assert sys.argv[1:] == {options[2:]!r}
            assert sys.argv[0] == __main__.__file__
            spec, loader = __main__.__spec__, __main__.__loader__
            assert (spec.name, loader.name) == ("pytest.__main__", "pytest.__main__")
            assert spec.loader is loader and spec.has_location
            assert inspect.getsource(__main__) == loader.get_source(spec.name)
            assert "worker" not in argparse.ArgumentParser().prog

        def test_spawned():
            process = multiprocessing.get_context("spawn").Process(target=os.getpid)
            process.start()
            process.join()
            assert process.exitcode == 0
        """
    )
    result = project.run(sys.executable, *flags, *options)
    result.assert_outcomes(passed=3)
