// Unidirectional clients, as the docs tell people to write them. Runs in node and, as text, in a browser.

/** A loop of polls. Calls `show` with each message; ends with `stop()`. */
export function pollLoop(base, query, show, reset) {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const state = { stopped: false, position: undefined };
  (async () => {
    while (!state.stopped) {
      const params = new URLSearchParams(query);
      if (state.position) params.set('position', state.position);
      try {
        const response = await fetch(`${base}/poll?${params}`);
        if (!response.ok) throw new Error(`status ${response.status}`);
        const answer = await response.json();
        if (answer.reset) reset(answer.reset);
        for (const message of answer.messages) show(message);
        state.position = answer.position;
      } catch {
        await pause(100);
      }
    }
  })();
  return { stop: () => { state.stopped = true; } };
}

/** Streamed lines, fetched again with the last position whenever the stream ends. */
export function lineLoop(base, query, show, reset) {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const state = { stopped: false, position: undefined, ready: 0 };
  (async () => {
    while (!state.stopped) {
      const params = new URLSearchParams(query);
      if (state.position) params.set('position', state.position);
      try {
        const response = await fetch(`${base}/stream?${params}`);
        if (!response.ok) throw new Error(`status ${response.status}`);
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = '';
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          const lines = (rest + value).split('\n');
          rest = lines.pop();
          for (const line of lines.filter(Boolean)) {
            const message = JSON.parse(line);
            if (message.position) state.position = message.position;
            if (message.ready) state.ready += 1;
            if (message.reset) reset(message.reset);
            if (message.channel) show(message);
          }
        }
      } catch {
        // Cut: again, from the last position.
      }
      await pause(100);
    }
  })();
  return { stop: () => { state.stopped = true; }, state };
}

/** Plain WebSocket, opened again with the last position. */
export function socketLoop(base, query, show, reset) {
  const state = { stopped: false, position: undefined, socket: undefined };
  const open = () => {
    if (state.stopped) return;
    const params = new URLSearchParams(query);
    if (state.position) params.set('position', state.position);
    const socket = (state.socket = new WebSocket(`${base.replace('http', 'ws')}/ws?${params}`));
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.position) state.position = message.position;
      if (message.reset) reset(message.reset);
      if (message.channel) show(message);
    };
    socket.onclose = () => setTimeout(open, 100);
  };
  open();
  return { stop: () => { state.stopped = true; state.socket?.close(); } };
}
