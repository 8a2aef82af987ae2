"""Many programs in one sandbox, and a server in it that this test talks to."""

from __future__ import annotations

import urllib.request

import pytest_gvisor


def test_many_programs_in_one_sandbox(gvisor_sandbox: pytest_gvisor.Sandbox) -> None:
    gvisor_sandbox.put("/data/input.txt", "hello\n")
    done = gvisor_sandbox.exec(["wc", "-c", "/data/input.txt"], check=True)
    assert done.stdout == "6 /data/input.txt\n"
    for number in range(20):
        assert gvisor_sandbox.exec(["sh", "-c", f"exit {number}"]).returncode == number


def test_a_server_in_the_sandbox(gvisor_sandbox: pytest_gvisor.Sandbox) -> None:
    gvisor_sandbox.put("/srv/page.txt", "served from inside\n")
    command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/srv", "8000"]
    with gvisor_sandbox.popen(command):
        gvisor_sandbox.wait_for_port(8000)
        with gvisor_sandbox.forward(8000) as server:
            page = urllib.request.urlopen(f"http://{server.host}:{server.port}/page.txt").read()
    assert page == b"served from inside\n"
