// Every other way to listen, side by side: each shows what it gets of the channel named above.

(() => {
  const RETRY_MS = 1000;
  const body = document.getElementById("transports");
  const channelName = () => document.getElementById("channel").value.trim();

  // Each opens a way to listen and gives a function that ends it. `got` takes a message; `position()` is the last one.
  const ways = {
    sse: {
      title: "GET /sse",
      open(query, got) {
        const events = new EventSource(`/sse?${query}`);
        events.onmessage = (event) => got({ ...JSON.parse(event.data), position: event.lastEventId });
        for (const name of ["ready", "reset", "disconnect"]) {
          events.addEventListener(name, (event) => got(JSON.parse(event.data)));
        }
        events.onerror = () => got({ state: events.readyState === EventSource.CLOSED ? "refused" : "coming back" });
        return () => events.close();
      },
    },
    poll: {
      title: "GET /poll",
      open: (query, got) => loop(async (signal, position) => {
        const response = await fetch(`/poll?${query}${position()}`, { signal });
        if (!response.ok) throw new Error((await response.json()).title);
        const answer = await response.json();
        for (const message of answer.messages) got(message);
        if (answer.reset) got({ reset: answer.reset.join(", ") });
        got({ position: answer.position, state: "asking" });
      }, got),
    },
    stream: {
      title: "GET /stream",
      open: (query, got) => loop(async (signal, position) => {
        const response = await fetch(`/stream?${query}${position()}`, { signal });
        if (!response.ok) throw new Error((await response.json()).title);
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let rest = ""; ;) {
          const { value, done } = await reader.read();
          if (done) break;
          const lines = (rest + value).split("\n");
          rest = lines.pop();
          for (const line of lines) if (line) got(JSON.parse(line));
        }
      }, got),
    },
    ws: {
      title: "GET /ws",
      open: (query, got) => loop((signal, position) => new Promise((resolve, reject) => {
        const url = new URL(`/ws?${query}${position()}`, location.href);
        url.protocol = url.protocol.replace("http", "ws");
        const socket = new WebSocket(url);
        socket.onmessage = (event) => got(JSON.parse(event.data));
        socket.onclose = (event) => reject(new Error(`closed ${event.code}`));
        signal.addEventListener("abort", () => { socket.close(); resolve(); });
      }), got),
    },
    iframe: {
      title: "GET /stream?callback=",
      open(query, got) {
        window.onTrunklineMessage = got;
        const frame = document.createElement("iframe");
        frame.hidden = true;
        frame.src = `/stream?${query}&callback=onTrunklineMessage`;
        document.body.append(frame);
        return () => frame.remove();
      },
    },
  };

  // Asks again and again, from the last position, until it is ended.
  function loop(ask, got) {
    const ending = new AbortController();
    const { signal } = ending;
    (async () => {
      while (!signal.aborted) {
        try {
          await ask(signal, () => (got.position ? `&position=${encodeURIComponent(got.position)}` : ""));
        } catch (error) {
          if (signal.aborted) return;
          got({ state: error.message });
          await new Promise((done) => setTimeout(done, RETRY_MS));
        }
      }
    })();
    return () => ending.abort();
  }

  function row(name, way) {
    const line = document.createElement("tr");
    line.dataset.transport = name;
    const cell = (className) => {
      const made = document.createElement("td");
      made.className = className;
      line.append(made);
      return made;
    };
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    cell("switch").append(button);
    const title = document.createElement("code");
    title.textContent = way.title;
    cell("way").append(title);
    const [count, state, last] = [cell("number"), cell("state"), cell("last")];
    let end = null;
    let messages = 0;
    const show = (on) => {
      button.textContent = on ? "Stop" : "Start";
      button.setAttribute("aria-label", `${on ? "Stop" : "Start"} ${way.title}`);
      line.dataset.on = on;
    };
    const start = () => {
      messages = 0;
      count.textContent = "0";
      last.textContent = "";
      state.textContent = "connecting";
      const got = (message) => {
        if (message.position) got.position = message.position;
        if (message.ready) state.textContent = "ready";
        if (message.state) state.textContent = message.state;
        if (message.reset) state.textContent = `reset: ${message.reset}`;
        if (message.disconnect) state.textContent = `${message.disconnect.code} ${message.disconnect.reason}`;
        if (message.channel === undefined) return;
        messages += 1;
        count.textContent = messages;
        last.textContent = JSON.stringify(message.data);
        line.dataset.offset = message.offset ?? "";
      };
      end = way.open(new URLSearchParams({ channel: channelName() }), got);
      show(true);
    };
    const stop = () => {
      end();
      end = null;
      state.textContent = "stopped";
      show(false);
    };
    button.onclick = () => (end ? stop() : start());
    state.textContent = "off";
    show(false);
    return { line, toggle: (on) => { if (Boolean(end) !== on) button.click(); } };
  }

  const rows = Object.entries(ways).map(([name, way]) => row(name, way));
  body.append(...rows.map(({ line }) => line));
  document.getElementById("transports-start").onclick = () => rows.forEach(({ toggle }) => toggle(true));
  document.getElementById("transports-stop").onclick = () => rows.forEach(({ toggle }) => toggle(false));
})();
