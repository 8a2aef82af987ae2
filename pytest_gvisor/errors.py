"""The errors and the warning, under the name that users' ``filterwarnings`` have."""

from pytest_gvisor.base.errors import *  # noqa: F403 -- all of them, for what users name
