"""Playing a world: a window, a web page, a run without a display, and the keys.

In: key presses or a list of actions. Out: uint8 frames on a screen or in a file.
Uses a running world only through the protocol in `play.game`; never imports torch itself.
"""

import os
import sys
from importlib.util import find_spec

# OpenMP reads this when torch is loaded: waiting threads then sleep instead of spinning.
# On two cores beside a busy program, a frame takes 30 ms instead of 50 to 1,600 ms.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if find_spec("genie.places") is None:
    print(
        "error: another package named genie is installed in place of this one: run pip uninstall "
        "genie, then install genie-worlds again",
        file=sys.stderr,
    )
    sys.exit(2)
