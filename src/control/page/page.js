"use strict";
// A small client of the Centrifuge JSON protocol, and the page around it.

const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 20000;
const REPLY_TIMEOUT_MS = 5000;
// How much later than promised a ping may come before the line is taken for dead.
const PING_GRACE_MS = 10000;
const ROWS_MAX = 500;
const EVENTS_MAX = 100;

class Client {
  // on: {state(name, detail), subscribed(channel, result), push(channel, push), gone(channel, why), note(text)}
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.subs = new Map();
    this.calls = new Map();
    this.lastId = 0;
    this.attempts = 0;
    this.socket = null;
    this.ready = false;
    this.timer = 0;
  }

  connect() {
    clearTimeout(this.timer);
    if (this.socket) return;
    this.on.state("connecting", "");
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onopen = () => this.greet(socket);
    socket.onmessage = (event) => this.receive(socket, event.data);
    socket.onclose = (event) => this.lost(socket, event.code, event.reason);
  }

  // Drops the line without a word to the server and stays away: 0 seconds means until connect() is called.
  cut(seconds) {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.forget();
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.on.state("cut", seconds > 0 ? `back in ${seconds} s` : "until Reconnect is pressed");
    if (seconds > 0) this.timer = setTimeout(() => this.connect(), seconds * 1000);
  }

  subscribe(channel) {
    if (!this.subs.has(channel)) this.subs.set(channel, { offset: 0, epoch: "", recoverable: false });
    return this.ready ? this.join(channel) : Promise.resolve();
  }

  unsubscribe(channel) {
    this.subs.delete(channel);
    return this.ready ? this.call({ unsubscribe: { channel } }) : Promise.resolve();
  }

  publish(channel, data) { return this.call({ publish: { channel, data } }); }

  presence(channel) { return this.call({ presence: { channel } }); }

  // Sends one command and gives its result, or throws the server's error.
  call(command) {
    if (!this.socket || this.socket.readyState !== WebSocket.OPEN) return Promise.reject(new Error("not connected"));
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.settle({ id, error: { code: 0, message: "(no answer in time)" } }), REPLY_TIMEOUT_MS);
      this.calls.set(id, { name: Object.keys(command)[0], resolve, reject, timer });
      this.socket.send(JSON.stringify({ id, ...command }));
    });
  }

  async greet(socket) {
    try {
      const result = await this.call({ connect: { name: "trunkline-page" } });
      if (socket !== this.socket) return;
      this.ready = true;
      this.attempts = 0;
      this.silenceMax = result.ping ? result.ping * 1000 + PING_GRACE_MS : 0;
      this.watch();
      this.on.state("connected", `ping every ${result.ping || "?"} s`, result.client);
      for (const channel of this.subs.keys()) this.join(channel).catch((error) => this.on.gone(channel, error.message));
    } catch (error) {
      if (socket === this.socket) { this.on.note(`connect: ${error.message}`); socket.close(); }
    }
  }

  async join(channel) {
    const sub = this.subs.get(channel);
    const ask = { channel, positioned: true, recoverable: true, join_leave: true };
    if (sub.recoverable) Object.assign(ask, { recover: true, offset: sub.offset, epoch: sub.epoch });
    try {
      const result = await this.call({ subscribe: ask });
      if (this.subs.get(channel) !== sub) return;
      sub.recoverable = Boolean(result.recoverable);
      sub.epoch = result.epoch || "";
      sub.offset = result.offset || 0;
      this.on.subscribed(channel, result);
      for (const pub of result.publications || []) this.deliver(channel, { pub }, true);
    } catch (error) {
      // 105: already subscribed, so all is well. A lost line keeps the subscription for the next one.
      if (error.code && error.code !== 105) this.subs.delete(channel);
      throw error;
    }
  }

  receive(socket, text) {
    if (socket !== this.socket) return;
    this.watch();
    for (const line of text.split("\n")) {
      if (!line) continue;
      const message = JSON.parse(line);
      if (message.id) this.settle(message);
      else if (message.push) this.pushed(message.push);
      else socket.send("{}");
    }
  }

  pushed(push) {
    const channel = push.channel || "";
    if (push.disconnect) this.on.note(`disconnect ${push.disconnect.code} ${push.disconnect.reason}`);
    else if (push.unsubscribe) this.thrownOut(channel, push.unsubscribe);
    else this.deliver(channel, push, false);
  }

  deliver(channel, push, recovered) {
    const sub = this.subs.get(channel);
    if (sub && push.pub && push.pub.offset) sub.offset = push.pub.offset;
    this.on.push(channel, push, recovered, sub ? sub.epoch : "");
  }

  thrownOut(channel, { code = 0, reason = "" }) {
    this.on.note(`unsubscribed from ${channel}: ${code} ${reason}`);
    if (code < 2500 || !this.subs.has(channel)) {
      this.subs.delete(channel);
      this.on.gone(channel, "");
      return;
    }
    const again = () => this.ready && this.subs.has(channel) && this.join(channel).catch((error) => this.on.gone(channel, error.message));
    setTimeout(again, this.pause());
  }

  settle({ id, error, ...body }) {
    const call = this.calls.get(id);
    if (!call) return;
    this.calls.delete(id);
    clearTimeout(call.timer);
    if (error) call.reject(Object.assign(new Error(`${error.code} ${error.message}`), { code: error.code }));
    else call.resolve(body[call.name] || {});
  }

  // Any arrival proves that the line lives.
  watch() {
    clearTimeout(this.silence);
    if (!this.ready || !this.silenceMax) return;
    const socket = this.socket;
    this.silence = setTimeout(() => { socket.onclose = null; socket.close(); this.lost(socket, 0, "no ping"); }, this.silenceMax);
  }

  lost(socket, code, reason) {
    if (socket !== this.socket) return;
    this.forget();
    const why = [code || "", reason].join(" ").trim();
    const terminal = (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000) || code === 1009;
    if (terminal) return this.on.state("closed", why);
    const wait = this.pause();
    this.on.state("connecting", `${why}; again in ${(wait / 1000).toFixed(1)} s`);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  forget() {
    clearTimeout(this.silence);
    this.socket = null;
    this.ready = false;
    for (const { reject, timer } of this.calls.values()) { clearTimeout(timer); reject(new Error("the line was lost")); }
    this.calls.clear();
  }

  // Full jitter: clients that lost the same server do not come back together.
  pause() {
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.attempts++);
    return Math.round(BACKOFF_MIN_MS / 2 + Math.random() * ceiling);
  }
}

