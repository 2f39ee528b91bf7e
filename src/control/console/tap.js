// A tap: what one peer or channel does, as it happens.

import { Refused, lines } from './api.js';
import { clock } from './figures.js';
import { element, make, name, shown } from './page.js';

const LINES_MAX = 500;
/** Shown by other means. */
const SAID = new Set(['time_ms', 'what', 'shard']);

export class Tap {
  /** `on`: `lost()`. */
  constructor(on) {
    this.on = on;
    this.target = null;
    this.running = null;
    element('tap-start').addEventListener('click', () => this.start());
    element('tap-stop').addEventListener('click', () => this.stop());
    element('tap-clear').addEventListener('click', () => element('tap-lines').replaceChildren());
    element('tap-payloads').addEventListener('change', () => this.running && this.start());
    this.buttons();
  }

  /** Shows it, and begins. */
  open(by, whom) {
    if (this.target?.join() !== [by, whom].join()) element('tap-lines').replaceChildren();
    this.target = [by, whom];
    element('tap').hidden = false;
    element('tap-title').replaceChildren(`Tap: ${by} `, name(whom));
    element('tap-title').focus();
    this.start();
  }

  buttons() {
    element('tap-start').disabled = this.running !== null;
    element('tap-stop').disabled = this.running === null;
  }

  say(text) {
    element('tap-state').textContent = text;
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.buttons();
  }

  async start() {
    this.stop();
    const running = new AbortController();
    this.running = running;
    this.buttons();
    this.say('starting');
    const [by, whom] = this.target;
    const query = new URLSearchParams({ [by]: whom });
    if (element('tap-payloads').checked) query.set('payloads', 'true');
    let why = 'The node has ended the tap.';
    try {
      await lines(`api/tap?${query}`, running.signal, () => this.say('running'), (all) => this.running === running && this.add(all));
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return void this.on.lost();
      why = error instanceof Refused ? `Refused: ${error.message}` : `The tap broke: ${error.message}`;
    }
    if (running.signal.aborted) {
      if (this.running === null) this.say('stopped');
      return undefined;
    }
    this.running = null;
    this.buttons();
    return this.say(why);
  }

  add(all) {
    const list = element('tap-lines');
    // Whoever reads further up is left there.
    const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(...all.slice(-LINES_MAX).map((line) => {
      const rest = Object.entries(line).filter(([key]) => !SAID.has(key)).map(([key, value]) => `${key} ${JSON.stringify(value)}`);
      return make('li', {},
        make('time', { text: clock(line.time_ms ?? Date.now()) }), ' ', make('b', { text: line.what }), ' ',
        make('bdi', { text: shown(rest.join('  ')) }));
    }));
    while (list.childElementCount > LINES_MAX) list.firstElementChild.remove();
    if (follows) list.scrollTop = list.scrollHeight;
  }
}
