"""The monotonic clock of the code in pytest's process, where tests replace that of `time`.

Libraries that freeze the time for a test, such as freezegun, replace `time.monotonic` everywhere. A
deadline that is kept by a frozen clock never passes, and one that is kept by both passes at once.
"""

import functools
import time

monotonic = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
"""The same clock as `time.monotonic`: seconds, from an arbitrary point on."""