const element = (id) => document.getElementById(id);
const config = JSON.parse(element("config").textContent);
const secure = location.protocol === "https:";
const socketUrl = `${secure ? "wss" : "ws"}://${location.host}/connection/websocket`;
const apiUrl = config.api_port ? `http://${location.hostname}:${config.api_port}` : location.origin;
// Stamps that this page sent: a latency is measured on one clock or not at all.
const stamps = new Set();
let arrivals = 0;

const now = () => Math.round((performance.timeOrigin + performance.now()) * 10) / 10;
const clock = () => new Date().toTimeString().slice(0, 8);
const channelName = () => element("channel").value;

function note(text) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = clock();
  item.append(time, text);
  element("events").prepend(item);
  while (element("events").childElementCount > EVENTS_MAX) element("events").lastElementChild.remove();
}

function showFacts() {
  const sub = client.subs.get(channelName());
  element("subscriptions").textContent = [...client.subs.keys()].join(", ") || "-";
  element("offset").textContent = sub ? sub.offset : "-";
  element("epoch").textContent = (sub && sub.epoch) || "-";
  if (!sub) element("presence").textContent = "-";
}

const client = new Client(socketUrl, {
  state(name, detail, id) {
    element("state").textContent = name;
    element("state").dataset.state = name;
    element("detail").textContent = detail;
    element("client").textContent = id || "-";
    note([name, detail].filter(Boolean).join(": "));
    showFacts();
  },
  subscribed(channel, result) {
    const count = (result.publications || []).length;
    if (result.was_recovering) {
      const text = result.recovered ? `${count} recovered` : "not recovered: the log does not reach back";
      element("recovered").textContent = text;
      element("recovered").dataset.recovered = String(Boolean(result.recovered));
      element("recovered").dataset.count = String(count);
      note(`${channel}: ${text}`);
    } else {
      note(`subscribed to ${channel}`);
    }
    showFacts();
    askPresence(channel);
  },
  push(channel, push, recovered, epoch) {
    const kind = Object.keys(push).find((key) => key !== "channel") || "push";
    addRow(channel, kind, push[kind] || {}, recovered, epoch);
    showFacts();
    if (kind === "join" || kind === "leave") askPresence(channel);
  },
  gone(channel, why) {
    if (why) note(`${channel}: ${why}`);
    showFacts();
  },
  note,
});

