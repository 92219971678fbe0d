// One playthrough from its picture on: steps a session, stores its frames, and rewinds, as in
// play/timeline.py.

import { exactly } from "./keymap.js";

const KEYFRAME_EVERY = 16; // steps between two snapshots
const MOST_FRAMES = 900; // newest frames that are stored
const REACH = 320; // frames that can be rewound
const NUM_RECENT = 16; // newest steps over which their duration is averaged

export class Playthrough {
  static async start(session, settings) {
    const playthrough = new Playthrough(session, settings);
    await playthrough.addKeyframe();
    return playthrough;
  }

  // Call `start`.
  constructor(session, settings) {
    Object.assign(this, { session, settings });
    this.stored = [session.frame];
    this.allActions = [];
    this.allUsed = [];
    this.allDigests = [digest(session.frame)];
    this.numRewound = 0;
    this.keyframes = []; // pairs of position and snapshot
    this.recentMs = [];
  }

  get position() {
    return this.allActions.length - this.numRewound;
  }

  get frame() {
    return this.stored.at(-1 - this.numRewound);
  }

  get frames() {
    return this.stored.slice(0, this.stored.length - this.numRewound);
  }

  get actions() {
    return this.allActions.slice(0, this.position);
  }

  get used() {
    return this.allUsed.slice(0, this.position);
  }

  // Promises of the frames' digests.
  get digests() {
    return this.allDigests.slice(0, this.position + 1);
  }

  get meanMs() {
    return this.recentMs.reduce((sum, ms) => sum + ms, 0) / Math.max(this.recentMs.length, 1);
  }

  step(action) {
    return this.follow(exactly(action));
  }

  // Steps under the action that a press means at the shown frame; rewound frames are dropped.
  async follow(press) {
    await this.restoreSession();
    const began = performance.now();
    const action = await this.meant(press);
    const frame = await this.session.step(action);
    this.recentMs = [...this.recentMs, performance.now() - began].slice(-NUM_RECENT);
    this.stored.push(frame);
    if (this.stored.length > MOST_FRAMES) this.stored.shift();
    this.allActions.push(action);
    this.allUsed.push(this.settings);
    this.allDigests.push(digest(frame));
    if (this.position % KEYFRAME_EVERY === 0) await this.addKeyframe();
  }

  // Uses idle time to make the next step faster: to generate the frame of the likely press, if there
  // is one and this can be done in time.
  async prepare(likely, idleMs) {
    if (this.numRewound) return;
    if (likely && this.session.frameMs < idleMs) await this.session.foresee(await this.meant(likely));
    else await this.session.appendNewest();
  }

  async meant({ action, wish }) {
    return wish ? this.session.choose(wish) : action;
  }

  async fork(count) {
    await this.restoreSession();
    return this.session.fork(count);
  }

  // Shows the previous frame; false if there is none within reach.
  rewind() {
    const isLast = this.numRewound >= Math.min(REACH, this.stored.length - 1);
    if (isLast || this.position <= this.keyframes[0][0]) return false;
    this.numRewound++;
    return true;
  }

  tune(settings) {
    this.session.tune(settings);
    this.settings = settings;
  }

  async bookmark() {
    await this.restoreSession();
    return {
      snapshot: await this.session.snapshot(),
      allActions: this.actions,
      allUsed: this.used,
      allDigests: this.digests,
      stored: this.frames,
      keyframes: [...this.keyframes],
    };
  }

  // Returns to a bookmark, which may be used again.
  goTo({ snapshot, ...lists }) {
    this.session.restore(snapshot);
    this.numRewound = 0;
    for (const [name, list] of Object.entries(lists)) this[name] = [...list];
  }

  async addKeyframe() {
    this.keyframes.push([this.position, await this.session.snapshot()]);
    while (this.keyframes.length > 1 && this.keyframes[1][0] <= this.position - REACH) this.keyframes.shift();
  }

  // Brings the session to the shown frame, and drops all later frames.
  async restoreSession() {
    if (!this.numRewound) return;
    const { position, actions, used, digests, frames } = this;
    while (this.keyframes.at(-1)[0] > position) this.keyframes.pop();
    const [start, snapshot] = this.keyframes.at(-1);
    this.session.restore(snapshot);
    for (let number = start; number < position; number++) {
      this.session.tune(used[number]);
      await this.session.step(actions[number]);
    }
    this.session.tune(this.settings);
    Object.assign(this, { allActions: actions, allUsed: used, allDigests: digests, stored: frames, numRewound: 0 });
  }
}

// A frame's hash, 16 hex digits, see play/recording.py; browsers offer it on secure pages alone.
async function digest(frame) {
  if (!crypto.subtle) return null;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", frame));
  return Array.from(bytes.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
