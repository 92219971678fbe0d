// The page's connection on a static site: a worker of its own takes the place of the server.

const MOST_MS = 3000; // to wait for threads before the world starts without them

export function openLink(receive) {
  let worker = null;
  const send = (message) => worker?.postMessage(message);
  const say = (text) => receive(JSON.stringify({ is: "notice", text, stays: true }));
  say("Loading the world ...");
  isolate().then(() => {
    worker = new Worker(new URL(`worker.js${location.search}`, import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => receive(data);
    worker.onerror = () => say("The world cannot be played in this browser.");
    look();
  });
  // A world that nobody looks at would only warm the machine.
  const look = () => send(JSON.stringify({ do: "look", on: !document.hidden }));
  document.addEventListener("visibilitychange", look);
  return { send };
}

// Threads need an isolated page: a service worker makes it one, from the next load on.
async function isolate() {
  const isSecondTry = sessionStorage.getItem("genie-isolated");
  sessionStorage.removeItem("genie-isolated");
  if (crossOriginIsolated || isSecondTry || !navigator.serviceWorker) return;
  const isolating = navigator.serviceWorker
    .register(new URL("isolate.js", import.meta.url))
    .then(() => navigator.serviceWorker.ready);
  const tooLong = new Promise((resolve) => setTimeout(resolve, MOST_MS));
  const isReady = await Promise.race([isolating, tooLong]).catch(() => null);
  if (!isReady) return; // one thread will do
  sessionStorage.setItem("genie-isolated", "tried");
  location.reload();
  await new Promise(() => {}); // until this page is gone
}

// What only a server of ours can do.
document.querySelector("[data-save=mp4]").hidden = true;
document.getElementById("file").accept = "image/*";
document.getElementById("sources").textContent =
  "an image; or paste one, or drop it anywhere on this page. Videos as a start, and MP4, need the program itself";
