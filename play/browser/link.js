// The page's connection to the server: a WebSocket. A static site has a link.js of its own.

// receive: called with each message; closed: called with code and reason at the end.
export function openLink(receive, closed) {
  // Relative to the page, whatever path a proxy serves it at.
  const address = new URL("play", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => receive(data);
  socket.onclose = ({ code, reason }) => closed(code, reason);
  const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(message);
  return { send };
}
