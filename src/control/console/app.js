// The console: signs in, and puts its parts together.

import { Refused, ask, forget, hasKey, keep } from './api.js';
import { Live } from './live.js';
import { Look } from './look.js';
import { element, setText, shown } from './page.js';
import { Tap } from './tap.js';

function state(name, text) {
  element('state').dataset.state = name;
  setText(element('state'), text);
}

const alert = (text) => setText(element('alert'), shown(text));
const say = (text) => setText(element('said'), text);

/** Nothing of what was seen stays in the document. */
function leave() {
  forget();
  location.reload();
}

function lost() {
  forget();
  // The reason outlives the page by this: it is no secret.
  history.replaceState({ lost: true }, '');
  location.reload();
}

function open() {
  element('sign-in').hidden = true;
  element('console').hidden = false;
  element('sign-out').hidden = false;
  const tap = new Tap({ lost });
  const look = new Look({ say, lost, tap: (by, whom) => tap.open(by, whom) });
  const live = new Live({ state, alert, lost, look: (by, whom) => look.find(by, whom) });
  element('sign-out').addEventListener('click', () => {
    live.stop();
    tap.stop();
    leave();
  });
  live.start();
}

async function signIn() {
  const input = element('key');
  const key = input.value.trim();
  setText(element('key-error'), '');
  try {
    await ask('api/status', { as: key });
  } catch (error) {
    const wrong = error instanceof Refused && error.status === 401;
    setText(element('key-error'), wrong ? 'The node does not accept this key.' : `It did not work: ${error.message}`);
    input.setAttribute('aria-invalid', 'true');
    input.focus();
    input.select();
    return;
  }
  input.value = '';
  keep(key);
  open();
  element('main').focus({ preventScroll: true });
}

element('sign-in-form').addEventListener('submit', (event) => {
  event.preventDefault();
  signIn();
});
if (hasKey()) {
  open();
} else {
  element('sign-in').hidden = false;
  element('key').focus();
  if (history.state?.lost) {
    history.replaceState(null, '');
    setText(element('key-error'), 'The key is not accepted any more: show another one.');
  }
}
