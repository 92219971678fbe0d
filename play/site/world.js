// A world that runs here: a picture and actions in, frames out. It does what genie/session.py,
// ring.py, noise.py and sampling.py do, for one world at a time and with the same graphs.
import * as ort from "./runtime/ort.wasm.min.mjs";

const GRAPHS = ["read", "look_back", "reveal", "show"];
const OPTIONS = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // logs errors alone
const ROTARY_BASE = 1000;
const MOST_THREADS = 8; // as in genie/onnx_engine.py
const [NUM_RECENT, LEAST_SHARE] = [3, 1e-3]; // as in genie/session.py

// --- graphs and weights --------------------------------------------------------------------

// Loads the graphs. say: called with a line of text now and then. threads: 0 takes half of the cores.
export async function openEngine(info, say, threads = 0) {
  // More than one thread needs an isolated page.
  if (threads >= 1 && self.crossOriginIsolated) ort.env.wasm.numThreads = Math.min(Math.trunc(threads), MOST_THREADS);
  const externalData = readWeights(await download("world/weights.safetensors", say));
  const graphs = {};
  for (const name of info.has_prior ? [...GRAPHS, "foretell"] : GRAPHS) {
    const graph = await download(`world/${name}.onnx`, () => {});
    say("Starting the world ...");
    graphs[name] = await ort.InferenceSession.create(graph, { ...OPTIONS, externalData });
  }
  const [, numTokens, numLogits] = shapeOf(graphs.reveal, "unled");
  const [, , , numNext] = shapeOf(graphs.look_back, "cos");
  const { numThreads } = ort.env.wasm; // by default half of the cores, at most 4; 1 if the page is not isolated
  return { graphs, numThreads, numTokens, numLogits, numNext, maskId: info.mask_id, numActions: info.names.length };
}

