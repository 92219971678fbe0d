"""People: a window, a page, a headless run and the keys. An int goes in, a uint8 picture comes out.

Knows a world only as the protocol in `play.game` and deliberately never imports torch itself.
"""

import os
import sys
from importlib.util import find_spec

# Read by OpenMP when torch is loaded: threads that wait for each other sleep instead of spinning.
# On two cores beside a busy program a frame then takes 30 ms, where it had taken 50 to 1,600.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if find_spec("genie.places") is None:
    print(
        "error: another package named genie lies in the place of this one: pip uninstall genie, "
        "then install genie-worlds again",
        file=sys.stderr,
    )
    sys.exit(2)
