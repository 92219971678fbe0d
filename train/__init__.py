"""Training: one stage a script, all in order by `python -m train`."""

import os

# Read by OpenMP when torch is loaded: threads that wait for each other sleep instead of spinning.
# A step of nano then takes 1.6 s where it had taken 7.5 s beside two other busy processes on two
# cores, and alone up to 8 % longer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
