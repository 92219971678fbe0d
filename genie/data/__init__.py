"""From videos to clips: what there is, what of it is kept, and windows to learn from.

In this order: `sources` (and `rows` of data sets), `scenes`, `parts`, `splits`, `shards`, `card`,
then `prepare`, which does all of it, and `clips`.
"""
