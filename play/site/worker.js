// What the server is to the page elsewhere: commands in, frames, files and notices out, in the
// messages of play/browser/wire.py. Runs beside the page, so that the page stays quick.
import { readPicture, writeGif, writeRecording, writeStrip } from "./pictures.js";
import { Player } from "./player.js";
import { openEngine } from "./world.js";

const [FRAME, FILE, FUTURES] = [0, 1, 2];
const NO_ACTION = 255;
const NUM_RECENT = 16; // frames between two messages about the state
const IDLE_MS = 1000;

let info, engine, player;
let whatIf = null;
let isSeen = true; // false while the page is hidden: then the world waits
let isSaving = false;
let held = [];
let [keysAt, answeredAt, numSent] = [0, 0, 0];
let wake = () => {};
const waiting = [];
const pressed = [];

onmessage = ({ data }) => {
  const message = typeof data === "string" ? JSON.parse(data) : data;
  if (message.do === "seen") return;
  (message.do === "keys" ? pressed : waiting).push(message);
  wake();
};

// --- to the page ---------------------------------------------------------------------------

const tell = (message) => postMessage(JSON.stringify(message));
const say = (text, stays = false) => tell({ is: "notice", text, stays });

function sendPictures(kind, action, number, at, pictures) {
  const size = pictures[0].length;
  const message = new Uint8Array(18 + pictures.length * size);
  const view = new DataView(message.buffer);
  view.setUint8(0, kind);
  view.setUint8(1, action);
  view.setUint16(2, info.width, true);
  view.setUint16(4, info.height, true);
  view.setUint32(6, number, true);
  view.setFloat64(10, at, true);
  pictures.forEach((picture, i) => message.set(picture, 18 + i * size));
  postMessage(message.buffer, [message.buffer]);
}

function show() {
  sendPictures(FRAME, player.action ?? NO_ACTION, ++numSent, answeredAt, [player.playthrough.frame]);
  if (numSent % NUM_RECENT === 0) sendState();
}

function sendState() {
  const { playthrough } = player;
  tell({
    is: "state",
    position: playthrough.position,
    seed: String(player.seed),
    ...playthrough.settings,
    paused: player.isPaused,
    foresees: whatIf !== null,
    has_video: false,
    is_beside: false,
    fps: player.rate,
    model_ms: playthrough.meanMs,
  });
}

function sendFile(name, content) {
  const encoded = new TextEncoder().encode(name);
  const message = new Uint8Array(2 + encoded.length + content.length);
  message.set([FILE, encoded.length]);
  message.set(encoded, 2);
  message.set(content, 2 + encoded.length);
  postMessage(message.buffer, [message.buffer]);
}

// --- from the page -------------------------------------------------------------------------

// Presses and releases the keys that have changed.
function holdKeys() {
  for (const { held: names, at } of pressed.splice(0)) {
    for (const name of names) if (!held.includes(name)) player.keys.press(name);
    for (const name of held) if (!names.includes(name)) player.keys.release(name);
    [held, keysAt] = [names, at];
  }
}

async function execute(message) {
  try {
    if (message instanceof Blob) await open(await readPicture(message, info.width, info.height));
    else if (message.do === "prompt") await open(await readPrompt(message.number));
    else if (message.do === "save") await save(message.as);
    else if (message.do === "look") isSeen = message.on;
    else await command(message);
  } catch (error) {
    say(error.message);
  }
}

const COMMANDS = ["restart", "reseed", "pause", "step", "bookmark", "back", "tune"];

async function command(message) {
  if (message.do === "rewind") {
    player.rewind(message); // a page that loses the focus ends it, even during what-if
  } else {
    const before = whatIf;
    whatIf = message.do === "what_if" ? await player.whatIf() : null;
    if (message.do === "go" && before) await before.go(message);
    else if (COMMANDS.includes(message.do)) await player[message.do](message);
  }
  show();
  sendState();
}

async function readPrompt(number) {
  const response = await fetch(`prompts/${number}.png`);
  return readPicture(await response.blob(), info.width, info.height);
}

async function open(picture) {
  const opened = new Player(engine, info, picture, say);
  await opened.start({ steps: info.sampling.maskgit_steps, temperature: info.sampling.temperature });
  [player, whatIf] = [opened, null];
  for (const name of held) player.keys.press(name);
  show();
  sendState();
}

const WRITERS = {
  gif: () => writeGif(player.playthrough.frames, info),
  png: () => writeStrip(player.playthrough.frames, info),
  json: () => writeRecording(player),
};

// Starts to write a file, while the play continues.
async function save(kind) {
  if (isSaving) throw new Error("the last file is still being written: try again when it is ready");
  if (!player.playthrough.position) throw new Error("nothing was played yet");
  isSaving = true;
  WRITERS[kind]()
    .then((content) => sendFile(`genie.${kind}`, content))
    .catch((error) => say(`not saved: ${error.message}`))
    .finally(() => (isSaving = false));
}

// --- time ----------------------------------------------------------------------------------

function wait() {
  if (!isSeen) return IDLE_MS;
  if (whatIf) return whatIf.isComplete ? IDLE_MS : 0;
  return player.wait(performance.now());
}

// Until the next step is due, or a message comes that may make it due.
function sleep() {
  return new Promise((resolve) => {
    if (waiting.length || pressed.length) return resolve();
    const timer = setTimeout(resolve, Math.max(wait(), 0));
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

async function tick() {
  const [at, before] = [keysAt, player.action];
  const hasMoved = await player.tick(performance.now());
  if (!hasMoved && player.action === before) return;
  answeredAt = at;
  show();
  if (!pressed.length) await player.rest(performance.now());
}

async function lookAhead() {
  const moment = await whatIf.tick();
  if (moment) sendPictures(FUTURES, moment.length, 0, 0, moment);
}

async function play() {
  info = await (await fetch("world/world.json")).json();
  const threads = Number(new URLSearchParams(location.search).get("threads"));
  engine = await openEngine(info, (text) => say(text, true), threads);
  const inWords = `${engine.numThreads} ${engine.numThreads === 1 ? "thread" : "threads"}`;
  const passes = info.sampling.maskgit_steps === 1 ? "1 pass" : `up to ${info.sampling.maskgit_steps} passes`;
  tell({ is: "facts", runs: `${info.world} on wasm, ${inWords}, onnxruntime, ${passes} a frame`, ...info });
  await open(await readPrompt(0));
  for (;;) {
    await sleep();
    holdKeys();
    while (waiting.length) await execute(waiting.shift());
    if (wait() <= 0) await (whatIf ? lookAhead() : tick());
  }
}

play().catch((error) => say(`The world cannot be played here: ${error.message}`, true));
