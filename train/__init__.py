"""Training: one stage a script, all in order by `python -m train`."""

import os
import sys
from importlib.util import find_spec

# Read by OpenMP when torch is loaded: threads that wait for each other sleep instead of spinning.
# A step of nano then takes 1.6 s where it had taken 7.5 s beside two other busy processes on two
# cores, and alone up to 8 % longer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if find_spec("genie.places") is None:
    print(
        "error: another package named genie lies in the place of this one: pip uninstall genie, "
        "then install genie-worlds again",
        file=sys.stderr,
    )
    sys.exit(2)
if find_spec("accelerate") is None or find_spec("torch") is None:
    print(
        "error: PyTorch or something else that trains is missing: make install, or pip install "
        "'.[train]' in a clone",
        file=sys.stderr,
    )
    sys.exit(2)
