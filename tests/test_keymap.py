"""Keys: what held keys ask for, what words mean, and keys that the person bound anew."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.errors import UserError
from genie.legend import ARROWS, FREE_KEYS, NAMES
from play import bindings
from play.game import Press
from play.headless import parse_actions
from play.keymap import ALIASES, SYNONYMS, HeldKeys, KeyMap

LEGEND = {"left": 5, "right": 4, "up": 0, "down": 1, "none": 2, "right_up": 3}
DOES = ("up", "down", "stay", "right, rising", "right", "left", "slow right", "slow right")

BINDINGS = st.dictionaries(st.sampled_from(sorted(NAMES)), st.integers(0, 7))
HELD = st.lists(st.sampled_from(["left", "right", "up", "down", *"12345678"]), unique=True)
WORDS = st.text("abcdefghijklmnopqrstuvwxyz ,", min_size=1, max_size=12)


@st.composite
def keymaps(draw):
    """Of any world, with or without a legend and names."""
    num_actions = draw(st.integers(1, 12))
    if draw(st.booleans()):
        return KeyMap.plain(num_actions)
    actions = st.integers(0, num_actions - 1)
    names = draw(st.none() | st.lists(WORDS, min_size=num_actions, max_size=num_actions))
    return KeyMap(
        num_actions=num_actions,
        bindings=draw(st.dictionaries(st.sampled_from(sorted(NAMES)), actions)),
        has_legend=True,
        action_names=tuple(names or ()),
    )


def of_legend(names=()):
    return KeyMap(num_actions=8, bindings=LEGEND, has_legend=True, action_names=names)


# What held keys ask for


@given(BINDINGS, HELD)
def test_keys_choose_an_action_of_the_world_or_wait(bound, held):
    keymap = KeyMap(num_actions=8, bindings=bound, has_legend=True)
    press = keymap.choose(held)
    is_bound = any(key.isdecimal() or key in bound for key in held)
    if press is None:
        assert not is_bound and "none" not in bound, "a bound key must act"
    elif press.key.isdecimal():
        assert press.action == int(press.key) - 1 and press.key in held
    elif press.key == "none":
        assert not is_bound
    else:
        assert press.action == bound[press.key]
        assert set(press.key.split("_")) <= set(held), "only held keys act"


@given(BINDINGS, HELD, st.sampled_from("12345678"))
def test_the_most_recent_key_wins(bound, held, digit):
    keymap = KeyMap(num_actions=8, bindings=bound, has_legend=True)
    older = [key for key in held if key != digit]
    assert keymap.choose([*older, digit]).action == int(digit) - 1


@pytest.mark.parametrize("held", [("right", "up"), ("up", "right"), ("left", "right", "up")])
def test_arrows_across_each_other_are_a_chord(held):
    assert of_legend().choose(held) == Press(LEGEND["right_up"], "right_up")


def test_without_that_chord_the_most_recent_arrow_wins():
    assert of_legend().choose(("left", "up")) == Press(LEGEND["up"], "up")
    assert of_legend().choose(("up", "left")) == Press(LEGEND["left"], "left")


def test_no_key_is_the_none_action_or_waiting():
    assert of_legend().choose(()) == Press(2, "none")
    assert KeyMap.plain(8).choose(()) is None


def test_digits_end_with_the_actions():
    assert KeyMap.plain(3).choose(("4",)) is None
    assert KeyMap.plain(3).choose(("down",)) is None
    assert KeyMap.plain(12).choose(("9",)) == Press(8, "9")


@given(keymaps(), HELD)
def test_letters_stand_for_arrows_until_they_are_bound(keymap, held):
    letters = {arrow: letter for letter, arrow in ALIASES.items()}
    unbound = KeyMap(
        num_actions=keymap.num_actions,
        bindings={key: a for key, a in keymap.bindings.items() if key not in ALIASES},
        has_legend=keymap.has_legend,
    )
    assert unbound.choose([letters.get(key, key) for key in held]) == unbound.choose(held)
    for letter in ALIASES:
        assert unbound.rebound(letter, 0).choose([letter]) == Press(0, letter)


# Keys bound anew


@given(keymaps(), st.sampled_from(sorted(FREE_KEYS)), st.data())
def test_a_key_does_what_it_was_bound_to_and_no_other_key_changes(keymap, key, data):
    action = data.draw(st.integers(0, keymap.num_actions - 1))
    rebound = keymap.rebound(key, action)
    assert rebound.choose([key]) == Press(action, key)
    assert key in rebound.names_of(action)
    assert {name: a for name, a in rebound.bindings.items() if name != key} == {
        name: a for name, a in keymap.bindings.items() if name != key
    }
    others = sorted(FREE_KEYS - {key, *(a for a, arrow in ALIASES.items() if arrow == key)})
    assert all(rebound.choose([other]) == keymap.choose([other]) for other in others)


@given(keymaps(), st.text(max_size=10) | st.sampled_from(["1", "none", "right_up", "f5"]))
def test_keys_that_are_taken_are_refused_in_one_line(keymap, key):
    if key in FREE_KEYS:
        return
    with pytest.raises(UserError, match="cannot be bound"):
        keymap.rebound(key, 0)


@given(keymaps(), st.integers(-3, 20))
def test_an_action_that_is_not_there_is_not_bound(keymap, action):
    if 0 <= action < keymap.num_actions:
        return
    with pytest.raises(UserError, match=f"0..{keymap.num_actions - 1}"):
        keymap.rebound("k", action)


# Words


@given(keymaps())
def test_every_word_is_an_action_of_the_world(keymap):
    words = keymap.vocabulary
    assert all(0 <= press.action < keymap.num_actions for press in words.values())
    for key in keymap.bindings:
        assert words[key] == keymap.choose([key]), "a key's name asks for what the key does"
    for action in range(keymap.num_actions):
        word = keymap.name_of(action).replace(", ", "_").replace(" ", "_")
        assert word in words, "what an action does is a word for it, or for one that does the same"


@given(keymaps())
def test_every_word_can_be_written_in_a_command(keymap):
    for word, press in keymap.vocabulary.items():
        if "," in word or word != word.strip():
            continue
        assert list(parse_actions(f"{word}*3,{word}", keymap.vocabulary)) == [press] * 4


def test_words_of_the_legend_mean_what_it_says():
    words = of_legend(DOES).vocabulary
    actions = {word: press.action for word, press in words.items()}
    assert words["jump"] == words["up"] and actions["up"] == 0, "the synonym of a key that is there"
    assert words["wait"] == words["none"] and actions["stay"] == actions["none"] == 2
    assert actions["right_rising"] == actions["right_up"] == 3
    assert actions["slow_right"] == 6, "the first of two that do the same"
    assert "mostly_stay" not in words


def test_of_two_actions_with_one_name_the_one_with_an_arrow_is_meant():
    keymap = KeyMap(
        num_actions=3, bindings={"up": 2}, has_legend=True, action_names=("rise", "stay", "rise")
    )
    assert keymap.vocabulary["rise"].action == 2


def test_a_name_of_the_legend_is_stronger_than_a_synonym():
    names = ("jump", *DOES[1:])
    keymap = KeyMap(num_actions=8, bindings={"up": 4}, has_legend=True, action_names=names)
    assert set(SYNONYMS) >= {"jump"} and keymap.vocabulary["jump"].action == 0


def test_without_a_legend_arrows_and_numbers_are_words():
    vocabulary = KeyMap.plain(5).vocabulary
    assert {word: press.action for word, press in vocabulary.items()} == {
        **dict(zip(ARROWS, range(4), strict=True)),
        **{f"action_{number}": number - 1 for number in range(1, 6)},
        "jump": 2,
    }


# Legends


def test_legend_of_a_world_is_used(tmp_path):
    legend = {"keys": LEGEND, "actions": [{"name": name} for name in DOES]}
    (tmp_path / "legend.json").write_text(json.dumps(legend))
    keymap = KeyMap.load(tmp_path, 8)
    assert keymap.has_legend and keymap.choose(("left",)) == Press(5, "left")
    assert [keymap.name_of(action) for action in range(8)] == list(DOES)


def test_a_legend_without_names_is_one_too(tmp_path):
    (tmp_path / "legend.json").write_text(json.dumps({"keys": LEGEND}))
    assert KeyMap.load(tmp_path, 8).name_of(0) == "action 1"


@pytest.mark.parametrize(
    "legend",
    [
        "{",
        "[]",
        "{}",
        '{"keys": [1]}',
        '{"keys": {"jump": 1}}',
        '{"keys": {"left": 8}}',
        '{"keys": {"left": true}}',
        '{"keys": {"left": "1"}}',
        '{"keys": {}, "actions": []}',
        '{"keys": {}, "actions": {"0": "up"}}',
        '{"keys": {}, "actions": ["a", "b", "c", "d", "e", "f", "g", "h"]}',
        '{"keys": {}, "actions": [{}, {}, {}, {}, {}, {}, {}, {}]}',
        json.dumps({"keys": {}, "actions": [{"name": "up\ndown"}] * 8}),
        json.dumps({"keys": {}, "actions": [{"name": " "}] * 8}),
    ],
)
def test_broken_legend_is_named(tmp_path, legend):
    (tmp_path / "legend.json").write_text(legend)
    with pytest.raises(UserError, match=r"legend\.json"):
        KeyMap.load(tmp_path, 8)


# The person's own keys, in a file


@pytest.fixture(scope="module")
def own_keys(tmp_path_factory):
    """The file in which keys of the world "square" are kept; the folder is not made yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("own") / "not yet there"))
        yield bindings.path_for("square")


