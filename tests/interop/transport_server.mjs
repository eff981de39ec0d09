// An upstream with Node's own http module and the WebSocket server `ws`: a text, a stream of events and an echo.
// Prints its URL.

import { createServer } from "node:http";

import { WebSocketServer } from "ws";

const EVENTS = 3;
const PAUSE_MS = 150;

function events(answer) {
  answer.writeHead(200, { "Content-Type": "text/event-stream" });
  let sent = 0;
  const send = () => {
    answer.write(`event: tick\nid: ${sent}\ndata: ${sent}\n\n`);
    sent += 1;
    if (sent < EVENTS) setTimeout(send, PAUSE_MS);
    else answer.end();
  };
  send();
}

const server = createServer((request, answer) => {
  if (request.url.endsWith("/events")) events(answer);
  else answer.end(`${request.method} ${request.url}`);
});
const sockets = new WebSocketServer({ server });
sockets.on("connection", (socket) => socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })));
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
