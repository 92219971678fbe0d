// The page: sends keys and touches to the server, and draws the frames that come back.
import { openLink } from "./link.js";
import { openSketchPad } from "./sketch.js";

const $ = (id) => document.getElementById(id);
const screen = $("screen");
for (const canvas of [screen, $("real")]) canvas.getContext("2d", { willReadFrequently: true });
const HEADER = 18; // bytes before a frame's pixels
const [FILE, FUTURES, BESIDE] = [1, 2, 3]; // kinds of binary messages; 0 is a frame
const RETRY_MS = { 1013: 5000, 4001: null };

let link = null;
let facts = null;
let own = {}; // the user's own bindings: key -> action
let binding = null; // null, "wanted" (until an action is clicked), or the action that gets a key
let answeredAt = 0; // when the newest keys that a frame has answered were sent, in ms
let latency = null;
let strip = null;
let replay = null;
const held = new Map(); // held key, button or finger -> name of the key for the server

// --- messages -----------------------------------------------------------------------------

function connect() {
  const receive = (data) => (typeof data === "string" ? readText(JSON.parse(data)) : readBinary(data));
  link = openLink(receive, (code, reason) => {
    held.clear();
    const wait = code in RETRY_MS ? RETRY_MS[code] : 2000;
    if (wait === null) {
      say("Disconnected after a while without input. Click the picture to continue.", true);
      screen.addEventListener("pointerdown", connect, { once: true });
    } else {
      say(reason || "Connection lost; trying again ...", true);
      setTimeout(connect, wait);
    }
  });
}

function send(message) {
  link.send(JSON.stringify(message));
}

function readText(message) {
  if (message.is === "facts") showWorld(message);
  else if (message.is === "state") showState(message);
  else if (message.is === "notice") say(message.text, message.stays);
}

function readBinary(buffer) {
  const view = new DataView(buffer);
  const kind = view.getUint8(0);
  if (kind === FILE) return saveFile(buffer, view);
  const action = view.getUint8(1);
  const width = view.getUint16(2, true);
  const height = view.getUint16(4, true);
  if (kind === FUTURES) return showFutures(buffer, action, width, height);
  if (kind === BESIDE) return paint($("real"), buffer, HEADER, width, height);
  const number = view.getUint32(6, true);
  const at = view.getFloat64(10, true);
  paint(screen, buffer, HEADER, width, height);
  screen.dataset.frame = number;
  if (at > answeredAt) {
    latency = performance.now() - at;
    answeredAt = at;
  }
  highlight(action === 255 ? null : action);
  send({ do: "seen", frame: number });
}

function paint(canvas, buffer, offset, width, height) {
  if (canvas.width !== width || canvas.height !== height)
    Object.assign(canvas, { width, height });
  const rgb = new Uint8Array(buffer, offset, 3 * width * height);
  const pen = canvas.getContext("2d");
  const picture = pen.createImageData(width, height);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    picture.data[to] = rgb[from];
    picture.data[to + 1] = rgb[from + 1];
    picture.data[to + 2] = rgb[from + 2];
    picture.data[to + 3] = 255;
  }
  pen.putImageData(picture, 0, 0);
}