@given(st.lists(st.tuples(st.sampled_from(sorted(FREE_KEYS)), st.integers(0, 7)), max_size=8))
def test_bound_keys_come_back(own_keys, bound):
    bindings.forget("square")
    expected = legend = of_legend(DOES)
    for key, action in bound:
        bindings.remember(key, action, "square")
        expected = expected.rebound(key, action)
    assert bindings.with_own_keys(legend, "square") == expected
    assert bindings.with_own_keys(legend, "another world") == legend
    assert not own_keys.exists() or [path.name for path in own_keys.parent.iterdir()] == [
        own_keys.name
    ], "something half-written stayed"
    bindings.forget("square")
    bindings.forget("square")
    assert bindings.with_own_keys(legend, "square") == legend


def test_keys_lie_where_the_person_wants_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    bindings.remember("k", 3, "square")
    assert [path.name for path in tmp_path.rglob("*.json")] == ["square.json"]


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    ).map(lambda values: json.dumps(values).encode())
    | st.dictionaries(
        st.sampled_from(sorted(NAMES)), st.integers(-2, 9) | st.booleans() | st.floats()
    ).map(lambda values: json.dumps(values).encode())
)
def test_a_broken_file_of_keys_is_named_in_one_line(own_keys, content):
    own_keys.parent.mkdir(parents=True, exist_ok=True)
    own_keys.write_bytes(content)
    legend = of_legend()
    try:
        found = bindings.with_own_keys(legend, "square")
    except UserError as error:
        assert own_keys.name in str(error) and len(str(error).splitlines()) == 1
    else:
        assert found.bindings == {**LEGEND, **json.loads(content)}
        assert set(found.bindings.values()) <= set(range(8))


