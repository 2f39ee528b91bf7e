// Waiting for conditions. A deadline here bounds a hang; it says nothing about speed.

export const DEADLINE_MS = Number(process.env.TRUNKLINE_TEST_DEADLINE_MS ?? 60_000);

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves with the first truthy value of `condition`; rejects with `what` at the deadline. */
export async function until(condition, what) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`gave up waiting: ${typeof what === 'function' ? await what() : what}`);
    await sleep(10);
  }
}

/** The promise, or a rejection that names `what` at the deadline. */
export function within(promise, what) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`gave up waiting: ${what}`)), DEADLINE_MS);
  });
  return Promise.race([promise, deadline]).finally(() => clearTimeout(timer));
}

/** The next event `name` of an emitter, as its argument. */
export function next(emitter, name) {
  return within(new Promise((resolve) => emitter.once(name, resolve)), `the event '${name}'`);
}
