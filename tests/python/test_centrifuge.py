"""PyPI centrifuge-python, unmodified, against the binary: in JSON and in Protobuf, on both drivers."""

import asyncio
import http.server
import json
import threading
import time
import unittest
import uuid

from cent import Client as Api
from cent import DisconnectRequest, PublishRequest, SubscribeRequest, UnsubscribeRequest
from centrifuge import (
    Client,
    ClientEventHandler,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
    SubscriptionState,
)

from daemon import API_KEY, DEADLINE_SECONDS, Daemon
from subscriber import token

TABLES = """
[[namespace]]
name = "social"
join_leave = true
allow_subscribe_for_client = true

[[hook]]
name = "echo"
endpoint = "http://127.0.0.1:{port}/"
"""


class Echo(http.server.BaseHTTPRequestHandler):
    """A backend that answers a call with what it was asked."""

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"result": {"data": [question["method"], question.get("data")]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Proxy:
    """The network between a client and the daemon: it can be cut."""

    async def start(self, address):
        self._host, self._port = address.split(":")
        self._writers = set()
        self._served = set()
        self._refusing = False
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return "{}:{}".format(*self._server.sockets[0].getsockname())

    def cut(self):
        self._refusing = True
        for writer in self._writers:
            writer.transport.abort()

    def allow(self):
        self._refusing = False

    async def close(self):
        self.cut()
        self._server.close()
        await asyncio.gather(*self._served)
        # What was aborted is closed in the loop's next turn.
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self._served.add(asyncio.current_task())
        if self._refusing:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        self._writers -= {writer, there_writer}

    @staticmethod
    async def _copy(reader, writer):
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        writer.transport.abort()


class Seen:
    """Everything that happened, by the name of its handler without `on_`."""

    def __init__(self):
        self.all = []

    def of(self, name):
        return [context for event, context in self.all if event == name]

    def handler(self, base):
        """A handler of the SDK's kind that writes everything down."""
        handler = base()
        for name in [name for name in dir(base) if name.startswith("on_")]:
            setattr(handler, name, self._recorder(name.removeprefix("on_")))
        return handler

    def _recorder(self, name):
        async def record(context):
            self.all.append((name, context))

        return record


class Cases:
    """What is the same for every driver and form. Each test has channels and users of its own: `self.name`."""

    driver: str
    use_protobuf: bool

    @classmethod
    def setUpClass(cls):
        cls.backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        threading.Thread(target=cls.backend.serve_forever, daemon=True).start()
        cls.daemon = Daemon(
            cls.driver, TABLES.format(port=cls.backend.server_port), {"TRUNKLINE_CLIENT_RPC_HOOK": "echo"}
        )
        cls.api = Api(cls.daemon.api_url, API_KEY)

    @classmethod
    def tearDownClass(cls):
        cls.api.close()
        code = cls.daemon.stop()
        cls.backend.shutdown()
        cls.backend.server_close()
        assert code == 0, f"the daemon ended with {code}\n{cls.daemon.output}"

    def setUp(self):
        self.name = f"{self._testMethodName}-{uuid.uuid4().hex[:8]}"

    def client(self, address=None, data=None, **options):
        """A client of the SDK; what happens to it is in `client.seen`."""
        seen = Seen()
        client = Client(
            f"ws://{address or self.daemon.address}/connection/websocket",
            events=seen.handler(ClientEventHandler),
            use_protobuf=self.use_protobuf,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            timeout=DEADLINE_SECONDS,
            data=self.written(data),
            proxy=None,
            **options,
        )
        client.seen = seen
        self.addAsyncCleanup(client.disconnect)
        return client

    async def connected(self, **options):
        client = self.client(**options)
        await client.connect()
        await client.ready()
        return client

    async def subscribed(self, client, channel=None, **options):
        seen = Seen()
        handler = seen.handler(SubscriptionEventHandler)
        subscription = client.new_subscription(channel or self.name, events=handler, **options)
        subscription.seen = seen
        await subscription.subscribe()
        await subscription.ready()
        return subscription

    # Payloads are values in JSON and bytes in Protobuf, which the application makes and reads.

    def written(self, value):
        return json.dumps(value).encode() if self.use_protobuf and value is not None else value

    def read(self, value):
        return json.loads(value) if self.use_protobuf and value is not None else value

    async def call(self, method, request):
        return await asyncio.to_thread(method, request)

    async def publish(self, data, **more):
        return await self.call(self.api.publish, PublishRequest(channel=self.name, data=data, **more))

    async def until(self, condition, what):
        end = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > end:
                self.fail(f"gave up waiting: {what}")
            await asyncio.sleep(0.01)

    async def received(self, subscription, data):
        def got():
            return [self.read(context.pub.data) for context in subscription.seen.of("publication")]

        await self.until(lambda: len(got()) >= len(data), f"{len(data)} publications")
        self.assertEqual(got(), data)

    async def test_connects_and_is_told_who_it_is(self):
        client = await self.connected()
        (context,) = client.seen.of("connected")
        self.assertEqual(str(uuid.UUID(context.client)), context.client)
        self.assertTrue(context.version)

    async def test_a_token_names_the_user_and_a_wrong_one_is_refused(self):
        client = await self.connected(token=token(self.name, info={"n": 1}))
        subscription = await self.subscribed(client)
        present = (await subscription.presence()).clients
        (info,) = present.values()
        self.assertEqual((info.user, self.read(info.conn_info)), (self.name, {"n": 1}))
        refused = self.client(token=token("eve") + "x")
        await refused.connect()
        await self.until(lambda: refused.seen.of("disconnected"), "the refusal")
        self.assertEqual(refused.seen.of("disconnected")[0].code, 3500)

    async def test_an_old_token_is_renewed(self):
        async def renewed():
            return token(self.name)

        client = await self.connected(token=token(self.name, exp=int(time.time()) - 10), get_token=renewed)
        self.assertEqual(len(client.seen.of("connected")), 1)

    async def test_publishes_and_gets_what_is_published(self):
        client = await self.connected(token=token(self.name))
        subscription = await self.subscribed(client)
        documents = [{"text": "Ελληνικά 😀 \u0000", "list": [1, 2.5, None, True]}, "text", 12, [], {}, "x" * 60_000]
        for document in documents:
            await self.publish(document, tags={"from": "HTTP"})
            await subscription.publish(self.written(document))
        await self.received(subscription, [document for document in documents for _ in range(2)])
        publications = [context.pub for context in subscription.seen.of("publication")]
        self.assertEqual([p.offset for p in publications], list(range(1, 13)))
        self.assertEqual((publications[0].tags, publications[0].info), ({"from": "HTTP"}, None))
        self.assertEqual((publications[1].info.user, publications[1].info.client), (self.name, client.client_id))

    async def test_presence_and_its_stats(self):
        alice, again, bob = [await self.connected(token=token(user)) for user in ("alice", "alice", "bob")]
        for client in (alice, again, bob):
            await self.subscribed(client)
        present = (await bob.presence(self.name)).clients
        self.assertEqual(set(present), {client.client_id for client in (alice, again, bob)})
        stats = await bob.presence_stats(self.name)
        self.assertEqual((stats.num_clients, stats.num_users), (3, 2))

    async def test_join_and_leave(self):
        channel = f"social:{self.name}"
        watcher = await self.subscribed(await self.connected(), channel, join_leave=True)
        guest = await self.connected(token=token("guest", info={"seat": 1}))
        await self.subscribed(guest, channel)

        def of_guest(name):
            return [context.info for context in watcher.seen.of(name) if context.info.user == "guest"]

        await self.until(lambda: of_guest("join"), "the join")
        await guest.disconnect()
        await self.until(lambda: of_guest("leave"), "the leave")
        for name in ("join", "leave"):
            self.assertEqual(self.read(of_guest(name)[0].conn_info), {"seat": 1})

    async def test_history_from_both_ends_and_from_a_position(self):
        subscription = await self.subscribed(await self.connected())
        for n in range(1, 11):
            await self.publish(n)

        async def history(**options):
            return [self.read(p.data) for p in (await subscription.history(**options)).publications]

        top = await subscription.history()
        self.assertEqual((top.publications, top.offset), ([], 10))
        self.assertEqual(await history(limit=-1), list(range(1, 11)))
        self.assertEqual(await history(limit=3), [1, 2, 3])
        self.assertEqual(await history(limit=3, reverse=True), [10, 9, 8])
        since = StreamPosition(offset=4, epoch=top.epoch)
        self.assertEqual(await history(limit=3, since=since), [5, 6, 7])
        self.assertEqual(await history(limit=10, since=since, reverse=True), [3, 2, 1])
        with self.assertRaises(ReplyError) as caught:
            await history(limit=1, since=StreamPosition(offset=4, epoch="other"))
        self.assertEqual(caught.exception.code, 112)

    async def test_rpc_answers_with_data_and_with_errors(self):
        client = await self.connected()
        result = await client.rpc("add", self.written({"a": [1, "ü"]}))
        self.assertEqual(self.read(result.data), ["add", {"a": [1, "ü"]}])
        with self.assertRaises(ReplyError) as caught:
            await client.publish("nowhere:x", self.written(1))
        self.assertEqual((caught.exception.code, caught.exception.temporary), (102, False))

    async def test_a_cut_connection_recovers_what_it_missed(self):
        proxy = Proxy()
        address = await proxy.start(self.daemon.address)
        self.addAsyncCleanup(proxy.close)
        client = await self.connected(address=address)
        subscription = await self.subscribed(client, positioned=True, recoverable=True)
        await self.publish(0)
        await self.received(subscription, [0])
        proxy.cut()
        await self.until(lambda: subscription.state == SubscriptionState.SUBSCRIBING, "the cut is noticed")
        for n in range(1, 11):
            await self.publish(n)
        proxy.allow()
        await self.received(subscription, list(range(11)))
        again = subscription.seen.of("subscribed")[1]
        self.assertEqual((again.was_recovering, again.recovered), (True, True))
        await self.publish(11)
        await self.received(subscription, list(range(12)))
        # More than the history keeps: it is told so.
        proxy.cut()
        await self.until(lambda: subscription.state == SubscriptionState.SUBSCRIBING, "the second cut is noticed")
        for n in range(101):
            await self.publish(n)
        proxy.allow()
        await self.until(lambda: len(subscription.seen.of("subscribed")) == 3, "it is subscribed again")
        again = subscription.seen.of("subscribed")[2]
        self.assertEqual((again.was_recovering, again.recovered, again.stream_position.offset), (True, False, 113))
        await self.publish("live")
        await self.received(subscription, [*range(12), "live"])

    async def test_the_server_subscribes_unsubscribes_and_disconnects(self):
        client = await self.connected(token=token(self.name))
        user, channel = self.name, self.name
        await self.call(self.api.subscribe, SubscribeRequest(user=user, channel=channel, data={"hello": 1}))
        await self.until(lambda: client.seen.of("subscribed"), "the subscription")
        (context,) = client.seen.of("subscribed")
        self.assertEqual((context.channel, self.read(context.data)), (channel, {"hello": 1}))
        await self.publish("pushed")
        await self.until(lambda: client.seen.of("publication"), "the publication")
        (context,) = client.seen.of("publication")
        self.assertEqual((context.channel, self.read(context.pub.data)), (channel, "pushed"))
        await self.call(self.api.unsubscribe, UnsubscribeRequest(user=user, channel=channel))
        await self.until(lambda: client.seen.of("unsubscribed"), "its end")
        own = await self.subscribed(client, f"{channel}-own")
        await self.call(self.api.unsubscribe, UnsubscribeRequest(user=user, channel=own.channel))
        await self.until(lambda: own.seen.of("unsubscribed"), "the end of its own")
        self.assertEqual(own.seen.of("unsubscribed")[0].code, 2000)
        await self.call(self.api.disconnect, DisconnectRequest(user=user))
        await self.until(lambda: client.seen.of("disconnected"), "the end of the connection")
        (context,) = client.seen.of("disconnected")
        self.assertEqual((context.code, context.reason), (3503, "force disconnect"))

    async def test_unsubscribe_ends_the_flow_and_subscribe_begins_it_again(self):
        client = await self.connected()
        subscription = await self.subscribed(client)
        await self.publish("before")
        await self.received(subscription, ["before"])
        await subscription.unsubscribe()
        # Whatever came on the same connection before this answer is here.
        self.assertEqual((await client.presence_stats(self.name)).num_clients, 0)
        await self.publish("between")
        await subscription.subscribe()
        await subscription.ready()
        await self.publish("after")
        await self.received(subscription, ["before", "after"])
        self.assertEqual(len(client.seen.of("connecting")), 1, "never a second connection")


class JsonOnIoUring(Cases, unittest.IsolatedAsyncioTestCase):
    driver, use_protobuf = "io-uring", False


class ProtobufOnIoUring(Cases, unittest.IsolatedAsyncioTestCase):
    driver, use_protobuf = "io-uring", True


class JsonOnMio(Cases, unittest.IsolatedAsyncioTestCase):
    driver, use_protobuf = "mio", False


class ProtobufOnMio(Cases, unittest.IsolatedAsyncioTestCase):
    driver, use_protobuf = "mio", True


if __name__ == "__main__":
    unittest.main()
