// Calls of an RPC peer over a WebSocket, written by Teleport's format alone: rpc_websocket.js URL
"use strict";
const assert = require("assert");
const WebSocket = require("ws");

const [url] = process.argv.slice(2);
const [CALL, REPLY, PUSH] = [1, 2, 3];

function message(seq, mtype, uri, body, meta = "") {
  return JSON.stringify({ seq, mtype, uri, meta, body_codec: 106, body, xfer_pipe: [] });
}

async function main() {
  const peer = new WebSocket(url);
  const waiting = new Map();
  const pushes = [];
  peer.on("message", (data, binary) => {
    assert(binary);
    const got = JSON.parse(data);
    if (got.mtype === CALL) return peer.send(Buffer.from(message(got.seq, REPLY, "", JSON.stringify("node"))));
    if (got.mtype === PUSH) return pushes.push([got.uri, JSON.parse(got.body)]);
    waiting.get(got.seq)(got);
  });
  await new Promise((resolve) => peer.on("open", resolve));
  let next = 0;
  const call = (uri, argument) => {
    const seq = `n${next++}`;
    const reply = new Promise((resolve) => waiting.set(seq, resolve));
    peer.send(message(seq, CALL, uri, JSON.stringify(argument)));
    return reply;
  };
  const all = await Promise.all([...Array(200).keys()].map((n) => call("/math/add", [n, 1])));
  assert.deepStrictEqual(all.map(({ body }) => Number(body)), [...Array(200).keys()].map((n) => n + 1));
  const text = "\\ \" \n é € 😀".repeat(1000);
  assert.strictEqual(JSON.parse((await call("/echo", text)).body), text);
  const status = new URLSearchParams((await call("/nowhere", 1)).meta).get("X-Reply-Error");
  assert.strictEqual(JSON.parse(status).code, 404);
  assert.strictEqual(JSON.parse((await call("/greet", "hello")).body), "hello, node");
  peer.send(message("p", PUSH, "/note", JSON.stringify("back")));
  await call("/math/add", [1]);
  assert.deepStrictEqual(pushes, [["/noted", "back"]]);
  const closed = new Promise((resolve) => peer.on("close", resolve));
  peer.close(1000);
  assert.strictEqual(await closed, 1000);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
