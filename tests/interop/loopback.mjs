// Has whatever the program listens on be a free port of the loopback, and prints its URL.
// usage: node --import ./loopback.mjs PROGRAM

import net from "node:net";

const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (...asked) {
  this.once("listening", () => console.log(`http://127.0.0.1:${this.address().port}`));
  return listen.call(this, 0, "127.0.0.1", ...asked.filter((it) => typeof it === "function"));
};
