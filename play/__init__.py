"""People: a window, a headless run and the keys. An int goes in, a uint8 picture comes out.

Knows a world only as the protocol in `play.game` and deliberately never imports torch itself.
"""