@pytest.mark.parametrize("content", ["{", "[1]", "3", '"text"'])
def test_a_key_is_not_laid_over_a_broken_file(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = bindings.path_for("square")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match="cannot remember") as error:
        bindings.remember("k", 1, "square")
    assert len(str(error.value).splitlines()) == 1 and path.read_text() == content


def test_settings_that_cannot_be_written_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "genie").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for attempt in (lambda: bindings.remember("k", 1, "a"), lambda: bindings.forget("a")):
        with pytest.raises(UserError) as error:
            attempt()
        assert len(str(error.value).splitlines()) == 1


# Keys that are down

EVENTS = st.lists(st.tuples(st.sampled_from(["press", "release", "take"]), st.sampled_from("abc")))


@given(EVENTS)
def test_held_keys_lose_no_tap_and_keep_no_ghost(events):
    held = HeldKeys()
    down, tapped = [], set()
    for kind, key in events:
        if kind == "press":
            held.press(key, key.upper())
            down = [*(other for other in down if other != key), key]
            tapped.add(key)
        elif kind == "release":
            held.release(key)
            down = [other for other in down if other != key]
        else:
            taken = [name.lower() for name in held.take()]
            assert set(taken) == {*down, *tapped}
            assert [key for key in taken if key in down] == down, "oldest first"
            tapped.clear()
