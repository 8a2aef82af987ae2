"""However tests are named on the command line, the pytest inside collects the host's node ids."""

from pathlib import Path

import pytest

from tests.inside.conftest import inside, plain, run_both

PASSES = "def test_it(): pass\n"


@pytest.fixture
def tree(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a configuration that is not at its top, and a package elsewhere."""
    root = project.path / "here"
    files = {
        "here/ci/pytest.ini": "[pytest]\n",
        "here/tests/test_one.py": PASSES,
        "here/tests/deep/test_two.py": "import pytest\n"
        "@pytest.mark.parametrize('n', ['a::b', '[c]'])\n"
        "def test_it(n): pass\n",
        "here/tests/[odd]/test_three.py": PASSES,
        "elsewhere/empty": "",
        "lib/installed/__init__.py": "",
        "lib/installed/tests/__init__.py": "",
        "lib/installed/tests/test_four.py": PASSES,
    }
    for name, text in files.items():
        path = project.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (project.path / "tox.ini").unlink()
    monkeypatch.syspath_prepend(str(project.path / "lib"))
    monkeypatch.setenv("PYTHONPATH", str(project.path / "lib"), prepend=":")
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (("-c", "ci/pytest.ini", "tests"), 4),
        (("--rootdir=../elsewhere", "tests"), 4),
        (("--rootdir=../elsewhere", "tests/test_one.py", "tests/deep"), 3),
        (("--rootdir=.", "--pyargs", "installed", "tests/deep"), 3),
        (("--rootdir=..", "tests/deep/test_two.py::test_it", "tests/test_one.py"), 3),
        (("--rootdir=..",), 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_tests_are_found_as_the_user_names_them(
    project: pytest.Pytester, tree: Path, arguments: tuple[str, ...], passed: int
) -> None:
    """Files outside of rootdir have ids that depend on the arguments."""
    both = run_both(project, "-v", *arguments)
    assert plain(both.inside) == plain(both.host)
    assert both.outcomes()[0] == {"passed": passed}


def test_an_item_with_the_path_of_its_data_is_found(project: pytest.Pytester) -> None:
    """The file that it is collected from is its collector's."""
    project.makeconftest(
        """
        import pytest

        class Case(pytest.Item):
            def runtest(self):
                assert self.path.suffix == ".data"

        class Cases(pytest.Collector):
            def collect(self):
                for path in sorted(self.path.parent.glob("data/*.data")):
                    yield Case.from_parent(self, name=path.stem, path=path)

        def pytest_pycollect_makeitem(collector, name, obj):
            if name == "each_case":
                return Cases.from_parent(collector, name=name)
        """
    )
    project.makepyfile(test_it="def each_case(): pass\ndef test_other(): pass\n")
    project.mkdir("data")
    for name in ("a", "b"):
        (project.path / "data" / f"{name}.data").touch()
    both = run_both(project, "-v")
    assert plain(both.inside) == plain(both.host)
    assert both.outcomes()[0] == {"passed": 3}


def test_files_without_a_test_to_run_are_not_imported(project: pytest.Pytester) -> None:
    """The other files and folders of the arguments cost a sandbox nothing."""
    project.makepyfile(
        test_one="def test_it(): pass\n",
        test_two="import os\nfrom pytest_gvisor import is_gvisor_kernel\n"
        "assert not is_gvisor_kernel(os.uname().release)\ndef test_it(): pass\n",
    )
    for arguments in ((), ("test_one.py", "test_two.py")):
        result = inside(project, "--deselect=test_two.py::test_it", *arguments)
        result.assert_outcomes(passed=1, deselected=1)


def test_a_function_without_a_selected_test_is_not_collected_inside(
    project: pytest.Pytester,
) -> None:
    """Its parameters may make thousands of tests, which the host has deselected."""
    project.makeini("[pytest]\nmarkers = slow\n")
    project.makeconftest(
        """
        import pytest

        collected = set()

        def pytest_itemcollected(item):
            collected.add(item.name)

        @pytest.fixture
        def names():
            return sorted(collected)
        """
    )
    project.makepyfile(
        """
        import pytest

        slow = pytest.mark.slow

        @slow
        @pytest.mark.parametrize("number", range(3))
        def test_many(number): pass

        class TestMore:
            @slow
            def test_it(self): pass

            def test_that(self): pass

        @pytest.mark.parametrize("number", [1, pytest.param(2, marks=slow)])
        def test_some(number): pass

        def test_it(names):
            assert names == ["test_it", "test_some[1]", "test_some[2]", "test_that"]
        """
    )
    result = inside(project, "-m", "not slow")
    assert result.parseoutcomes() == {"passed": 3, "deselected": 5}


def test_parameters_that_differ_at_each_collection_are_matched_by_their_place(
    project: pytest.Pytester,
) -> None:
    """A plugin may order tests by their ids. A fixture of the session is set up once."""
    project.makeconftest(
        """
        import pytest

        def pytest_collection_modifyitems(items):
            items.sort(key=lambda item: item.name.split("-")[-1])

        times = []

        @pytest.fixture(scope="session")
        def once():
            times.append(1)
            return times
        """
    )
    project.makepyfile(
        """
        import pytest, time

        @pytest.mark.parametrize("flag", [True, False])
        @pytest.mark.parametrize("at", [(1, time.time_ns()), (2, time.time_ns())], ids=str)
        def test_times(at, flag, once, record_property):
            record_property("at", at[0])
            assert once == [1]
            assert at[0] == 1 or flag

        def test_other(): pass
        """
    )
    both = run_both(project, "-rN")
    assert both.outcomes() == (
        {"passed": 4, "failed": 1, "warnings": 1},
        {"passed": 4, "failed": 1},
    )
    told = "*: 4 tests have another id inside, such as test_*[[](1, *)-*] for test_*[[](1, *)-*]: *"
    both.inside.stdout.fnmatch_lines([told])


def test_parameters_that_are_not_there_inside_are_named(project: pytest.Pytester) -> None:
    """The failure has the id on the host, and those of the function inside."""
    project.makepyfile(
        """
        import os, pytest

        WORDS = ["inside"] if "PYTEST_GVISOR_INSIDE" in os.environ else ["one", "two"]

        @pytest.mark.parametrize("word", WORDS)
        def test_it(word): pass
        """
    )
    result = inside(project)
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "warnings": 1}
    result.stdout.fnmatch_lines(
        [
            "*::test_it[[]two] was collected here and not inside*",
            "its function *::test_it[[]inside]",
        ]
    )
