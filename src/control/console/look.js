// Looking somebody or a channel up: their connections, how the last ones ended, and what can be done about them.

import { Refused, ask, call } from './api.js';
import { bytes, count, moment, span, time } from './figures.js';
import { Table, element, facts, make, name, shown } from './page.js';

const PAGE = 50;
const ENDS = 20;
const WORDS = { user: 'user', channel: 'channel', client: 'client', address: 'address', tunnel: 'tunnel' };
const REASONS = { 3503: 'force disconnect', 3009: 'force reconnect' };

/** A pattern that only this name matches. */
const exactly = (channel) => channel.replace(/[\\*?[\]{}!,-]/g, '\\$&');

export class Look {
  /** `on`: `say(text)`, `lost()`, `tap(by, whom)`. */
  constructor(on) {
    this.on = on;
    this.target = null;
    const look = (by, whom) => this.find(by, whom);
    this.connections = new Table('Connections', [
      { title: 'Actions' }, { title: 'Client' }, { title: 'User', wide: true }, { title: 'Transport' }, { title: 'Address' }, { title: 'Since' },
      { title: 'Channels', wide: true }, { title: 'Owed', number: true }, { title: 'Ping', number: true },
    ], { empty: 'Nobody is connected.', look });
    this.ends = new Table('Last closes', [
      { title: 'When' }, { title: 'Code', number: true }, { title: 'Reason', wide: true }, { title: 'By' }, { title: 'Transport' },
      { title: 'After', number: true }, { title: 'Owed', number: true }, { title: 'Client' },
    ], { empty: 'None is known.' });
    element('found-tables').append(this.connections.node, this.ends.node);
    element('search').addEventListener('submit', (event) => {
      event.preventDefault();
      this.find(element('search-by').value, element('search-for').value);
    });
    element('found-more').addEventListener('click', () => this.attempt(() => this.more()));
    element('found-tap').addEventListener('click', () => this.on.tap(...this.target));
    element('found-close').addEventListener('click', () => this.confirm({ user: this.target[1] }));
    element('publish').addEventListener('submit', (event) => {
      event.preventDefault();
      this.attempt(() => this.publish());
    });
    element('close-no').addEventListener('click', () => element('close').close());
    element('close-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const code = Number(new FormData(element('close-form')).get('code'));
      element('close').close();
      this.attempt(() => this.close(this.closing, code));
    });
  }

  /** What fails is said where everything is. */
  async attempt(action) {
    try {
      await action();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return void this.on.lost();
      this.on.say(error instanceof Refused ? `Refused: ${error.message}` : `It did not work: ${error.message}`);
    }
  }

  find(by, whom) {
    element('search-by').value = by;
    element('search-for').value = whom;
    return this.attempt(async () => {
      // What was written for one channel is not published to another.
      if (this.target?.join() !== [by, whom].join()) element('publish-data').value = '';
      this.target = [by, whom];
      this.rows = [];
      this.cursor = null;
      this.on.say('Looking …');
      await this.refresh();
      const title = element('found-title');
      title.replaceChildren(`${WORDS[by]} `, name(whom));
      title.focus();
    });
  }

  async refresh() {
    const [by, whom] = this.target;
    const target = this.target;
    const [page, ends, channel] = await Promise.all([
      by === 'tunnel' ? { connections: [], cursor: null } : ask('api/connections', { body: this.query() }),
      by === 'user' || by === 'client' ? ask(`api/closed?limit=${ENDS}&${by}=${encodeURIComponent(whom)}`) : null,
      by === 'channel' ? call('channels', { pattern: exactly(whom), limit: 1 }) : null,
    ]);
    if (this.target !== target) return;
    element('found').hidden = false;
    element('found-close').hidden = by !== 'user' || whom === '';
    element('publish').hidden = by !== 'channel';
    element('publish-error').textContent = '';
    this.connections.node.hidden = by === 'tunnel';
    this.ends.node.hidden = !ends;
    this.rows = [];
    this.add(page);
    if (ends) {
      this.ends.fill(ends.closed.map((end) => [
        moment(end.time_ms), String(end.code), { name: end.reason || '–' }, end.by, end.transport, span(end.duration_ms),
        bytes(end.owed_bytes), { name: end.client },
      ]));
    }
    facts(element('found-facts'), channel ? this.channelFacts(channel, whom) : []);
    this.on.say(by === 'tunnel' ? 'What a tunnel does is shown by a tap.' : this.summary());
  }

  channelFacts({ channels }, whom) {
    const found = channels?.[whom];
    if (!found) return [['State', 'neither subscribers nor history']];
    const known = [['Clients', count(found.num_clients)]];
    if (found.history !== undefined) {
      known.push(['History', `${count(found.history)} publications, ${bytes(found.history_bytes)}`], ['Offset', String(found.offset)]);
    }
    if (found.publications_per_second !== undefined) known.push(['Publications/s', count(found.publications_per_second)]);
    return known;
  }

  summary() {
    const found = this.rows.length;
    return `${found === 1 ? '1 connection' : `${found} connections`}${this.cursor ? ', and there may be more' : ''} on this node.`;
  }

  query(cursor) {
    const [by, whom] = this.target;
    return JSON.stringify({ [by]: whom, limit: PAGE, ...(cursor ? { cursor } : {}) });
  }

  async more() {
    this.add(await ask('api/connections', { body: this.query(this.cursor) }));
    this.on.say(this.summary());
  }

  add({ connections, cursor }) {
    this.cursor = cursor;
    this.rows.push(...connections);
    element('found-more').hidden = !cursor;
    this.connections.fill(this.rows.map((connection) => [
      this.actions(connection), { name: connection.client, look: ['client', connection.client] }, { name: connection.user, look: ['user', connection.user] },
      connection.transport, connection.address ?? null, connection.since_ms === undefined ? null : moment(connection.since_ms),
      this.channels(connection), bytes(connection.owed_bytes), time(connection.ping_ms),
    ]));
  }

  channels({ channels, num_channels: all }) {
    if (all === 0) return '–';
    const shownOnes = channels.slice(0, 4).flatMap((channel, at) => (at > 0 ? [', ', name(channel)] : [name(channel)]));
    const rest = all - Math.min(4, channels.length);
    return make('span', {}, ...shownOnes, rest > 0 ? ` and ${rest} more` : '');
  }

  actions(connection) {
    const button = (text, act) => {
      // Which one it is for is heard as well as seen.
      const made = make('button', { type: 'button', text, 'aria-label': `${text} client ${connection.client}` });
      made.addEventListener('click', act);
      return made;
    };
    return make('span', { className: 'actions' },
      button('Tap', () => this.on.tap('client', connection.client)), button('Close', () => this.confirm(connection)));
  }

  confirm(connection) {
    this.closing = connection;
    const { client, user } = connection;
    element('close-what').replaceChildren(...(client
      ? ['The connection of client ', name(client), ...(user ? [', user ', name(user)] : []), '.']
      : ['All connections of user ', name(user), ', on every node.']));
    element('close-form').reset();
    element('close').showModal();
    // Not the button that closes: a hasty Enter does nothing.
    element('close-no').focus();
  }

  async close({ client, user, transport }, code) {
    const reason = REASONS[code];
    if (transport === 'tunnel') {
      await ask(`api/connections/${encodeURIComponent(client)}?code=${code}&reason=${encodeURIComponent(reason)}`, { method: 'DELETE' });
    } else {
      await call('disconnect', { user, ...(client ? { client } : {}), disconnect: { code, reason } });
    }
    await this.refresh();
    this.on.say(client ? `Client ${shown(client)} was closed (${code}).` : `All connections of ${shown(user)} were closed (${code}).`);
  }

  async publish() {
    const data = element('publish-data').value;
    try {
      JSON.parse(data);
      element('publish-error').textContent = '';
    } catch (error) {
      element('publish-error').textContent = `Not JSON: ${error.message}`;
      return element('publish-data').focus();
    }
    const [, channel] = this.target;
    // As it was typed: numbers that JavaScript would round stay what they are.
    const { offset } = await ask('api/publish', { body: `{"channel":${JSON.stringify(channel)},"data":${data}}` });
    await this.refresh();
    this.on.say(offset ? `Published at offset ${offset}.` : 'Published.');
  }
}
