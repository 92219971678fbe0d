"""The one loop that trains all three nets, and its parts.

`trainer` is the loop, `config` its settings; `clip_order` decides which clips a step sees, and
`run_folder` and `states` keep on disk what is needed to resume.
"""
