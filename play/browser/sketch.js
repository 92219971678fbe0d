// The sketch pad: draw a small picture by hand, at the world's own resolution.

const $ = (id) => document.getElementById(id);
const paper = $("paper");
const pen = paper.getContext("2d", { willReadFrequently: true });
const COMMON = ["#000000", "#ffffff", "#e0483e", "#f2a33c", "#ffe066", "#58b368", "#3f7fd9", "#8a5a33"];
const GROUND = "#000000";
const MOST_UNDO = 40;

let colour = COMMON[0];
let before = null; // the brush's last pixel; null while it is up
let undo = [];
let whenDone = () => {};

export function openSketchPad(shown, done) {
  whenDone = done;
  if (paper.width !== shown.width || paper.height !== shown.height || !undo.length) {
    paper.width = shown.width;
    paper.height = shown.height;
    clear();
  }
  showPaints(frequentColours(shown));
  $("trace").onclick = () => {
    remember();
    pen.drawImage(shown, 0, 0);
  };
  $("sketch").showModal();
}

function clear() {
  remember();
  pen.fillStyle = GROUND;
  pen.fillRect(0, 0, paper.width, paper.height);
}

// The most frequent colours of the shown frame: a sketch in them is closest to what the world knows.
function frequentColours(shown) {
  const pixels = shown.getContext("2d").getImageData(0, 0, shown.width, shown.height).data;
  const counts = new Map();
  for (let i = 0; i < pixels.length; i += 4) {
    const name = "#" + [0, 1, 2].map((c) => (pixels[i + c] & 0xf0 | 8).toString(16).padStart(2, "0")).join("");
    counts.set(name, (counts.get(name) || 0) + 1);
  }
  const names = [...counts].sort((one, other) => other[1] - one[1]).map(([name]) => name);
  const chosen = [];
  for (const name of names)
    if ([...chosen, ...COMMON].every((other) => distance(name, other) > 24)) chosen.push(name);
  return chosen.slice(0, 6);
}

function distance(one, other) {
  const channel = (name, c) => parseInt(name.slice(1 + 2 * c, 3 + 2 * c), 16);
  return Math.max(...[0, 1, 2].map((c) => Math.abs(channel(one, c) - channel(other, c))));
}

function showPaints(colours) {
  const paints = [...colours, ...COMMON].map((name) => {
    const paint = document.createElement("button");
    paint.type = "button";
    paint.className = "paint";
    paint.style.background = name;
    paint.setAttribute("aria-label", name);
    paint.onclick = () => {
      colour = name;
      for (const other of paints) other.classList.toggle("current", other === paint);
    };
    return paint;
  });
  $("paints").replaceChildren(...paints);
  const names = [...colours, ...COMMON];
  paints[names.findIndex((name) => distance(name, GROUND) > 80)].click(); // one that is visible on the ground
}

function remember() {
  undo.push(pen.getImageData(0, 0, paper.width, paper.height));
  undo = undo.slice(-MOST_UNDO);
}

function place(event) {
  const area = paper.getBoundingClientRect();
  return [
    Math.floor(((event.clientX - area.left) / area.width) * paper.width),
    Math.floor(((event.clientY - area.top) / area.height) * paper.height),
  ];
}

// Draws squares along the line: a quick stroke has no gaps, and no pixel is blended.
function stroke([x0, y0], [x1, y1]) {
  const size = Number($("brush").value);
  const count = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
  pen.fillStyle = colour;
  for (let i = 0; i <= count; i++) {
    const x = Math.round(x0 + ((x1 - x0) * i) / count);
    const y = Math.round(y0 + ((y1 - y0) * i) / count);
    pen.fillRect(x - Math.floor(size / 2), y - Math.floor(size / 2), size, size);
  }
}

function flood([x, y]) {
  const picture = pen.getImageData(0, 0, paper.width, paper.height);
  const words = new Uint32Array(picture.data.buffer);
  const [width, height] = [paper.width, paper.height];
  pen.fillStyle = colour;
  pen.fillRect(x, y, 1, 1);
  const paint = new Uint32Array(pen.getImageData(x, y, 1, 1).data.buffer)[0];
  const old = words[y * width + x];
  if (old === paint) return;
  const waiting = [[x, y]];
  while (waiting.length) {
    const [i, j] = waiting.pop();
    if (i < 0 || j < 0 || i >= width || j >= height || words[j * width + i] !== old) continue;
    words[j * width + i] = paint;
    waiting.push([i + 1, j], [i - 1, j], [i, j + 1], [i, j - 1]);
  }
  pen.putImageData(picture, 0, 0);
}

paper.onpointerdown = (event) => {
  event.preventDefault();
  paper.setPointerCapture(event.pointerId);
  remember();
  if ($("fill").checked) return flood(place(event));
  before = place(event);
  stroke(before, before);
};
paper.onpointermove = (event) => {
  if (before === null) return;
  const now = place(event);
  stroke(before, now);
  before = now;
};
paper.onpointerup = paper.onpointercancel = () => (before = null);
$("undo").onclick = () => undo.length && pen.putImageData(undo.pop(), 0, 0);
$("clear").onclick = clear;
$("sketch").onclose = () => {
  if ($("sketch").returnValue === "play") paper.toBlob((content) => whenDone(content));
  $("sketch").returnValue = "";
};
