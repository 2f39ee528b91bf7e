// What a page does with the unread counter, by the SDK.

/** Calls `show` with the newest count of the client's user: at once, on each change, and after each absence. */
export function watchUnread(client, show) {
  let newest = 0;
  const take = ({ offset, data }) => {
    if (offset <= newest) return;
    newest = offset;
    show(data.unread);
  };
  client.on('publication', (publication) => {
    if (publication.channel.startsWith('#')) take(publication);
  });
  client.on('subscribed', ({ channel, recovered }) => {
    if (!channel.startsWith('#') || recovered) return;
    // More than one count was missed, or all of them: only the newest is kept, and wanted.
    newest = 0;
    client.history(channel, { limit: 1, reverse: true })
      .then(({ publications }) => publications.forEach(take))
      .catch(() => {}); // cut again: the next 'subscribed' asks again
  });
}
