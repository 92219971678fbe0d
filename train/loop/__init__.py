"""The one loop that trains all three nets, and what it stands on.

`trainer` is the loop, `config` its settings; `clip_order` says which clips a step sees, and
`run_folder` and `states` what is on disk to go on from.
"""
