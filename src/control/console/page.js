// What stands in the document: text only. Names are strangers' and never become markup.

export const element = (id) => document.getElementById(id);

/** Characters that show as nothing or turn the text around them: written as escapes, so that no name looks like another. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb]/g;

export const shown = (text) => String(text).replace(UNSEEN, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

/** An element with text, classes and children. */
export function make(tag, { text, className, ...properties } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(properties)) {
    if (key === 'role' || key.startsWith('aria-')) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** Text of somebody's, held apart from what stands around it. */
export const name = (text) => make('bdi', { text: shown(text), className: 'name' });

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Terms and their values, in place. */
export function facts(list, pairs) {
  while (list.childElementCount > pairs.length) list.lastElementChild.remove();
  pairs.forEach(([term, value, state], at) => {
    let pair = list.children[at];
    if (!pair) {
      pair = make('div', {}, make('dt'), make('dd'));
      list.append(pair);
    }
    setText(pair.children[0], term);
    setText(pair.children[1], value);
    pair.dataset.state = state ?? '';
  });
}

/**
 * A table with a caption. Columns: `{title, number, wide}`. Cells: text, `{name}` for somebody's text, `{name, look: [by, whom]}`
 * for one that can be looked up, or nodes.
 */
export class Table {
  constructor(caption, columns, { empty = 'none', look } = {}) {
    this.columns = columns;
    this.look = look;
    this.body = make('tbody');
    this.empty = make('p', { className: 'hint', text: empty });
    this.caption = make('caption', { text: caption });
    const heads = columns.map((column) => make('th', {
      text: column.title, scope: 'col', className: column.number ? 'number' : '',
    }));
    this.table = make('table', {}, this.caption, make('thead', {}, make('tr', {}, ...heads)), this.body);
    // A table that is wider than the page scrolls in a region of its own, by the keyboard too.
    this.scroll = make('div', { className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': caption }, this.table);
    this.node = make('div', { className: 'table' }, this.scroll, this.empty);
    this.fill([]);
  }

  /** Rows keep their elements, so that what is focused or selected stays. */
  fill(rows) {
    while (this.body.childElementCount > rows.length) this.body.lastElementChild.remove();
    rows.forEach((cells, at) => {
      let row = this.body.children[at];
      if (!row) {
        row = make('tr', {}, ...this.columns.map((column) => make('td', {
          className: [column.number ? 'number' : '', column.wide ? 'wide' : ''].join(' ').trim(),
        })));
        this.body.append(row);
      }
      cells.forEach((cell, place) => this.set(row.children[place], cell));
    });
    this.empty.hidden = rows.length > 0;
    this.table.classList.toggle('empty', rows.length === 0);
  }

  set(place, cell) {
    if (cell instanceof Node) return place.replaceChildren(cell);
    if (typeof cell !== 'object' || cell === null) return setText(place, cell === null ? '–' : String(cell));
    const said = JSON.stringify(cell);
    if (place.dataset.said === said) return undefined;
    place.dataset.said = said;
    const text = cell.name === '' ? make('span', { className: 'hint', text: 'no user' }) : name(cell.name);
    if (!cell.look || cell.name === '' || !this.look) return place.replaceChildren(text);
    const button = make('button', { type: 'button', className: 'look' }, text);
    button.addEventListener('click', () => this.look(...cell.look));
    return place.replaceChildren(button);
  }

  /** Somebody points at it or is in it: what is under the pointer should not move. */
  get held() {
    return this.body.contains(document.activeElement) || this.body.matches(':hover');
  }
}
