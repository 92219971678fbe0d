// Keys to latent actions: held keys in, one press (or null) out, as in play/keymap.py.

const ALIASES = { a: "left", d: "right", w: "up", s: "down" };

// A press that means this very action, as a digit does.
export const exactly = (action) => ({ action, key: String(action + 1), wish: null });

export class KeyMap {
  // wishes: weights of the actions for each key that is a wish; every other key stands for one action.
  constructor(bindings, numActions, wishes = {}) {
    this.bindings = new Map(Object.entries(bindings));
    this.wishes = new Map(Object.entries(wishes));
    this.numDigits = Math.min(numActions, 9);
  }

  // The press that these keys are, oldest first: the most recent one wins, alone or in a chord.
  choose(held) {
    const meant = held.map((key) => (this.bindings.has(key) ? key : (ALIASES[key] ?? key)));
    for (let last = meant.length - 1; last >= 0; last--) {
      const chosen = this.chord(meant.slice(0, last + 1)) ?? this.single(meant[last]);
      if (chosen !== null) return chosen;
    }
    return this.bound("none");
  }

  chord(held) {
    const last = held.at(-1);
    for (const earlier of held.slice(0, -1).reverse())
      for (const chord of [`${last}_${earlier}`, `${earlier}_${last}`])
        if (this.bindings.has(chord) || this.wishes.has(chord)) return this.bound(chord);
    return null;
  }

  single(key) {
    if (/^[0-9]+$/.test(key)) return key >= 1 && key <= this.numDigits ? exactly(key - 1) : null;
    return this.bound(key);
  }

  bound(key) {
    const wish = this.wishes.get(key) ?? null;
    if (this.bindings.has(key)) return { action: this.bindings.get(key), key, wish };
    // A chord is a wish also where no action does both at once: the two take turns.
    return wish && { action: wish.indexOf(Math.max(...wish)), key, wish };
  }
}

// Keys that are down. A tap shorter than a tick still counts for one tick.
export class HeldKeys {
  constructor() {
    this.held = new Set();
    this.pressedNow = new Set();
    this.releasedNow = new Set();
  }

  get names() {
    return [...this.held];
  }

  press(name) {
    this.held.delete(name);
    this.held.add(name);
    this.pressedNow.add(name);
    this.releasedNow.delete(name);
  }

  release(name) {
    if (this.pressedNow.has(name)) this.releasedNow.add(name);
    else this.held.delete(name);
  }

  // The names, and the end of the tick.
  take() {
    const taken = this.names;
    for (const name of this.releasedNow) this.held.delete(name);
    this.pressedNow.clear();
    this.releasedNow.clear();
    return taken;
  }
}
