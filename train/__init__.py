"""Training: one stage a script, all in order by `python -m train`."""
