"""Training: one script per stage; `python -m train` runs all of them in order."""

import os
import sys
from importlib.util import find_spec

# OpenMP reads this when torch is loaded: waiting threads then sleep instead of spinning. Beside two
# other busy processes on two cores, a step of nano takes 1.6 s instead of 7.5 s; alone it takes up
# to 8 % longer.
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
