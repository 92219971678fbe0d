"""A person at a window that runs in this process: posts events and waits for what comes of them."""

import time

import pygame
import pytest

from play.window.window import Window

PATIENCE = 30.0
"""Seconds."""


def post(kind, **values):
    pygame.event.post(pygame.event.Event(kind, values))


def press(key):
    post(pygame.KEYDOWN, key=key)


def release(key):
    post(pygame.KEYUP, key=key)


def tap(*keys):
    for key in keys:
        press(key)
        release(key)


def click(place, button=1):
    post(pygame.MOUSEBUTTONDOWN, pos=place, button=button)


def until(window, condition):
    """Let the window run until something is true, and at least for one tick."""
    ends = time.monotonic() + PATIENCE
    window.tick()
    while not condition():
        if time.monotonic() > ends:
            pytest.fail(f"not within {PATIENCE} s; the window says {window.notice!r}")
        window.tick()


def let_in(monkeypatch, person):
    """Have a person at the next window that runs, who closes it at the end.

    Args:
        person: takes a list to which each screen is added as it is shown; does something, and
            yields what to wait for.
    """
    screens = []
    show, tick, visit = Window.show, Window.tick, person(screens)
    waits_for, ends = None, 0.0

    def noted(window, screen):
        screens.append(screen)
        show(window, screen)

    def watched(window):
        nonlocal waits_for, ends
        if waits_for is None or waits_for():
            waits_for, ends = next(visit, None), time.monotonic() + PATIENCE
            if waits_for is None:
                post(pygame.QUIT)
        elif time.monotonic() > ends:
            pytest.fail(f"not within {PATIENCE} s; the window says {window.notice!r}")
        tick(window)

    monkeypatch.setattr(Window, "show", noted)
    monkeypatch.setattr(Window, "tick", watched)
    return screens
