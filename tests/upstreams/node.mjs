// An ordinary server with Node's own http module. It does not look at the method and reads no body.
// usage: node node.mjs LOG
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const log = process.argv[2];
const server = createServer((request, answer) => {
    appendFileSync(log, `${request.method}\t${request.url}\t${request.headers["x-payment-route"] ?? "-"}\n`);
    answer.end(`${request.method} ${request.url}`);
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
