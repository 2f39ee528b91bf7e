// Numbers: rates, quantiles, samples of /metrics, and how they are written. Pure.

/** What grew by how much a second; `null` where there is nothing to compare with. */
export function rate(before, now, key) {
  if (!before || before.uid !== now.uid) return null;
  const seconds = (now.time_ms - before.time_ms) / 1000;
  if (seconds <= 0) return null;
  return Math.max(0, ((now.totals[key] ?? 0) - (before.totals[key] ?? 0)) / seconds);
}

/** What came into the buckets since. */
export const since = (counts, before) => counts.map((count, at) => Math.max(0, count - (before?.[at] ?? 0)));

/** Milliseconds below which the share of all lies, as Prometheus reckons it; `null` without any. */
export function quantile(counts, boundsUs, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  const wanted = total * share;
  let sum = 0;
  for (const [at, count] of counts.entries()) {
    if (count > 0 && sum + count >= wanted) {
      const from = at === 0 ? 0 : boundsUs[at - 1];
      // Beyond the last bound no more is known.
      const to = boundsUs[at] ?? from;
      return (from + (to - from) * ((wanted - sum) / count)) / 1000;
    }
    sum += count;
  }
  return boundsUs[boundsUs.length - 1] / 1000;
}

/** Samples of the text format of Prometheus: `{name, labels, value}`. */
export function samples(text) {
  const found = [];
  for (const line of text.split('\n')) {
    const parts = line.match(/^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? '').matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
    }
    found.push({ name: parts[1], labels, value: Number(parts[3]) });
  }
  return found;
}

export function count(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1e5) return `${(value / 1e3).toFixed(0)} k`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : 2).replace(/\.?0+$/, '');
}

export function bytes(value) {
  if (value === null || value === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  let left = value;
  while (Math.abs(left) >= 1024 && at < units.length - 1) {
    left /= 1024;
    at += 1;
  }
  return `${at === 0 || left >= 100 ? left.toFixed(0) : left.toFixed(1)} ${units[at]}`;
}

export function time(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms === 0) return '0 ms';
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  return `${(ms / 1000).toFixed(1)} s`;
}

export function span(ms) {
  if (ms === null || ms === undefined) return '–';
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return seconds < 10 ? `${(ms / 1000).toFixed(1)} s` : `${seconds} s`;
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (minutes < 60) return `${minutes}m ${seconds % 60}s`;
  if (hours < 48) return `${hours}h ${minutes % 60}m`;
  return `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

export const percent = (value) => (value === null || value === undefined ? '–' : `${count(value)} %`);

export const clock = (ms) => new Date(ms).toTimeString().slice(0, 8);

/** With the day, where it is not today's. */
export function moment(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  const day = `${date.getFullYear()}-${String(date.getMonth() + 1).padStart(2, '0')}-${String(date.getDate()).padStart(2, '0')} `;
  return `${today ? '' : day}${clock(ms)}`;
}
