// Charts over the last minutes: drawn by uPlot, with a legend that says the newest values, and in words for those who do not see
// them.

import { clock } from './figures.js';
import { make, setText, shown } from './page.js';

/** Points of a chart: five minutes at one each two seconds. */
const POINTS_MAX = 150;
/** Lines of a chart: more cannot be told apart. */
const LINES_MAX = 8;
const HEIGHT = 160;
/** Ticks of an axis of bytes: powers of two. */
const BINARY = Array.from({ length: 48 }, (_, at) => 2 ** at);
/** Beside their colour, lines differ by how they are dashed. */
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [12, 4], [1, 4], [6, 2, 1, 2]];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  /** `write` makes a value's text. */
  constructor(title, write, { binary = false } = {}) {
    this.binary = binary;
    this.title = title;
    this.write = write;
    this.times = [];
    this.series = new Map();
    this.plot = null;
    this.picture = make('div', { className: 'picture', role: 'img', 'aria-label': `${title}: no values yet` });
    this.legend = make('ul', { className: 'legend', 'aria-hidden': 'true' });
    this.node = make('figure', { className: 'card chart' }, make('figcaption', { text: title }), this.picture, this.legend);
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.picture);
  }

  /** Values of one moment by name; `null` leaves a gap. */
  push(ms, values) {
    const fresh = Object.keys(values).filter((name) => !this.series.has(name));
    for (const name of fresh.slice(0, LINES_MAX - this.series.size)) {
      this.series.set(name, this.times.map(() => null));
    }
    this.times.push(ms / 1000);
    for (const [name, points] of this.series) points.push(values[name] ?? null);
    if (this.times.length > POINTS_MAX) {
      this.times.shift();
      for (const points of this.series.values()) points.shift();
    }
    if (fresh.length > 0 || !this.plot) this.build();
    else this.plot.setData(this.data(), true);
    this.tell();
  }

  data() {
    return [this.times, ...this.series.values()];
  }

  /** Made again where lines came, or colours changed. */
  build() {
    this.plot?.destroy();
    const soft = colour('--soft');
    const line = colour('--line');
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: '11px system-ui, sans-serif' };
    const names = [...this.series.keys()];
    const options = {
      width: this.width(),
      height: HEIGHT,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 5 } },
      scales: {
        // From the points: of a single one the library would make a day.
        x: { range: () => [Math.min(this.times[0], this.times[this.times.length - 1] - 60), this.times[this.times.length - 1]] },
        y: { range: (_, least, most) => [0, most > 0 ? most * 1.1 : 1] },
      },
      axes: [
        { ...axis, space: 70, size: 32, values: (_, splits) => splits.map((at) => clock(at * 1000)) },
        { ...axis, size: 62, ...(this.binary ? { incrs: BINARY } : {}), values: (_, splits) => splits.map((value) => this.write(value)) },
      ],
      series: [{}, ...names.map((name, at) => ({
        label: name, stroke: colour(`--line-${at + 1}`), width: 2, dash: DASHES[at], points: { show: false }, spanGaps: false,
      }))],
      hooks: { setCursor: [() => this.tell()] },
    };
    this.plot = new window.uPlot(options, this.data(), this.picture);
    this.legend.replaceChildren(...names.map((name, at) => {
      const swatch = make('i', { className: `swatch line-${at + 1}` });
      return make('li', {}, swatch, make('span', { text: shown(name) }), make('b'));
    }));
  }

  width() {
    return Math.max(160, Math.floor(this.picture.clientWidth));
  }

  resize() {
    if (this.plot && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: HEIGHT });
  }

  /** The legend: of the moment that is pointed at, or the newest. In words: the newest, the least and the most. */
  tell() {
    if (this.times.length === 0) return;
    const at = this.plot?.cursor.idx ?? this.times.length - 1;
    const said = [];
    [...this.series].forEach(([name, points], place) => {
      const value = points[at] ?? null;
      const entry = this.legend.children[place];
      if (entry) setText(entry.lastElementChild, value === null ? '–' : this.write(value));
      const known = points.filter((point) => point !== null);
      if (known.length === 0) return;
      const newest = known[known.length - 1];
      said.push(`${shown(name)} ${this.write(newest)}, from ${this.write(Math.min(...known))} to ${this.write(Math.max(...known))}`);
    });
    const from = clock(this.times[0] * 1000);
    const label = `${this.title} since ${from}: ${said.join('; ') || 'no values'}`;
    if (this.picture.getAttribute('aria-label') !== label) this.picture.setAttribute('aria-label', label);
  }
}