function addRow(channel, kind, body, recovered, epoch) {
  const row = document.createElement("tr");
  Object.assign(row.dataset, { channel, kind, recovered: String(recovered) });
  if (body.offset) row.dataset.offset = body.offset;
  const info = body.info ? `${body.info.user || "anonymous"} ${body.info.client || ""}` : "";
  const data = kind === "pub" || kind === "message" ? JSON.stringify(body.data) : info || JSON.stringify(body);
  const what = { pub: recovered ? "recovered" : "publication" }[kind] || kind;
  const latency = kind === "pub" && !recovered ? latencyOf(body.data) : "";
  const cells = [clock(), channel, body.offset || "", kind === "pub" ? epoch : "", what, data, latency];
  cells.forEach((text, at) => {
    const cell = document.createElement("td");
    cell.textContent = text;
    if (at === 2 || at === 6) cell.className = "number";
    if (at === 5) cell.className = "data";
    row.append(cell);
  });
  if (latency) element("latency").textContent = latency;
  element("messages").prepend(row);
  while (element("messages").childElementCount > ROWS_MAX) element("messages").lastElementChild.remove();
  arrivals += 1;
  element("count").textContent = arrivals;
  element("empty").hidden = true;
}

function latencyOf(data) {
  if (!data || typeof data !== "object" || !stamps.delete(data.sent)) return "";
  return `${Math.max(0, now() - data.sent).toFixed(1)} ms`;
}

// Many may join at once: one request a moment is enough.
let presenceTimer = 0;
function askPresence(channel) {
  clearTimeout(presenceTimer);
  presenceTimer = setTimeout(async () => {
    try {
      const { presence = {} } = await client.presence(channel);
      if (channel !== channelName()) return;
      element("presence").textContent = Object.keys(presence).length;
      element("presence").title = Object.values(presence).map((info) => info.user || "anonymous").join(", ");
    } catch (error) {
      if (error.code) element("presence").textContent = error.message;
    }
  }, 150);
}

// What would be published; throws when the text is no JSON.
function payload() {
  const data = JSON.parse(element("data").value);
  if (element("stamp").checked && data && typeof data === "object" && !Array.isArray(data)) {
    data.sent = now();
    stamps.add(data.sent);
    if (stamps.size > ROWS_MAX) stamps.delete(stamps.values().next().value);
  }
  return data;
}

async function attempt(what, action) {
  try {
    await action();
  } catch (error) {
    note(`${what}: ${error.message}`);
  }
}

function publish() {
  let data;
  try {
    data = payload();
  } catch (error) {
    element("data-error").textContent = `Not JSON: ${error.message}`;
    return;
  }
  const channel = channelName();
  attempt(`publish to ${channel}`, async () => {
    await client.publish(channel, data);
    if (!client.subs.has(channel)) note(`published to ${channel}; subscribe to see it arrive`);
  });
}

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function showExamples() {
  const channel = channelName();
  let data = "{}";
  try {
    data = JSON.stringify(JSON.parse(element("data").value));
    element("data-error").textContent = "";
  } catch (error) {
    element("data-error").textContent = `Not JSON: ${error.message}`;
  }
  const body = `{"channel":${JSON.stringify(channel)},"data":${data}}`;
  const key = config.key ? shellQuote(`X-API-Key: ${config.key}`) : '"X-API-Key: $TRUNKLINE_API_KEY"';
  element("curl").textContent = `curl ${apiUrl}/api/publish -H ${key} -d ${shellQuote(body)}`;
  element("snippet").textContent = [
    "import { Centrifuge } from 'centrifuge';",
    "",
    `const client = new Centrifuge(${JSON.stringify(socketUrl)});`,
    `const sub = client.newSubscription(${JSON.stringify(channel)}, {`,
    "  positioned: true, recoverable: true,",
    "});",
    "sub.on('publication', ({ offset, data }) => console.log(offset, data));",
    "sub.subscribe();",
    "client.connect();",
  ].join("\n");
}

async function copy(button) {
  const source = element(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    // Outside of a secure context there is no clipboard: the text is selected for the keyboard.
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

element("form").addEventListener("submit", (event) => event.preventDefault());
element("subscribe").addEventListener("click", () => {
  const channel = channelName();
  attempt(`subscribe to ${channel}`, () => client.subscribe(channel)).then(showFacts);
});
element("unsubscribe").addEventListener("click", () => {
  const channel = channelName();
  if (!client.subs.has(channel)) return note(`not subscribed to ${channel}`);
  attempt(`unsubscribe from ${channel}`, () => client.unsubscribe(channel));
  note(`unsubscribed from ${channel}`);
  showFacts();
});
element("publish").addEventListener("click", publish);
element("cut").addEventListener("click", () => client.cut(Math.max(0, Number(element("cut-seconds").value) || 0)));
element("reconnect").addEventListener("click", () => {
  client.attempts = 0;
  client.connect();
});
element("clear").addEventListener("click", () => {
  element("messages").replaceChildren();
  arrivals = 0;
  element("count").textContent = 0;
  element("empty").hidden = false;
});
element("channel").addEventListener("input", () => { showExamples(); showFacts(); });
element("data").addEventListener("input", showExamples);
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));

showExamples();
client.connect();
