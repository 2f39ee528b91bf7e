// The API as the page asks it: with the key of this tab, in the API's own field and nowhere else.

const PLACE = 'trunkline.key';
const TIMEOUT_MS = 10_000;

/** What the node answers instead of a result. `status` is 401 where the key is wrong. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// A browser that keeps nothing for pages still has this.
let key = '';
try {
  key = sessionStorage.getItem(PLACE) ?? '';
} catch { /* It asks again after a reload. */ }

export const hasKey = () => key !== '';

export function keep(shown) {
  key = shown;
  try {
    sessionStorage.setItem(PLACE, shown);
  } catch { /* As above. */ }
}

export function forget() {
  key = '';
  try {
    sessionStorage.removeItem(PLACE);
  } catch { /* It was never there. */ }
}

/** Bytes of UTF-8, one a character, as fields of HTTP are written. */
const field = (text) => String.fromCharCode(...new TextEncoder().encode(text));

function send(path, { method, body, signal, as = key } = {}) {
  return fetch(path, {
    method: method ?? (body === undefined ? 'GET' : 'POST'),
    body,
    signal,
    headers: { 'X-API-Key': field(as), ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
    cache: 'no-store',
    credentials: 'omit',
    redirect: 'error',
    referrerPolicy: 'no-referrer',
  });
}

async function refusal(response) {
  const text = await response.text();
  try {
    const { detail, title } = JSON.parse(text);
    return new Refused(response.status, `${response.status}: ${detail || title}`);
  } catch {
    return new Refused(response.status, `${response.status}: ${text.slice(0, 200) || response.statusText}`);
  }
}

/** The text of an answer. Rejects with `Refused`, or with what `fetch` rejects with. */
export async function text(path, options = {}) {
  const response = await send(path, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  if (!response.ok) throw await refusal(response);
  return response.text();
}

/** The object of an answer, the `result` of a method. */
export async function ask(path, options = {}) {
  const answer = JSON.parse(await text(path, options));
  if (answer.error) throw new Refused(200, `${answer.error.code}: ${answer.error.message}`);
  return answer.result ?? answer;
}

/** A method with its parameters. */
export const call = (method, parameters) => ask(`api/${method}`, { body: JSON.stringify(parameters) });

/** Calls `take` with each object of a stream of lines, until it ends or `signal` ends it. */
export async function lines(path, signal, opened, take) {
  const response = await send(path, { signal });
  if (!response.ok) throw await refusal(response);
  opened();
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split('\n');
    rest = parts.pop();
    take(parts.filter(Boolean).map((line) => JSON.parse(line)));
  }
}