function saveFile(buffer, view) {
  const length = view.getUint8(1);
  const name = new TextDecoder().decode(new Uint8Array(buffer, 2, length));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([new Uint8Array(buffer, 2 + length)]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${name} is ready`);
}

// --- what is shown ------------------------------------------------------------------------

function showWorld(message) {
  facts = message;
  screen.width = facts.width;
  screen.height = facts.height;
  $("world").textContent = facts.runs;
  own = JSON.parse(localStorage.getItem(`genie-keys-${facts.world}`) || "{}");
  answeredAt = performance.now();
  say("");
  showPrompts();
  showLegend();
  screen.focus();
}

function showState(state) {
  const words = [`frame ${state.position}`, `seed ${state.seed}`];
  if (state.paused) words.unshift("paused");
  if (state.paused || state.position === 0) {
    // The next frame does not answer keys from before a pause or a restart: do not time them.
    latency = null;
    answeredAt = performance.now();
  }
  $("state").textContent = words.join(" · ");
  $("pause").textContent = state.paused ? "Resume" : "Pause";
  $("temperature").value = $("temperature-now").value = state.temperature;
  $("steps").value = $("steps-now").value = state.steps;
  $("beside").hidden = !state.has_video;
  $("real").hidden = !state.is_beside;
  if (!state.foresees) closeWhatIf();
  const figures = [`${state.fps.toFixed(0)} fps`, `${state.model_ms.toFixed(0)} ms a frame`];
  if (latency !== null) figures.push(`${latency.toFixed(0)} ms from key to picture`);
  $("figures").textContent = figures.join(" · ");
}

let noticeTimer = 0;
function say(text, stays = false) {
  $("notice").textContent = text;
  clearTimeout(noticeTimer);
  if (text && !stays) noticeTimer = setTimeout(() => ($("notice").textContent = ""), 4000);
}

function showPrompts() {
  const tiles = Array.from({ length: facts.prompts }, (_, number) => {
    const tile = document.createElement("button");
    const image = document.createElement("img");
    image.src = `prompts/${number}.png`;
    image.alt = `prompt ${number + 1}`;
    tile.append(image);
    tile.onclick = () => {
      for (const other of tiles) other.classList.toggle("current", other === tile);
      send({ do: "prompt", number });
      screen.focus();
    };
    return tile;
  });
  tiles[0].classList.add("current");
  $("prompts").replaceChildren(...tiles);
}

function keysOf(action) {
  const signs = { left: "←", right: "→", up: "↑", down: "↓", space: "␣", none: "" };
  const taken = new Set(Object.keys(own));
  const names = Object.entries(facts.bindings)
    .filter(([key, bound]) => bound === action && !taken.has(key))
    .map(([key]) => key);
  const mine = Object.keys(own).filter((key) => own[key] === action);
  const keys = [...names, ...mine].map((key) =>
    key.split("_").map((part) => signs[part] ?? part.toUpperCase()).join(""));
  return [action < 9 ? String(action + 1) : "", ...keys].filter(Boolean).join(" ");
}

function showLegend() {
  const chips = facts.names.map((name, action) => {
    const chip = document.createElement("button");
    chip.className = "action";
    chip.dataset.action = action;
    const keys = Object.assign(document.createElement("span"), { className: "keys" });
    const words = Object.assign(document.createElement("span"), { className: "name" });
    keys.textContent = keysOf(action);
    words.textContent = name;
    chip.append(keys, words);
    const down = (event) => {
      event.preventDefault();
      if (binding !== null) return chooseAction(action);
      if (action < 9) press(`chip ${action}`, String(action + 1));
    };
    chip.onpointerdown = down;
    for (const up of ["pointerup", "pointerleave", "pointercancel"])
      chip.addEventListener(up, () => release(`chip ${action}`));
    return chip;
  });
  $("legend").replaceChildren(...chips);
  if (facts.has_strip) loadStrip(chips);
}

function loadStrip(chips) {
  const image = new Image();
  image.onload = () => {
    const canvases = chips.map((chip) => {
      const canvas = document.createElement("canvas");
      canvas.width = facts.width;
      canvas.height = facts.height;
      chip.prepend(canvas);
      return canvas;
    });
    const count = Math.round(image.width / facts.width);
    let moment = 0;
    const draw = () => {
      canvases.forEach((canvas, action) =>
        canvas.getContext("2d").drawImage(
          image, moment * facts.width, action * facts.height, facts.width, facts.height,
          0, 0, facts.width, facts.height));
      moment = (moment + 1) % count;
    };
    draw();
    clearInterval(strip);
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (!isCalm) strip = setInterval(draw, 220);
  };
  image.src = "legend.png";
}

function highlight(action) {
  for (const chip of $("legend").children)
    chip.classList.toggle("active", Number(chip.dataset.action) === action);
}

// --- what if: the next second under each action -------------------------------------------

let moments = [];

function showFutures(buffer, count, width, height) {
  const size = 3 * width * height;
  if (!$("what-if").open) {
    const panels = Array.from({ length: count }, (_, action) => {
      const panel = document.createElement("button");
      const label = document.createElement("span");
      label.textContent = `${action < 9 ? action + 1 : ""} ${facts.names[action]}`;
      panel.append(document.createElement("canvas"), label);
      panel.onclick = () => send({ do: "go", action });
      return panel;
    });
    $("futures").replaceChildren(...panels);
    letGo();
    moments = [];
    $("what-if").showModal();
    let shown = 0;
    replay = setInterval(() => {
      if (moments.length) show(moments[shown++ % moments.length]);
    }, 1000 / facts.fps);
  }
  const show = (moment) =>
    [...$("futures").children].forEach((panel, action) =>
      paint(panel.firstChild, moment, HEADER + action * size, width, height));
  moments.push(buffer);
}

function closeWhatIf() {
  clearInterval(replay);
  if ($("what-if").open) $("what-if").close();
}

$("what-if").addEventListener("cancel", () => send({ do: "stay" }));
$("what-if").addEventListener("close", () => {
  clearInterval(replay);
  screen.focus();
});
$("what-if").addEventListener("keydown", (event) => {
  const action = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
  if (action in facts.names) send({ do: "go", action });
  else if (event.key === "Tab" && !event.shiftKey) {
    event.preventDefault();
    send({ do: "stay" });
  }
});
$("stay").onclick = () => send({ do: "stay" });

// --- keys ---------------------------------------------------------------------------------

const COMMANDS = {
  r: (event) => send({ do: event.shiftKey ? "reseed" : "restart" }),
  p: () => send({ do: "pause" }),
  ".": () => send({ do: "step" }),
  v: () => send({ do: "beside" }),
};

function nameOf(event) {
  const names = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", " ": "space" };
  if (event.key in names) return names[event.key];
  return /^[a-z1-9.]$/i.test(event.key) ? event.key.toLowerCase() : null;
}

function sendHeld() {
  send({ do: "keys", held: [...new Set(held.values())].slice(0, 16), at: performance.now() });
}

function press(source, name) {
  if (held.has(source)) return;
  held.set(source, name);
  sendHeld();
}

function release(source) {
  if (held.delete(source)) sendHeld();
}

function letGo() {
  if (held.size) {
    held.clear();
    sendHeld();
  }
  send({ do: "rewind", on: false });
}

addEventListener("keydown", (event) => {
  if ($("sketch").open || $("what-if").open || event.ctrlKey || event.metaKey || event.altKey || !facts) return;
  const isField = event.target instanceof HTMLInputElement;
  const name = nameOf(event);
  if (isField && (event.key.startsWith("Arrow") || event.key === " ")) return;
  if (typeof binding === "number" || (binding && event.key === "Escape")) return bind(event, name);
  if (event.key === "Tab" && event.target === screen && !event.shiftKey) {
    event.preventDefault();
    send({ do: "what_if" });
  } else if (event.key === "Backspace") {
    event.preventDefault();
    if (!event.repeat) send({ do: "rewind", on: true });
  } else if (name in COMMANDS) {
    if (!event.repeat) COMMANDS[name](event);
  } else if (name !== null && name !== ".") {
    // Otherwise the space bar would click a focused button, and arrows would scroll the page.
    event.preventDefault();
    press(event.code, name in own ? String(own[name] + 1) : name);
  }
});
addEventListener("keyup", (event) => {
  if (event.key === "Backspace") send({ do: "rewind", on: false });
  release(event.code);
});
addEventListener("blur", letGo);

function chooseAction(action) {
  binding = action;
  for (const chip of $("legend").children)
    chip.classList.toggle("choosing", Number(chip.dataset.action) === action);
  say(`Press the key for “${facts.names[action]}” (Esc: cancel)`, true);
}

function bind(event, name) {
  event.preventDefault();
  const action = binding;
  endBinding();
  if (event.key === "Escape") return say("");
  if (name in COMMANDS) return say(`${name.toUpperCase()} is taken: choose an arrow or another letter.`);
  if (name === null || /[0-9]/.test(name) || action >= 9) return say("Choose an arrow, a letter or the space bar.");
  own[name] = action;
  localStorage.setItem(`genie-keys-${facts.world}`, JSON.stringify(own));
  showLegend();
  say(`${name.toUpperCase()} is now “${facts.names[action]}”`);
}

function endBinding() {
  binding = null;
  for (const chip of $("legend").children) chip.classList.remove("choosing");
}

$("bind").onclick = () => {
  binding = "wanted";
  say("Click the action to bind a key to.", true);
};
$("unbind").onclick = () => {
  own = {};
  localStorage.removeItem(`genie-keys-${facts.world}`);
  endBinding();
  showLegend();
  say("The legend's keys are restored.");
};

// --- buttons ------------------------------------------------------------------------------

for (const verb of ["restart", "reseed", "pause", "step", "bookmark", "back", "beside"])
  $(verb).onclick = () => {
    send({ do: verb });
    screen.focus();
  };
$("foresee").onclick = () => send({ do: "what_if" });
for (const button of document.querySelectorAll("[data-save]"))
  button.onclick = () => {
    say("Writing the file ...", true);
    send({ do: "save", as: button.dataset.save });
    screen.focus();
  };
for (const arrow of document.querySelectorAll("[data-key]")) {
  arrow.onpointerdown = (event) => {
    event.preventDefault();
    press(`pad ${arrow.dataset.key}`, arrow.dataset.key);
  };
  for (const up of ["pointerup", "pointerleave", "pointercancel"])
    arrow.addEventListener(up, () => release(`pad ${arrow.dataset.key}`));
}
$("rewind").onpointerdown = () => send({ do: "rewind", on: true });
for (const up of ["pointerup", "pointerleave", "pointercancel"])
  $("rewind").addEventListener(up, () => send({ do: "rewind", on: false }));
for (const slider of ["temperature", "steps"]) {
  $(slider).oninput = () => ($(`${slider}-now`).value = $(slider).value);
  $(slider).onchange = () => {
    send({ do: "tune", steps: Number($("steps").value), temperature: Number($("temperature").value) });
    screen.focus();
  };
}

// --- pictures and videos to start from -----------------------------------------------------

function playFile(file) {
  if (!file.type.startsWith("video/") && file.type !== "image/gif") return playPicture(file);
  if (file.size > facts.most_bytes)
    return say(`The video is larger than ${facts.most_bytes >> 20} MiB: use a shorter one.`);
  for (const tile of $("prompts").children) tile.classList.remove("current");
  link.send(file);
  say(`Loading ${file.name} ...`);
  screen.focus();
}

async function playPicture(blob) {
  let image;
  try {
    image = await createImageBitmap(blob);
  } catch {
    return say("This browser cannot read that image.");
  }
  const canvas = document.createElement("canvas");
  canvas.width = facts.width * 4;
  canvas.height = facts.height * 4;
  const scale = Math.max(canvas.width / image.width, canvas.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  const brush = canvas.getContext("2d");
  brush.imageSmoothingEnabled = scale < 1;
  brush.imageSmoothingQuality = "high";
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  canvas.toBlob((content) => {
    for (const tile of $("prompts").children) tile.classList.remove("current");
    link.send(content);
    say("");
    screen.focus();
  });
}

$("upload").onclick = () => $("file").click();
$("file").onchange = () => {
  if ($("file").files[0]) playFile($("file").files[0]);
  $("file").value = "";
};
addEventListener("paste", (event) => {
  const item = [...event.clipboardData.items].find((other) => other.type.startsWith("image/"));
  if (item) playFile(item.getAsFile());
  else say("There is no image to paste.");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) playFile(event.dataTransfer.files[0]);
});
$("draw").onclick = () => {
  letGo();
  openSketchPad(screen, playPicture);
};

connect();