async function download(path, say) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} is missing (${response.status})`);
  const reader = response.body.getReader();
  const parts = [];
  let size = 0;
  let toldAt = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size - toldAt > 1e6) say(`Loading the world: ${((toldAt = size) / 1e6).toFixed(0)} MB ...`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// The tensors of a safetensors file, named as graphs name them, in float32.
function readWeights(file) {
  const headerSize = Number(new DataView(file.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerSize)));
  const fromHalf = halfTable();
  return Object.entries(header).map(([path, { dtype, data_offsets: [begin, end] }]) => {
    const bytes = file.slice(8 + headerSize + begin, 8 + headerSize + end);
    const floats = dtype === "F16" ? Float32Array.from(new Uint16Array(bytes.buffer), (half) => fromHalf[half]) : bytes;
    return { path, data: new Uint8Array(floats.buffer) };
  });
}

// The value of each of the 65,536 floats of 16 bits.
function halfTable() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
  });
}

function shapeOf(graph, name) {
  return graph.inputMetadata.find((input) => input.name === name).shape;
}

async function run(graph, given) {
  // Inputs that a graph does not use are not in it.
  const results = await graph.run(Object.fromEntries(graph.inputNames.map((name) => [name, given[name]])));
  return graph.outputNames.map((name) => results[name].data);
}

const float = (number) => new ort.Tensor("float32", Float32Array.of(number), []);
const integer = (number) => new ort.Tensor("int64", BigInt64Array.of(BigInt(number)), []);
const integers = (numbers) => new ort.Tensor("int64", numbers, [1, numbers.length]);
const action = (number) => new ort.Tensor("int64", BigInt64Array.of(BigInt(number)), [1]);

// --- the past ------------------------------------------------------------------------------

// Keys and values of the last frames, see genie/ring.py. The world is the only row of the batch.
class Ring {
  constructor(graph) {
    const [blocks, , ...rest] = shapeOf(graph, "keys");
    this.shape = [blocks, 1, ...rest];
    [this.capacity, this.width] = rest.slice(-2);
    const size = this.shape.reduce((product, side) => product * side, 1);
    this.keys = new Float32Array(size);
    this.values = new Float32Array(size);
    this.numFrames = 0;
  }

  past(numNext) {
    const { cos, sin, bias } = this.tables(numNext);
    const table = (values) => new ort.Tensor("float32", values, [1, 1, 1, numNext, values.length / numNext]);
    return {
      keys: new ort.Tensor("float32", this.keys, this.shape),
      values: new ort.Tensor("float32", this.values, this.shape),
      cos: table(cos),
      sin: table(sin),
      bias: table(bias),
    };
  }

  // Cosines and signed sines of the next frames' positions in time, and what each may attend to.
  tables(numNext) {
    const { capacity, width, numFrames } = this;
    const half = width / 2;
    const cos = new Float32Array(numNext * width);
    const sin = new Float32Array(numNext * width);
    const bias = new Float32Array(numNext * (capacity + numNext));
    const known = Array.from({ length: capacity + numNext }, (_, slot) => {
      if (slot >= capacity) return numFrames + slot - capacity;
      const behind = (numFrames - 1 - slot) % capacity;
      return numFrames - 1 - (behind < 0 ? behind + capacity : behind);
    });
    for (let t = 0; t < numNext; t++) {
      const coming = numFrames + t;
      for (let i = 0; i < half; i++) {
        const angle = coming * ROTARY_BASE ** ((-2 * i) / width);
        cos[t * width + i] = cos[t * width + half + i] = Math.cos(angle);
        sin[t * width + half + i] = Math.sin(angle);
        sin[t * width + i] = -Math.sin(angle);
      }
      known.forEach((number, slot) => {
        const isSeen = number >= 0 && number <= coming && coming - number <= capacity;
        bias[t * known.length + slot] = isSeen ? 0 : -Infinity;
      });
    }
    return { cos, sin, bias };
  }

  // Makes a frame part of the past; it overwrites the oldest.
  append(keys, values) {
    const { capacity, width } = this;
    if (capacity) {
      const slot = this.numFrames % capacity;
      for (let from = 0, to = slot * width; from < keys.length; from += width, to += capacity * width) {
        this.keys.set(keys.subarray(from, from + width), to);
        this.values.set(values.subarray(from, from + width), to);
      }
    }
    this.numFrames++;
  }

  state() {
    return { keys: this.keys.slice(), values: this.values.slice(), numFrames: this.numFrames };
  }

  restore(state) {
    this.keys.set(state.keys);
    this.values.set(state.values);
    this.numFrames = state.numFrames;
  }
}

// --- random numbers ------------------------------------------------------------------------

const GOLDEN = 0x9e3779b97f4a7c15n;
const wrapped = (number) => BigInt.asUintN(64, number);

function scramble(number) {
  let x = wrapped(number);
  x = wrapped((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = wrapped((x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}

// Numbers in 0..1 for a seed and a step, which may be below 0: `count` of them after the first `skipped`.
function uniform(seed, step, skipped, count) {
  const key = scramble(scramble(BigInt(seed) * GOLDEN) + BigInt(step) * GOLDEN);
  return Float32Array.from({ length: count }, (_, i) => {
    const bits = scramble(key + BigInt(skipped + i + 1) * GOLDEN) >> 41n;
    return (Number(bits) + 0.5) * 2 ** -23;
  });
}

// --- a session -----------------------------------------------------------------------------

export class Session {
  // sampling: as in world.json. The caller awaits `read` before anything else.
  constructor(engine, seed, sampling) {
    Object.assign(this, { engine, seed, sampling });
    this.pastRing = new Ring(engine.graphs.look_back);
    this.shownRing = new Ring(engine.graphs.show);
    this.unled = new Float32Array(engine.numTokens * engine.numLogits);
    this.age = 0;
    this.newest = null; // the newest frame's tokens and action, until it is part of the past
    this.foreseen = null; // the next frame, generated before it is sure that it is shown
    this.frame = null; // RGB, row by row
    this.recent = []; // the newest frames as graphs give them, which the action prior sees
    this.foretold = null; // weights of the actions by the prior, if they are known for this frame
    this.frameMs = 0; // how long the last frame took to generate
  }

  // Starts from a picture. rgb: its pixels, row by row.
  async read(rgb, width, height) {
    const area = width * height;
    const planes = Uint8Array.from({ length: 3 * area }, (_, i) => rgb[(i % area) * 3 + Math.floor(i / area)]);
    const frames = new ort.Tensor("uint8", planes, [1, 3, height, width]);
    const [tokens] = await run(this.engine.graphs.read, { frames });
    this.makeNewest(await this.show(tokens));
    this.newest = { tokens, ledBy: this.engine.numActions };
    await this.appendNewest();
  }

  async step(number) {
    const { tokens, ...seen } = await this.foresee(number);
    this.makeNewest(seen);
    this.newest = { tokens, ledBy: number };
    this.foreseen = null;
    this.age++;
    return this.frame;
  }

  // Draws an action that fits both a wish, a weight for each action, and what the recorded player would
  // do here. Until the next step, the same wish gives the same action; frames do not depend on this.
  async choose(wish) {
    this.foretold ??= await this.foretell();
    let total = 0;
    // The smallest share leaves an action that the prior rules out to whoever insists on it.
    const cumulative = wish.map((weight, i) => (total += (this.foretold[i] + LEAST_SHARE) * weight));
    // Frames use the numbers of the steps from 0 on.
    const drawn = uniform(this.seed, -1 - this.age, 0, 1)[0] * total;
    return cumulative.filter((sum) => sum <= drawn).length;
  }

  // The prior's weights of the actions, of which the largest is 1.
  async foretell() {
    const { foretell } = this.engine.graphs;
    const [, ...shape] = shapeOf(foretell, "frames");
    const frames = new Uint8Array(NUM_RECENT * this.recent[0].length);
    this.recent.forEach((planes, i) => frames.set(planes, i * planes.length));
    const [logits] = await run(foretell, { frames: new ort.Tensor("uint8", frames, [1, ...shape]) });
    const most = Math.max(...logits);
    return Array.from(logits, (logit) => Math.exp(logit - most));
  }

  // Generates the next frame under an action in advance: a step with it then takes no time, one with
  // another action as long as ever. Frames stay the same, bit for bit.
  async foresee(number) {
    if (this.foreseen?.action !== number) {
      const began = performance.now();
      await this.appendNewest();
      const tokens = await this.draw(number);
      this.foreseen = { action: number, tokens, ...(await this.show(tokens)) };
      this.frameMs = performance.now() - began;
    }
    return this.foreseen;
  }

  tune({ steps, temperature }) {
    this.sampling = { ...this.sampling, maskgit_steps: steps, temperature };
    this.foreseen = null;
  }

  async snapshot() {
    await this.appendNewest();
    const { seed, age, frame, recent, unled } = this;
    return { seed, age, frame, recent, unled, past: this.pastRing.state(), shown: this.shownRing.state() };
  }

  restore({ past, shown, ...rest }) {
    Object.assign(this, rest, { newest: null, foreseen: null, foretold: null });
    this.pastRing.restore(past);
    this.shownRing.restore(shown);
  }

  // Independent copies that continue from here.
  async fork(count) {
    const snapshot = await this.snapshot();
    return Array.from({ length: count }, () => {
      const copy = new Session(this.engine, this.seed, this.sampling);
      copy.restore(snapshot);
      return copy;
    });
  }

  async appendNewest() {
    if (!this.newest) return;
    const { tokens, ledBy } = this.newest;
    const { graphs, numNext } = this.engine;
    const given = { tokens: integers(tokens), led_by: action(ledBy), ...this.pastRing.past(numNext) };
    const [unled, keys, values] = await run(graphs.look_back, given);
    this.unled = unled;
    this.pastRing.append(keys, values);
    this.newest = null;
  }

  // Makes a frame the newest one; the first one stands for those before it.
  makeNewest({ frame, planes, shown }) {
    this.shownRing.append(...shown);
    this.frame = frame;
    const missing = Math.max(1, NUM_RECENT - this.recent.length);
    this.recent = [...this.recent, ...Array(missing).fill(planes)].slice(-NUM_RECENT);
    this.foretold = null;
  }

  // A frame's pixels, row by row and as the graph gives them, and its keys and values for the ring.
  async show(tokens) {
    const { graphs } = this.engine;
    const given = { tokens: integers(tokens), ...this.shownRing.past(1) };
    const [planes, ...shown] = await run(graphs.show, given);
    const area = planes.length / 3;
    const frame = Uint8Array.from({ length: planes.length }, (_, i) => planes[(i % 3) * area + Math.floor(i / 3)]);
    return { frame, planes, shown };
  }

  // The tokens of the next frame, revealed in a few passes, see genie/sampling.py.
  async draw(number) {
    const { graphs, numTokens, numLogits, maskId } = this.engine;
    const { sampling, seed, age } = this;
    const hidden = BigInt(maskId);
    const past = this.pastRing.past(1);
    const unled = new ort.Tensor("float32", this.unled, [1, numTokens, numLogits]);
    let tokens = new BigInt64Array(numTokens).fill(hidden);
    for (let step = 1; step <= sampling.maskgit_steps; step++) {
      const done = step / sampling.maskgit_steps;
      const noise = uniform(seed, age, (step - 1) * 2 * numTokens, 2 * numTokens);
      [tokens] = await run(graphs.reveal, {
        tokens: integers(tokens),
        actions: action(number),
        unled,
        noise: new ort.Tensor("float32", noise, [1, 2, numTokens]),
        num_hidden: integer(Math.trunc(numTokens * Math.cos((Math.PI / 2) * done))),
        temperature: float(sampling.temperature),
        order_noise: float(sampling.choice_temperature * (1 - done)),
        entropy_bound: float(sampling.entropy_bound),
        guidance: float(step === 1 ? sampling.guidance : 1),
        ...past,
      });
      if (sampling.entropy_bound && !tokens.includes(hidden)) break;
    }
    return tokens;
  }
}
