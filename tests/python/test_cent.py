"""PyPI cent, unmodified, against the binary: every call that a backend makes, on both drivers."""

import asyncio
import base64
import json
import time
import unittest
import uuid

import requests
from cent import (
    AsyncClient,
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentTransportError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)

from daemon import API_KEY, Daemon, until
from subscriber import Subscriber


class Cases:
    """What is the same on both drivers. Each test has channels and users of its own: `self.name`."""

    driver: str

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(cls.driver)
        cls.cent = Client(cls.daemon.api_url, API_KEY)

    @classmethod
    def tearDownClass(cls):
        cls.cent.close()
        code = cls.daemon.stop()
        assert code == 0, f"the daemon ended with {code}\n{cls.daemon.output}"

    def setUp(self):
        self.name = f"{self._testMethodName}-{uuid.uuid4().hex[:8]}"

    def subscriber(self, user=None, info=None):
        subscriber = Subscriber(self.daemon.address, user, info)
        self.addCleanup(subscriber.close)
        return subscriber

    def publish(self, data, **more):
        return self.cent.publish(PublishRequest(channel=self.name, data=data, **more))

    def fails_with(self, code, call, request):
        with self.assertRaises(CentApiResponseError) as caught:
            call(request)
        self.assertEqual(caught.exception.code, code)
        return caught.exception

    # --- publish

    def test_publish_answers_the_position_and_delivers(self):
        reader = self.subscriber()
        reader.subscribe(self.name)
        first = self.publish({"text": "ünïcode", "n": [1, None, 2.5]})
        second = self.publish("two", tags={"k": "v"})
        self.assertEqual((first.offset, second.offset), (1, 2))
        self.assertTrue(first.epoch)
        self.assertEqual(first.epoch, second.epoch)
        push = reader.push()
        self.assertEqual(push["channel"], self.name)
        self.assertEqual(push["pub"], {"data": {"text": "ünïcode", "n": [1, None, 2.5]}, "offset": 1})
        self.assertEqual(reader.push()["pub"], {"data": "two", "offset": 2, "tags": {"k": "v"}})

    def test_publish_without_history_is_delivered_and_not_kept(self):
        reader = self.subscriber()
        reader.subscribe(self.name)
        self.publish("kept")
        self.publish("passing", skip_history=True)
        self.publish("kept too")
        self.assertEqual([reader.push()["pub"]["data"] for _ in range(3)], ["kept", "passing", "kept too"])
        history = self.cent.history(HistoryRequest(channel=self.name, limit=10))
        self.assertEqual([p.data for p in history.publications], ["kept", "kept too"])

    def test_publish_of_base64_is_its_content(self):
        reader = self.subscriber()
        reader.subscribe(self.name)
        data = base64.b64encode(json.dumps({"from": "base64"}).encode()).decode()
        self.publish(None, b64data=data)
        self.assertEqual(reader.push()["pub"]["data"], {"from": "base64"})
        for bad in ["!", base64.b64encode(b"no json").decode()]:
            self.fails_with(107, self.cent.publish, PublishRequest(channel=self.name, data=None, b64data=bad))

    def test_publish_with_an_idempotency_key_happens_once(self):
        reader = self.subscriber()
        reader.subscribe(self.name)
        first = self.publish(1, idempotency_key="a")
        self.assertEqual(self.publish(1, idempotency_key="a"), first)
        self.assertEqual(self.publish(2, idempotency_key="b").offset, 2)
        self.assertEqual([reader.push()["pub"]["data"] for _ in range(2)], [1, 2])

    def test_publish_to_a_bad_channel_is_an_error(self):
        self.fails_with(102, self.cent.publish, PublishRequest(channel="nowhere:x", data=1))
        for channel in ["", "c" * 256, "line\nbreak"]:
            error = self.fails_with(107, self.cent.publish, PublishRequest(channel=channel, data=1))
            self.assertTrue(error.message)

    # --- broadcast and batch

    def test_broadcast_answers_for_each_channel(self):
        channels = [f"{self.name}-{n}" for n in range(3)]
        self.cent.publish(PublishRequest(channel=channels[2], data=0))
        result = self.cent.broadcast(BroadcastRequest(channels=[*channels, "nowhere:x"], data={"n": 1}))
        self.assertEqual([r.result.offset for r in result.responses[:3]], [1, 1, 2])
        self.assertEqual(result.responses[3].error.code, 102)
        for channel in channels:
            last = self.cent.history(HistoryRequest(channel=channel, limit=1, reverse=True))
            self.assertEqual(last.publications[0].data, {"n": 1})

    def test_broadcast_with_an_idempotency_key_happens_once_in_each_channel(self):
        request = BroadcastRequest(channels=[self.name, self.name + "-2"], data=1, idempotency_key="k")
        self.assertEqual(self.cent.broadcast(request), self.cent.broadcast(request))
        self.assertEqual(self.cent.history(HistoryRequest(channel=self.name)).offset, 1)

    def test_batch_answers_each_command_in_its_place(self):
        for parallel in [False, True]:
            result = self.cent.batch(
                BatchRequest(
                    requests=[
                        PublishRequest(channel=self.name, data=1),
                        BroadcastRequest(channels=[f"{self.name}-b"], data=2),
                        PresenceStatsRequest(channel=self.name),
                        HistoryRequest(channel=f"{self.name}-c"),
                        InfoRequest(),
                    ],
                    parallel=parallel,
                )
            )
            self.assertEqual(len(result.replies), 5)
        self.assertEqual(self.cent.history(HistoryRequest(channel=self.name)).offset, 2)
        self.assertEqual(self.cent.history(HistoryRequest(channel=f"{self.name}-b")).offset, 2)

    def test_batch_goes_on_after_a_command_that_fails(self):
        # Without cent: its reader has no place for a failed command of a batch.
        commands = [{"publish": {"channel": channel, "data": "x"}} for channel in ("nowhere:x", self.name)]
        answer = requests.post(
            f"{self.daemon.api_url}/batch", json={"commands": commands}, headers={"X-API-Key": API_KEY}, timeout=30
        )
        failed, done = answer.json()["replies"]
        self.assertEqual(failed["error"]["code"], 102)
        self.assertEqual(done["publish"]["offset"], 1)

    # --- history

    def test_history_from_both_ends_and_from_a_position(self):
        for n in range(1, 11):
            self.publish(n)

        def history(**more):
            return self.cent.history(HistoryRequest(channel=self.name, **more))

        top = history()
        self.assertEqual((top.publications, top.offset), ([], 10))
        self.assertEqual([p.data for p in history(limit=3).publications], [1, 2, 3])
        self.assertEqual([p.offset for p in history(limit=3, reverse=True).publications], [10, 9, 8])
        since = StreamPosition(offset=8, epoch=top.epoch)
        self.assertEqual([p.data for p in history(limit=5, since=since).publications], [9, 10])
        self.assertEqual([p.data for p in history(limit=2, since=since, reverse=True).publications], [7, 6])
        foreign = StreamPosition(offset=8, epoch="other")
        self.fails_with(112, self.cent.history, HistoryRequest(channel=self.name, limit=5, since=foreign))

    def test_history_tells_who_published(self):
        self.publish(1, tags={"a": "b"})
        (publication,) = self.cent.history(HistoryRequest(channel=self.name, limit=1)).publications
        self.assertEqual((publication.data, publication.tags, publication.info), (1, {"a": "b"}, None))

    def test_history_is_bounded_by_its_size(self):
        for n in range(120):
            self.publish(n)
        history = self.cent.history(HistoryRequest(channel=self.name, limit=200))
        self.assertEqual([p.data for p in history.publications], list(range(20, 120)))

    def test_history_remove_empties_it_and_keeps_the_position(self):
        self.publish(1)
        before = self.cent.history(HistoryRequest(channel=self.name))
        self.cent.history_remove(HistoryRemoveRequest(channel=self.name))
        after = self.cent.history(HistoryRequest(channel=self.name, limit=10))
        self.assertEqual(after.publications, [])
        self.publish(2)
        again = self.cent.history(HistoryRequest(channel=self.name, limit=10))
        self.assertEqual([p.data for p in again.publications], [2])
        # Who was at the old position must be able to see that something is missing.
        self.assertNotEqual((again.epoch, again.publications[0].offset), (before.epoch, 1))

    def test_history_of_a_namespace_without_it_is_not_available(self):
        for request in [HistoryRequest(channel="bare:x", limit=1)]:
            self.fails_with(108, self.cent.history, request)
        self.fails_with(108, self.cent.history_remove, HistoryRemoveRequest(channel="bare:x"))

    # --- presence, channels, info

    def test_presence_tells_who_is_there(self):
        alice, again, bob = (self.subscriber(u, {"u": u}) for u in [self.name + "-a", self.name + "-a", self.name + "-b"])
        for reader in (alice, again, bob):
            reader.subscribe(self.name)
        presence = self.cent.presence(PresenceRequest(channel=self.name)).presence
        self.assertEqual(set(presence), {alice.client, again.client, bob.client})
        info = presence[bob.client]
        self.assertEqual((info.client, info.user, info.conn_info), (bob.client, self.name + "-b", {"u": self.name + "-b"}))
        stats = self.cent.presence_stats(PresenceStatsRequest(channel=self.name))
        self.assertEqual((stats.num_clients, stats.num_users), (3, 2))
        bob.close()
        until(
            lambda: self.cent.presence_stats(PresenceStatsRequest(channel=self.name)).num_clients == 2,
            "bob has left",
        )

    def test_presence_of_nobody_is_empty(self):
        self.assertEqual(self.cent.presence(PresenceRequest(channel=self.name)).presence, {})
        stats = self.cent.presence_stats(PresenceStatsRequest(channel=self.name))
        self.assertEqual((stats.num_clients, stats.num_users), (0, 0))

    def test_presence_of_a_namespace_without_it_is_not_available(self):
        self.fails_with(108, self.cent.presence, PresenceRequest(channel="bare:x"))
        self.fails_with(108, self.cent.presence_stats, PresenceStatsRequest(channel="bare:x"))

    def test_channels_are_those_with_subscribers(self):
        first, second = self.subscriber(), self.subscriber()
        for channel in [f"{self.name}-x1", f"{self.name}-x2", f"{self.name}-y"]:
            first.subscribe(channel)
        second.subscribe(f"{self.name}-y")
        everything = self.cent.channels(ChannelsRequest()).channels
        self.assertLessEqual({f"{self.name}-x1", f"{self.name}-x2", f"{self.name}-y"}, set(everything))
        chosen = self.cent.channels(ChannelsRequest(pattern=f"{self.name}-x*")).channels
        self.assertEqual({c: i.num_clients for c, i in chosen.items()}, {f"{self.name}-x1": 1, f"{self.name}-x2": 1})
        chosen = self.cent.channels(ChannelsRequest(pattern=f"{self.name}-[yz]")).channels
        self.assertEqual({c: i.num_clients for c, i in chosen.items()}, {f"{self.name}-y": 2})
        self.assertEqual(self.cent.channels(ChannelsRequest(pattern="no such thing")).channels, {})

    def test_info_counts(self):
        reader = self.subscriber(self.name)
        reader.subscribe(self.name)

        def counted():
            (node,) = self.cent.info(InfoRequest()).nodes
            return node if node.num_clients == 1 and node.num_subs == 1 else None

        node = until(counted, "one client with one subscription")
        self.assertTrue(node.uid and node.name and node.version)
        self.assertEqual((node.num_users, node.num_channels >= 1), (1, True))
        self.assertGreaterEqual(node.uptime, 0)
        self.assertGreater(node.process.rss, 0)

    # --- what the backend does to a user's connections

    def test_subscribe_and_unsubscribe_a_user(self):
        client = self.subscriber(self.name)
        self.cent.subscribe(SubscribeRequest(user=self.name, channel=self.name, data={"hello": 1}, info={"chan": 1}))
        push = client.push()
        self.assertEqual((push["channel"], push["subscribe"]["data"]), (self.name, {"hello": 1}))
        presence = self.cent.presence(PresenceRequest(channel=self.name)).presence
        self.assertEqual(presence[client.client].chan_info, {"chan": 1})
        self.publish("pushed")
        self.assertEqual(client.push()["pub"]["data"], "pushed")
        self.cent.unsubscribe(UnsubscribeRequest(user=self.name, channel=self.name))
        push = client.push()
        self.assertEqual((push["channel"], push["unsubscribe"]["code"]), (self.name, 2000))
        until(
            lambda: self.name not in self.cent.channels(ChannelsRequest(pattern=self.name)).channels,
            "nobody is subscribed",
        )

    def test_subscribe_from_a_position_brings_what_was_before(self):
        positions = [self.publish(n) for n in range(3)]
        client = self.subscriber(self.name)
        since = StreamPosition(offset=1, epoch=positions[0].epoch)
        self.cent.subscribe(SubscribeRequest(user=self.name, channel=self.name, recover_since=since))
        subscribe = client.push()
        self.assertIn("subscribe", subscribe)
        self.assertEqual([client.push()["pub"]["data"] for _ in range(2)], [1, 2])

    def test_disconnect_a_user(self):
        client = self.subscriber(self.name)
        self.cent.disconnect(DisconnectRequest(user=self.name))
        self.assertEqual(client.closed(), (3503, "force disconnect"))

    def test_disconnect_with_a_code_and_but_for_some(self):
        kept, gone = self.subscriber(self.name), self.subscriber(self.name)
        self.cent.disconnect(
            DisconnectRequest(
                user=self.name, whitelist=[kept.client], disconnect=Disconnect(code=4321, reason="enough")
            )
        )
        self.assertEqual(gone.closed(), (4321, "enough"))
        self.assertEqual(kept.subscribe(self.name), {}, "it is still served")

    def test_refresh_prolongs_and_ends(self):
        client = self.subscriber(self.name)
        self.cent.refresh(RefreshRequest(user=self.name, expire_at=int(time.time()) + 1000))
        self.assertGreater(client.push()["refresh"]["ttl"], 900)
        self.cent.refresh(RefreshRequest(user=self.name, expired=True))
        self.assertEqual(client.closed(), (3005, "connection expired"))

    def test_one_client_of_a_user(self):
        one, two = self.subscriber(self.name), self.subscriber(self.name)
        self.cent.subscribe(SubscribeRequest(user=self.name, channel=self.name, client=two.client))
        self.assertIn("subscribe", two.push())
        self.assertEqual(set(self.cent.presence(PresenceRequest(channel=self.name)).presence), {two.client})
        self.cent.disconnect(DisconnectRequest(user=self.name, client=one.client))
        self.assertEqual(one.closed()[0], 3503)
        self.publish("still")
        self.assertEqual(two.push()["pub"]["data"], "still")

    # --- faults

    def test_a_wrong_key_is_unauthorized(self):
        for key in ["wrong", "", API_KEY + "x", API_KEY[:-1]]:
            with Client(self.daemon.api_url, key) as client:
                with self.assertRaises(CentUnauthorizedError):
                    client.info(InfoRequest())

    def test_a_wrong_path_is_a_transport_error(self):
        with Client(self.daemon.api_url + "/deeper", API_KEY) as client:
            with self.assertRaises(CentTransportError) as caught:
                client.info(InfoRequest())
            self.assertEqual(caught.exception.status_code, 404)

    def test_the_key_may_stand_in_the_query(self):
        answer = requests.post(f"{self.daemon.api_url}/info?api_key={API_KEY}", json={}, timeout=30)
        self.assertEqual(answer.status_code, 200)
        self.assertIn("nodes", answer.json()["result"])

    def test_errors_as_statuses_when_asked_for(self):
        headers = {"X-API-Key": API_KEY, "X-Centrifugo-Error-Mode": "transport"}
        wanted = [("nowhere:x", 404), ("", 400), ("good", 200)]
        for channel, status in wanted:
            body = {"channel": channel and (channel if ":" in channel else self.name), "data": 1}
            answer = requests.post(f"{self.daemon.api_url}/publish", json=body, headers=headers, timeout=30)
            self.assertEqual(answer.status_code, status, answer.text)

    # --- the other client of the library

    def test_the_asynchronous_client(self):
        async def run():
            client = AsyncClient(self.daemon.api_url, API_KEY)
            try:
                results = await asyncio.gather(
                    *(client.publish(PublishRequest(channel=self.name, data=n)) for n in range(50))
                )
                return sorted(result.offset for result in results)
            finally:
                await client.close()

        self.assertEqual(asyncio.run(run()), list(range(1, 51)))


class OnIoUring(Cases, unittest.TestCase):
    driver = "io-uring"


class OnMio(Cases, unittest.TestCase):
    driver = "mio"


if __name__ == "__main__":
    unittest.main()
