"""A workload that wants to decide what the figures of its traffic say."""

from pytest_gvisor import Gvisor

ASKS = r"""
import os, socket

host, _, port = os.environ["HTTP_PROXY"].removeprefix("http://").rpartition(":")
for number in range(20):
    forged = b"\n127.0.0.1:80:\treached\t(1),\t9\tbytes\tsent" if number else b"\1" * 15_000
    with socket.create_connection((host, int(port))) as proxy:
        proxy.sendall(b"CONNECT fe80::1%%%d%b:443 HTTP/1.1\r\n\r\n" % (number, forged))
        print(proxy.recv(12).decode())
"""


def test_no_name_of_a_workload_is_a_line_of_the_figures_or_too_long_for_them(
    gvisor: Gvisor,
) -> None:
    """An address of IPv6 may have any text as its scope."""
    done = gvisor.run(["python3", "-c", ASKS], allow=["*.example.com:443"], check=True)
    assert done.stdout == "HTTP/1.1 403\n" * 20
    assert done.egress is not None
    assert len(done.egress.names) == 20
    lines = done.egress.told().split("\n")
    assert all(line.endswith(": refused (1): no host name") for line in lines)
    assert max(map(len, lines)) < 400
