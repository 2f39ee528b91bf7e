// The figures of the node, asked for again and again while somebody looks.

import { Refused, ask, text } from './api.js';
import { Chart } from './charts.js';
import { bytes, count, moment, percent, quantile, rate, samples, since, span, time } from './figures.js';
import { Table, element, facts, make, name } from './page.js';

const EVERY_MS = 2000;
/** What changes slowly or costs more is asked for every so many rounds. */
const SLOW_ROUNDS = 5;
const ENDS = 20;
/** Shards that have a line of their own. */
const SHARDS_SHOWN = 6;

const STAGES = { accepted: 'accepted', appended: 'appended', first_write: 'first write', last_write: 'last write' };

export class Live {
  /** `on`: `state(name, text)`, `alert(text)`, `lost()` where the key is not accepted any more, `look(by, whom)`. */
  constructor(on) {
    this.on = on;
    this.before = null;
    this.slow = null;
    this.round = 0;
    this.timer = 0;
    this.asking = null;
    this.makeCharts();
    this.makeTables();
    document.addEventListener('visibilitychange', () => this.seen());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      Object.values(this.charts).forEach((chart) => chart.plot && chart.build());
    });
  }

  makeCharts() {
    this.charts = {
      rates: new Chart('Publications and connects a second', count),
      deliveries: new Chart('Deliveries a second', count),
      stages: new Chart('Time of a publication to each stage, p99', time),
      transports: new Chart('Clients by transport', count),
      memory: new Chart('Memory', bytes, { binary: true }),
      busy: new Chart('Busy share of shards', percent),
    };
    element('charts').append(...Object.values(this.charts).map((chart) => chart.node));
  }

  makeTables() {
    const number = (title) => ({ title, number: true });
    const look = this.on.look;
    this.tables = {
      ends: new Table('Last closes', [
        { title: 'When' }, { title: 'User', wide: true }, number('Code'), { title: 'Reason', wide: true }, { title: 'By' },
        { title: 'Transport' }, number('After'), number('Owed'), { title: 'Client' },
      ], { empty: 'Nobody was closed yet, or observe.closed_kept is 0.', look }),
      shards: new Table('Shards', [
        number('Shard'), number('Connections'), number('Clients'), number('Busy'), number('Loop p99'), number('Inbox'),
        number('Mail'), number('Undelivered'), number('Held back'), number('Lagging'), number('Kept for them'),
      ]),
      channels: new Table('Busiest channels', [{ title: 'Channel', wide: true }, number('Publications/s')], { empty: 'No publications.', look }),
      users: new Table('Busiest users', [{ title: 'User', wide: true }, number('Commands/s')], { empty: 'No commands.', look }),
      hooks: new Table('Hooks', [
        { title: 'Hook', wide: true }, number('Waiting'), number('In flight'), number('At most'), number('Answers/s'),
        number('Answer p99'), { title: 'Backend' },
      ], { empty: 'No hooks are configured.' }),
      kept: new Table('Store, engine and events', [{ title: 'What', wide: true }, number('Value')], {
        empty: 'There is neither a store nor an engine, and no events are told.',
      }),
      faults: new Table('Refused, closed or dropped', [{ title: 'Cause', wide: true }, number('A second'), number('Since the start')], {
        empty: 'Nothing.',
      }),
    };
    element('tables').append(...Object.values(this.tables).map((table) => table.node));
  }

  start() {
    this.running = true;
    this.seen();
  }

  stop() {
    this.running = false;
    clearTimeout(this.timer);
    this.asking?.abort();
  }

  /** Somebody looks, or does not any more: then nothing is asked. */
  seen() {
    if (!this.running) return;
    clearTimeout(this.timer);
    this.asking?.abort();
    if (document.hidden) {
      this.before = null;
      this.on.state('paused', 'paused while hidden');
      return;
    }
    this.round = 0;
    this.poll();
  }

  async poll() {
    const asking = new AbortController();
    this.asking = asking;
    const began = Date.now();
    try {
      const limit = AbortSignal.any([asking.signal, AbortSignal.timeout(4 * EVERY_MS)]);
      const options = { signal: limit };
      const slowly = this.round % SLOW_ROUNDS === 0;
      const [status, ended, busiest, metrics] = await Promise.all([
        ask('api/status', options),
        ask(`api/closed?limit=${ENDS}`, options),
        slowly ? ask('api/busiest', options) : null,
        slowly ? text('metrics', options) : null,
      ]);
      if (this.asking !== asking) return;
      this.round += 1;
      this.show(status);
      this.showEnds(ended.closed);
      if (busiest) this.showBusiest(busiest);
      if (metrics) this.showSlow(status, samples(metrics));
      this.before = status;
      this.failing = null;
      this.on.state('live', 'live');
    } catch (error) {
      if (this.asking !== asking || asking.signal.aborted) return;
      if (error instanceof Refused && error.status === 401) return void this.on.lost();
      this.before = null;
      this.failing ??= moment(began);
      this.on.state('away', `no answer since ${this.failing}`);
      this.on.alert(error instanceof Refused ? error.message : 'The node does not answer. What is shown is old.');
    }
    this.timer = setTimeout(() => this.poll(), EVERY_MS);
  }

  show(status) {
    const before = this.before?.uid === status.uid ? this.before : null;
    const a = (key) => rate(before, status, key);
    const seconds = before ? (status.time_ms - before.time_ms) / 1000 : null;
    const cpu = seconds ? Math.max(0, (status.cpu_seconds - before.cpu_seconds) / seconds) * 100 : null;
    element('node').hidden = false;
    element('node').replaceChildren(name(status.name), ` ${status.version}, up ${span(status.uptime_s * 1000)}`);
    const p99 = Object.fromEntries(Object.keys(STAGES).map((stage) => [
      stage, before && quantile(since(status.stages[stage], before.stages[stage]), status.bounds_us, 0.99),
    ]));
    const ping = before && quantile(since(status.pings, before.pings), status.bounds_us, 0.5);
    if (ping !== null) this.ping = ping;
    facts(element('tiles'), [
      ['Connections', count(status.connections)],
      ['Clients', count(status.clients)],
      ['Users', count(status.users)],
      ['Channels', count(status.channels)],
      ['Subscriptions', count(status.subscriptions)],
      ['Publications/s', count(a('publications_total'))],
      ['Deliveries/s', count(a('deliveries_total'))],
      ['Last write p99', time(p99.last_write)],
      ['Ping p50', time(this.ping)],
      ['Processor', percent(cpu)],
      ['Memory', bytes(status.resident_bytes)],
      ['Lagging', count(status.shards.reduce((sum, shard) => sum + shard.lagging_connections, 0))],
    ]);
    this.notReady = status.ready ? '' : `The node is not ready: ${status.not_ready}.`;
    this.alert();
    const { time_ms: ms } = status;
    this.charts.rates.push(ms, {
      publications: a('publications_total'), connects: a('clients_connected_total'), 'connections closed': a('connections_closed_total'),
    });
    this.charts.deliveries.push(ms, { deliveries: a('deliveries_total') });
    this.charts.stages.push(ms, Object.fromEntries(Object.entries(STAGES).map(([stage, title]) => [title, p99[stage]])));
    // One that has none any more is at zero.
    const known = [...this.charts.transports.series.keys()].map((transport) => [transport, 0]);
    this.charts.transports.push(ms, { ...Object.fromEntries(known), ...status.transports });
    this.charts.memory.push(ms, { resident: status.resident_bytes, "clients' buffers": status.client_buffers_bytes });
    this.charts.busy.push(ms, this.busy(status.shards));
    this.tables.shards.fill(status.shards.map((shard, at) => {
      const turns = before?.shards[at] && quantile(since(shard.turns, before.shards[at].turns), status.bounds_us, 0.99);
      return [
        shard.shard, count(shard.connections), count(shard.clients), percent(shard.busy_percent), time(turns),
        count(shard.inbox_messages), count(shard.mail_waiting), bytes(shard.undelivered_bytes), bytes(shard.held_back_bytes),
        count(shard.lagging_connections), bytes(shard.streams_bytes),
      ];
    }));
    const faults = Object.entries(status.faults).map(([cause, total]) => {
      const seen = before ? Math.max(0, total - (before.faults[cause] ?? 0)) / seconds : null;
      return [cause, seen, total];
    });
    faults.sort((one, other) => (other[1] ?? 0) - (one[1] ?? 0) || other[2] - one[2]);
    this.tables.faults.fill(faults.map(([cause, seen, total]) => [cause, count(seen), count(total)]));
  }

  /** Each shard, or the busiest and the mean of many. */
  busy(shards) {
    if (shards.length <= SHARDS_SHOWN) {
      return Object.fromEntries(shards.map((shard) => [`shard ${shard.shard}`, shard.busy_percent]));
    }
    const all = shards.map((shard) => shard.busy_percent);
    return { busiest: Math.max(...all), mean: all.reduce((sum, one) => sum + one, 0) / all.length };
  }

  showEnds(ends) {
    if (this.tables.ends.held) return;
    this.tables.ends.fill(ends.map((end) => [
      moment(end.time_ms), { name: end.user, look: ['user', end.user] }, String(end.code), { name: end.reason || '–' }, end.by,
      end.transport, span(end.duration_ms), bytes(end.owed_bytes), { name: end.client },
    ]));
  }

  showBusiest({ channels, users }) {
    if (!this.tables.channels.held) {
      this.tables.channels.fill(channels.map((busy) => [
        { name: busy.channel, look: ['channel', busy.channel] }, count(busy.publications_per_second),
      ]));
    }
    if (!this.tables.users.held) {
      this.tables.users.fill(users.map((busy) => [{ name: busy.user, look: ['user', busy.user] }, count(busy.commands_per_second)]));
    }
  }

  /** What comes from /metrics: hooks, the store, events, objectives. */
  showSlow(status, all) {
    const of = (key) => all.filter((sample) => sample.name === `trunkline_${key}`);
    const one = (key) => of(key)[0]?.value;
    const earlier = this.slow?.uid === status.uid ? this.slow : null;
    const seconds = earlier ? (status.time_ms - earlier.time_ms) / 1000 : null;
    const answers = new Map();
    for (const { labels, value } of of('hook_answer_seconds_bucket')) {
      const buckets = answers.get(labels.hook) ?? [];
      buckets.push([labels.le === '+Inf' ? Infinity : Number(labels.le), value]);
      answers.set(labels.hook, buckets);
    }
    const value = (key, hook) => of(key).find((sample) => sample.labels.hook === hook)?.value;
    const hooks = [...new Set(of('hook_in_flight_limit').map((sample) => sample.labels.hook))].sort();
    this.tables.hooks.fill(hooks.map((hook) => {
      const buckets = (answers.get(hook) ?? []).sort((a, b) => a[0] - b[0]);
      const counts = buckets.map(([, sum], at) => sum - (at > 0 ? buckets[at - 1][1] : 0));
      const fresh = earlier?.answers.has(hook) ? since(counts, earlier.answers.get(hook)) : null;
      const bounds = buckets.slice(0, -1).map(([bound]) => bound * 1e6);
      answers.set(hook, counts);
      return [
        { name: hook }, count(value('hook_waiting', hook)), count(value('hook_in_flight', hook)),
        count(value('hook_in_flight_limit', hook)), count(fresh && fresh.reduce((sum, more) => sum + more, 0) / seconds),
        time(fresh && bounds.length > 0 ? quantile(fresh, bounds, 0.99) : null),
        value('hook_breaker_open', hook) ? 'taken for down' : 'up',
      ];
    }));
    const kept = [];
    if (status.engine) {
      kept.push(['Engine', status.engine.up ? 'up' : 'away']);
      for (const node of status.engine.other_nodes) kept.push([{ name: `Node ${node.name}` }, `${count(node.num_clients)} clients`]);
    }
    if (one('store_health') !== undefined) {
      const health = ['takes everything', 'the disk is full', 'store.bytes_max is reached', 'read-only until a restart'];
      kept.push(['Store', health[one('store_health')] ?? '–'], ['Store: on its way', bytes(one('store_queue_bytes'))]);
      kept.push(['Store: on disk', bytes(one('store_disk_bytes'))], ['Store: not taken', count(one('store_refused_total'))]);
    }
    if (one('events_unaccepted') !== undefined) {
      kept.push(['Events: not accepted yet', count(one('events_unaccepted'))], ['Events: log', bytes(one('events_log_bytes'))]);
    }
    this.tables.kept.fill(kept);
    const objectives = of('objective_met').map((sample) => [sample.labels.objective, sample.value === 1]);
    const list = element('objectives');
    list.hidden = objectives.length === 0;
    list.replaceChildren(...objectives.map(([objective, met]) => {
      const item = make('li', {}, name(objective), ` ${met ? 'met' : 'missed'}`);
      item.dataset.state = met ? 'good' : 'bad';
      return item;
    }));
    const missed = objectives.filter(([, met]) => !met).map(([objective]) => objective);
    this.missed = missed.length > 0 ? `Missed: ${missed.join(', ')}.` : '';
    this.alert();
    this.slow = { uid: status.uid, time_ms: status.time_ms, answers };
  }

  alert() {
    this.on.alert([this.notReady, this.missed].filter(Boolean).join(' '));
  }
}
