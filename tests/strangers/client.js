// A check of a WebSocket echo server by the npm package ws: client.js URL CHECK
"use strict";
const assert = require("assert");
const crypto = require("crypto");
const WebSocket = require("ws");

const [url, check, ...more] = process.argv.slice(2);

function open(options = {}, protocols = [], path = "") {
  const peer = new WebSocket(url + path, protocols, { perMessageDeflate: false, maxPayload: 4 << 20, ...options });
  const inbox = [];
  let waiting = null;
  const take = (event) => (waiting ? waiting(event) : inbox.push(event));
  peer.on("message", (data, binary) => take({ data, binary }));
  peer.on("pong", (data) => take({ pong: data.toString("latin1") }));
  peer.on("close", (code, reason) => take({ code, reason: reason.toString() }));
  // What it means is said by the close that follows.
  peer.on("error", () => {});
  peer.next = () =>
    inbox.length > 0
      ? Promise.resolve(inbox.shift())
      : new Promise((resolve) => {
          waiting = (event) => {
            waiting = null;
            resolve(event);
          };
        });
  return new Promise((resolve, reject) => {
    peer.on("open", () => resolve(peer));
    peer.on("unexpected-response", (request, response) => {
      request.destroy();
      reject(response.statusCode);
    });
  });
}

async function comesBack(peer, message) {
  peer.send(message);
  await comes(peer, message);
}

async function comes(peer, message) {
  const { data, binary } = await peer.next();
  assert.strictEqual(binary, typeof message !== "string");
  assert(Buffer.from(message).equals(data), `${data}`.slice(0, 80));
}

async function ends(peer, code, reason) {
  const event = await peer.next();
  assert.strictEqual(event.code, code, JSON.stringify(event));
  assert(reason === undefined || event.reason === reason, event.reason);
}

const checks = {
  async echo() {
    const peer = await open();
    for (const message of ["hello", "", "zażółć gęślą jaźń €😀", Buffer.alloc(0), crypto.randomBytes(256)]) {
      await comesBack(peer, message);
    }
    for (const size of [125, 126, 127, 65535, 65536]) {
      await comesBack(peer, crypto.randomBytes(size));
      await comesBack(peer, "x".repeat(size));
    }
    peer.close();
  },

  async large() {
    const peer = await open();
    await comesBack(peer, crypto.randomBytes(1 << 20));
    await comesBack(peer, "é".repeat(1 << 19));
    peer.close();
  },

  async fragments() {
    const peer = await open();
    peer.send("one ", { fin: false });
    // A control frame may come between fragments.
    peer.ping("between");
    peer.send("", { fin: false });
    peer.send("€ ", { fin: false });
    peer.send("three", { fin: true });
    // The pong may come before the message or behind it.
    const both = [await peer.next(), await peer.next()];
    assert(both.some(({ pong }) => pong === "between"));
    assert(both.some(({ data }) => data && data.toString() === "one € three"));
    // A character may be cut in two.
    peer.send(Buffer.from([0xe2, 0x82]), { binary: false, fin: false });
    peer.send(Buffer.from([0xac]), { fin: true });
    await comes(peer, "€");
    peer.close();
  },

  async pings() {
    const peer = await open();
    for (const payload of ["", "payload", "\0".repeat(125)]) {
      peer.ping(payload);
      assert.deepStrictEqual(await peer.next(), { pong: payload });
    }
    peer.close();
  },

  async pinged() {
    const peer = await open();
    peer.send("ping are you there?");
    await comes(peer, "pong are you there?");
    peer.close();
  },

  async close() {
    for (const [code, reason] of [[1000, ""], [1001, "leaving"], [3000, "é".repeat(61)], [4999, "x"]]) {
      const peer = await open();
      peer.close(code, reason);
      // The reason is not repeated.
      await ends(peer, code);
    }
    // Goodbye without a code.
    const peer = await open();
    peer.close();
    await ends(peer, 1005, "");
  },

  async closed() {
    for (const [code, reason] of [[1000, ""], [1011, "sorry"], [4001, "é".repeat(61)]]) {
      const peer = await open();
      peer.send(`close ${code} ${reason}`);
      await ends(peer, code, reason);
    }
  },

  async invalid() {
    const peer = await open();
    peer.send(Buffer.from([0xc3, 0x28]), { binary: false });
    await ends(peer, 1007);
  },

  async too_long() {
    const peer = await open();
    peer.send(Buffer.alloc(3 << 20));
    await ends(peer, 1009);
  },

  // What the server shall have agreed to, then what is offered.
  async deflate() {
    const [agreed, ...flags] = more;
    const options = { threshold: 0 };
    for (const flag of flags) {
      const [name, value] = flag.split("=");
      options[name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())] = value ? Number(value) : true;
    }
    let got = null;
    const opened = open({ perMessageDeflate: options, finishRequest: (request) => {
      request.on("upgrade", (response) => (got = response.headers["sec-websocket-extensions"] || "none"));
      request.end();
    } });
    const peer = await opened;
    assert.strictEqual(got, agreed);
    for (let round = 0; round < 3; round++) {
      await comesBack(peer, "over and over and ".repeat(500));
      await comesBack(peer, crypto.randomBytes(10000));
      await comesBack(peer, "");
      await comesBack(peer, "short");
      peer.send("in pieces ".repeat(100), { fin: false });
      peer.send("€".repeat(1000), { fin: true });
      await comes(peer, "in pieces ".repeat(100) + "€".repeat(1000));
    }
    peer.ping("not compressed");
    assert.deepStrictEqual(await peer.next(), { pong: "not compressed" });
    peer.close();
  },

  // More than the server takes, in few bytes.
  async bomb() {
    const peer = await open({ perMessageDeflate: { threshold: 0 } });
    peer.send(Buffer.alloc(64 << 20));
    await ends(peer, 1009);
  },

  async protocol() {
    for (const [offered, agreed] of [[["other", "echo.v1"], "echo.v1"], [[], ""]]) {
      const peer = await open({}, offered);
      assert.strictEqual(peer.protocol, agreed);
      await comesBack(peer, "hello");
      peer.close();
    }
  },

  async origin() {
    const peer = await open({ origin: "https://good.example" });
    await comesBack(peer, "hello");
    peer.close();
    const refusal = (opened) => opened.then(() => "let in", (status) => status);
    assert.strictEqual(await refusal(open({ origin: "https://evil.example" })), 403);
    assert.strictEqual(await refusal(open({}, [], "nothing")), 404);
  },
};

setTimeout(() => {
  console.error("out of time");
  process.exit(1);
}, 60000).unref();
checks[check]().catch((error) => {
  console.error(error);
  process.exit(1);
});
