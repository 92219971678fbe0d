// Files to pictures, and played frames to files. A picture is RGB, row by row.
import { GIFEncoder, applyPalette, quantize } from "./runtime/gifenc.esm.js";

const FILE_SIDE = 256; // about the longer side of a saved picture
const STRIP_PICTURES = 12;
const GIF_SHORTEST = 2; // hundredths of a second; browsers slow down shorter frames
const FINER = 4; // pictures that the page sends have this many times the world's sides

// --- reading -------------------------------------------------------------------------------

// The picture in a file, at the world's size: cropped, and averaged as genie/fitting.py does.
export async function readPicture(blob, width, height) {
  const image = await createImageBitmap(blob).catch(() => {
    throw new Error("this browser cannot read that as an image: a static site takes images, but no videos");
  });
  if (image.width === width && image.height === height) return pixelsOf(image, width, height);
  const fine = pixelsOf(image, width * FINER, height * FINER);
  return turned(reduced(turned(reduced(fine, width), width, height * FINER), height), height, width);
}

// The pixels of an image that is enlarged or reduced until it covers the shape.
function pixelsOf(image, width, height) {
  const scale = Math.max(width / image.width, height / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = scale < 1;
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  return pen.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 !== 3);
}

// Averages pixels along rows, which become `width` long, with Pillow's Hamming filter.
function reduced(rgb, width) {
  const offsets = Array.from({ length: 2 * FINER }, (_, i) => i - FINER + 0.5);
  const weights = offsets.map((offset) => {
    const x = (Math.PI * offset) / FINER;
    return (Math.sin(x) / x) * (0.54 + 0.46 * Math.cos(x));
  });
  const wide = width * FINER;
  return Uint8ClampedArray.from({ length: rgb.length / FINER }, (_, i) => {
    const [row, x, channel] = [Math.floor(i / 3 / width), Math.floor(i / 3) % width, i % 3];
    let [sum, total] = [0, 0];
    weights.forEach((weight, k) => {
      const from = x * FINER + k - FINER / 2;
      if (from < 0 || from >= wide) return;
      sum += weight * rgb[3 * (row * wide + from) + channel];
      total += weight;
    });
    return sum / total;
  });
}

// A picture with rows and columns exchanged. width, height: its own.
function turned(rgb, width, height) {
  return rgb.map((_, i) => {
    const [x, y] = [Math.floor(i / 3 / height), Math.floor(i / 3) % height];
    return rgb[3 * (y * width + x) + (i % 3)];
  });
}

// --- writing -------------------------------------------------------------------------------

export async function writeGif(frames, info) {
  const { width, height, fps } = info;
  const scale = scaleOf(info);
  const gif = GIFEncoder();
  for (const [number, delay] of gifTimes(frames.length, fps)) {
    const rgba = withAlpha(frames[number]);
    const palette = quantize(rgba, 256);
    const small = applyPalette(rgba, palette);
    const large = enlarged(small, width, scale);
    gif.writeFrame(large, width * scale, height * scale, { palette, delay });
    await new Promise((resolve) => setTimeout(resolve)); // the play goes on meanwhile
  }
  gif.finish();
  return gif.bytes();
}

// Which frames a GIF shows, and for how many ms: its clock counts hundredths of a second.
function* gifTimes(count, fps) {
  const begins = (number) => Math.round((100 * number) / fps);
  for (let number = 0, next; number < count; number = next) {
    next = number + 1;
    while (next < count && begins(next) - begins(number) < GIF_SHORTEST) next++;
    yield [number, 10 * Math.max(begins(next) - begins(number), GIF_SHORTEST)];
  }
}

// A film strip: up to twelve frames side by side, evenly spread over all.
export async function writeStrip(frames, info) {
  const count = Math.min(frames.length, STRIP_PICTURES);
  const [width, height] = [info.width * scaleOf(info), info.height * scaleOf(info)];
  const canvas = new OffscreenCanvas(width * count, height);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  for (let i = 0; i < count; i++) {
    const frame = frames[Math.round((i * (frames.length - 1)) / Math.max(count - 1, 1))];
    const picture = new ImageData(withAlpha(frame), info.width, info.height);
    pen.drawImage(await createImageBitmap(picture), i * width, 0, width, height);
  }
  return new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
}

// A file for `python -m play --replay`, see play/recording.py.
export async function writeRecording(player) {
  const { info, picture, seed, playthrough } = player;
  const { actions, used } = playthrough; // as of now: the play continues while this waits
  const digests = await Promise.all(playthrough.digests);
  if (digests.includes(null)) throw new Error("a recording needs a page that is served by https");
  const settings = used
    .map(({ steps, temperature }, number) => [number, [steps, temperature]])
    .filter(([, now], number, runs) => number === 0 || String(now) !== String(runs[number - 1][1]));
  const values = {
    world: info.world,
    fingerprint: info.fingerprint,
    seed: "SEED",
    settings,
    fps: info.fps,
    actions,
    digests,
    engine: "onnxruntime-web",
    version: 2,
    prompt: { shape: [1, info.height, info.width, 3], pixels: await compressed(picture) },
  };
  // A seed may be larger than the numbers that JavaScript writes.
  return new TextEncoder().encode(`${JSON.stringify(values).replace('"SEED"', seed)}\n`);
}

async function compressed(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  return btoa(Array.from(packed, (byte) => String.fromCharCode(byte)).join(""));
}

function scaleOf({ width, height }) {
  return Math.max(1, Math.floor(FILE_SIDE / Math.max(width, height)));
}

function withAlpha(rgb) {
  return Uint8ClampedArray.from({ length: (rgb.length / 3) * 4 }, (_, i) =>
    i % 4 === 3 ? 255 : rgb[3 * Math.floor(i / 4) + (i % 4)]);
}

// Numbers of colours, with every pixel as a square.
function enlarged(pixels, width, scale) {
  const wide = width * scale;
  return Uint8Array.from({ length: pixels.length * scale * scale }, (_, i) => {
    const [y, x] = [Math.floor(i / wide), i % wide];
    return pixels[Math.floor(y / scale) * width + Math.floor(x / scale)];
  });
}
