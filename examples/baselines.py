"""Stable-Baselines3, imported without the notice of Gym, which it imports if there is one.

Without the package, whoever imports this file ends with one line of error.
"""

import contextlib
import io
import sys

try:
    with contextlib.redirect_stderr(io.StringIO()):
        from stable_baselines3 import PPO
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    print(f"error: {error.name} is not installed: run make agents", file=sys.stderr)
    raise SystemExit(2) from None

__all__ = ["PPO", "BaseCallback", "VecEnv"]
