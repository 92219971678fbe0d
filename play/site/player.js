// One user's play without a display: the clock, the keys and the commands, as in play/player.py.
import { exactly, HeldKeys, KeyMap } from "./keymap.js";
import { Playthrough } from "./playthrough.js";
import { Session } from "./world.js";

const [MOST_STEPS, HOTTEST] = [64, 5];
const NUM_RECENT = 16; // newest steps over which the rate is averaged
const IDLE_MS = 1000;
const SECONDS_AHEAD = 1; // length of each future

export class Player {
  // picture: RGB, row by row. say: called with each notice. The caller awaits `start`.
  constructor(engine, info, picture, say) {
    Object.assign(this, { engine, info, picture, say, seed: BigInt(info.seed) });
    this.keymap = new KeyMap(info.bindings, info.names.length, info.wishes);
    this.keys = new HeldKeys();
    this.isPaused = this.rewinds = false;
  }

  async start(settings) {
    const session = new Session(this.engine, this.seed, this.info.sampling);
    session.tune(settings);
    await session.read(this.picture, this.info.width, this.info.height);
    this.playthrough = await Playthrough.start(session, settings);
    this.press = null; // being played; null while the world waits
    this.marked = null;
    this.due = 0;
    this.steppedAt = [];
  }

  // The pressed key's own action, for the page: the played one may be another, if the key is a wish.
  get action() {
    return this.press?.action ?? null;
  }

  // Milliseconds until `tick` has something to do, if no key is pressed.
  wait(now) {
    const wantsStep = !this.isPaused && this.keymap.choose(this.keys.names) !== null;
    return this.press || this.rewinds || wantsStep ? this.due - now : IDLE_MS;
  }

  // Takes or rewinds one step if it is due; true if the shown frame changed.
  async tick(now) {
    if (now < this.due) return false;
    if (this.rewinds) return this.goBackOne(now);
    const wasWaiting = this.press === null;
    const held = this.keys.take();
    this.press = this.isPaused ? null : this.keymap.choose(held);
    if (!this.press) {
      this.steppedAt = [];
      return false;
    }
    this.steppedAt = [...this.steppedAt, now].slice(-NUM_RECENT);
    // A late step delays all later ones: catching up would play in bursts.
    this.due = Math.max((wasWaiting ? now : this.due) + 1000 / this.info.fps, now);
    await this.playthrough.follow(this.press);
    return true;
  }

  // Call after a step is shown: generates the next frame in case the key stays held.
  async rest(now) {
    await this.playthrough.prepare(this.press, this.due - now);
  }

  goBackOne(now) {
    this.press = null;
    this.steppedAt = [];
    this.due = now + 1000 / this.info.fps;
    const hasMoved = this.playthrough.rewind();
    if (!hasMoved) this.say("no further back");
    return hasMoved;
  }

  // Steps per second while a key is held, else 0.
  get rate() {
    const count = this.steppedAt.length - 1;
    return count > 0 ? (1000 * count) / (this.steppedAt.at(-1) - this.steppedAt[0]) : 0;
  }

  // Commands.

  async restart() {
    await this.start(this.playthrough.settings);
    this.say(`restarted, seed ${this.seed}`);
  }

  async reseed() {
    this.seed = BigInt.asUintN(63, this.seed + 1n);
    await this.restart();
  }

  pause() {
    this.isPaused = !this.isPaused;
    this.press = null;
  }

  async step() {
    this.isPaused = true;
    this.press = this.keymap.choose(this.keys.take()) ?? exactly(0);
    await this.playthrough.follow(this.press);
    this.say(`one step: ${this.info.names[this.playthrough.actions.at(-1)]}`);
  }

  rewind({ on }) {
    if (on && !this.rewinds) this.due = performance.now();
    this.rewinds = on;
  }

  async bookmark() {
    this.marked = await this.playthrough.bookmark();
    this.say(`bookmark at frame ${this.playthrough.position}`);
  }

  back() {
    if (!this.marked) throw new Error("no bookmark since the last restart");
    this.playthrough.goTo(this.marked);
    this.press = null;
    this.say(`back at frame ${this.playthrough.position}`);
  }

  tune({ steps, temperature }) {
    if (!(steps >= 1 && steps <= MOST_STEPS && temperature >= 0 && temperature <= HOTTEST))
      throw new Error(`give 1 to ${MOST_STEPS} passes and a temperature of 0 to ${HOTTEST}`);
    this.playthrough.tune({ steps, temperature });
  }

  // Releases all keys and gives the next second under each action; takes no step itself.
  async whatIf() {
    this.keys = new HeldKeys();
    this.rewinds = false;
    this.press = null;
    return new WhatIf(this, await this.playthrough.fork(this.info.names.length));
  }
}

// The next second under each action, generated one world after the other.
export class WhatIf {
  constructor(player, sessions) {
    Object.assign(this, { player, sessions, numMade: 0 });
    this.numFrames = Math.max(1, Math.round(SECONDS_AHEAD * player.info.fps));
    this.turn = sessions.length; // the present is the first moment
  }

  get isComplete() {
    return this.numMade > this.numFrames;
  }

  // Generates one frame of one future. Gives a moment, the frames of all, once it is complete.
  async tick() {
    if (this.turn < this.sessions.length) {
      await this.sessions[this.turn].step(this.turn);
      this.turn++;
    }
    if (this.turn < this.sessions.length) return null;
    this.turn = 0;
    this.numMade++;
    return this.sessions.map((session) => session.frame);
  }

  // Advances the player to the end of one future.
  async go({ action }) {
    const { player } = this;
    if (!(action in player.info.names)) throw new Error(`action ${action} does not exist`);
    for (let number = 0; number < this.numFrames; number++) await player.playthrough.step(action);
    player.say(`${this.numFrames} frames on, ${player.info.names[action]}`);
  }
}
