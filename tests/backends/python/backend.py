#!/usr/bin/env python3
"""A backend behind trunkline: chat with presence, notifications with an unread counter, a tunnel that echoes.

Only the standard library: what it shows is HTTP. Its state is in memory where a real one has a database, and its users
are made up. docs/backend.md tells the story, tests/js/backends.test.mjs runs it.
"""

import hashlib
import hmac
import http.client
import json
import os
import re
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "3000"))
TRUNKLINE = os.environ.get("TRUNKLINE", "127.0.0.1:8000")
API_KEY = "key-of-the-example"
HOOKS_KEY = "Bearer key-of-the-hooks"
EVENTS_SECRET = b"secret-of-the-events"

SESSIONS = {"session-of-ann": "ann", "session-of-bob": "bob", "session-of-carol": "carol"}
MEMBERS = {"chat:team": {"ann", "bob"}}

# One thread a request: what they share is read and changed under the lock, and nobody waits for the network with it.
lock = threading.Lock()
last_seen = {}  # user: milliseconds since 1970
told = {"epoch": "", "seq": 0, "events": 0, "gaps": []}
unread = {}  # user: ids of notifications
phones = {}  # id of a notification: users whose phones got it
tunnels = {}  # connection: {user, code}
versions = {"epoch": uuid.uuid4().hex, "newest": 0}


def text_of(data, key):
    """A text that a stranger sent, or nothing. Whatever else came must not end in a 500."""
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


# --- trunkline's API
class Refused(Exception):
    """trunkline did not do what it was asked, or is not there."""


def call(path, body, kind):
    """One call of the API: status and body of the answer."""
    connection = http.client.HTTPConnection(TRUNKLINE, timeout=5)
    try:
        connection.request("POST", f"/api/{path}", body, {"X-API-Key": API_KEY, "Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Refused(f"{path}: {error}") from error
    finally:
        connection.close()


def api(method, request):
    """One call with JSON: its result. Errors of the API come with status 200."""
    status, body = call(method, json.dumps(request), "application/json")
    answer = json.loads(body) if status == 200 else {}
    if status != 200 or "error" in answer:
        raise Refused(f"{method}: {status} {body.decode()}")
    return answer.get("result", answer)


# --- chat
def on_connect(hook_call, headers):
    """A browser shows the site's cookie, an app its session in `data`."""
    cookie = re.search(r"(?:^|;\s*)session=([^;]*)", headers.get("Cookie", ""))
    session = cookie[1] if cookie else text_of(hook_call.get("data"), "session")
    user = SESSIONS.get(session)
    if user is None:
        return {"disconnect": {"code": 4501, "reason": "sign in first"}}
    return {"result": {"user": user, "info": {"name": user.title()}}}


def on_subscribe(hook_call, headers):
    if hook_call["user"] not in MEMBERS.get(hook_call["channel"], ()):
        return {"error": {"code": 403, "message": "members only"}}
    return {"result": {}}


def on_publish(hook_call, headers):
    # Asked of everybody who tries to publish, subscribed or not.
    if hook_call["user"] not in MEMBERS.get(hook_call["channel"], ()):
        return {"error": {"code": 403, "message": "members only"}}
    text = text_of(hook_call.get("data"), "text").strip()
    if not 0 < len(text) <= 500:
        return {"error": {"code": 400, "message": "a text has 1 to 500 characters"}}
    return {"result": {"data": {"author": hook_call["user"], "text": text}}}


def is_signed(signature, body):
    """Whether trunkline sent this, and not long ago."""
    parts = dict(part.partition("=")[::2] for part in signature.split(","))
    signed = parts.get("t", "").encode() + b"." + body
    wanted = hmac.new(EVENTS_SECRET, signed, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted.encode(), parts.get("v1", "").encode()):
        return False
    return abs(time.time() - int(parts["t"])) < 300


def on_events(batch):
    with lock:
        if batch["epoch"] != told["epoch"]:
            # trunkline was restarted without a store, and numbers begin at 1.
            told.update(epoch=batch["epoch"], seq=0)
        for event in batch["events"]:
            if event["seq"] <= told["seq"]:
                continue  # a batch that was sent again
            told["seq"] = event["seq"]
            if event["type"] == "gap":
                told["gaps"].append([event["from"], event["to"]])
            else:
                told["events"] += 1
                last_seen[event["user"]] = event["time_ms"]


# --- notifications
def notify(note, headers):
    """{id, users, text}. May be repeated: nobody gets it twice and nothing is counted twice."""
    with lock:
        for user in note["users"]:
            unread.setdefault(user, set()).add(note["id"])
    message = {"id": note["id"], "text": note["text"]}
    pushed = api("push", {"users": note["users"], "data": message, "idempotency_key": note["id"]})
    with lock:
        phones[note["id"]] = pushed["absent"]  # here the phones would be rung
    tell_unread(note["users"])
    return {"connections": pushed["connections"], "phones": pushed["absent"]}


def tell_unread(users):
    """The count of each user, on the personal channel. `version` keeps an older count from coming after a newer one."""
    commands = []
    with lock:
        for user in users:
            versions["newest"] += 1
            version = {"version": versions["newest"], "version_epoch": versions["epoch"]}
            data = {"unread": len(unread.get(user, ()))}
            commands.append({"publish": {"channel": f"#{user}", "data": data, **version}})
    for reply in api("batch", {"commands": commands, "parallel": True})["replies"]:
        if "error" in reply:
            raise Refused(f"publish: {reply['error']}")


def read_all(request, headers):
    user = SESSIONS[text_of(request, "session")]
    with lock:
        unread.pop(user, None)
    tell_unread([user])
    return {}


# --- tunnel
def on_tunnel(headers, body):
    kind, connection = headers["X-Trunkline-Type"], headers["X-Trunkline-Connection"]
    if kind == "connect":
        hello = json.loads(body)
        if not hello["authenticated"]:  # no ticket
            return 403, None, b""
        with lock:
            tunnels[connection] = {"user": hello["user"], "code": None}
        return 200, "application/json", json.dumps({"message": f"hello {hello['user']}"}).encode()
    if kind == "message":
        # A body is a message to the client: text or binary as its type says.
        return 200, headers["Content-Type"], body
    end = json.loads(body)
    with lock:
        tunnels[connection] = {"user": end["user"], "code": end["code"]}
    return 204, None, b""


def ticket(request, headers):
    """A URL for a client that can show nothing else, like a mini program: good once, and for a minute."""
    user = SESSIONS[text_of(request, "session")]
    made = api("tunnel/echo/tickets", {"user": user, "ttl_s": 60, "data": {"app": "mini program"}})
    return {"url": f"ws://{TRUNKLINE}{made['url']}"}


def speak(request, headers):
    """Says something to a tunnel's client, unasked. 410: it has gone."""
    status, _ = call(f"connections/{request['connection']}", request["text"].encode(), "text/plain")
    return {"status": status}


# --- the server
HOOKS = {"connect": on_connect, "subscribe": on_subscribe, "publish": on_publish}
APPLICATION = {"/notify": notify, "/read": read_all, "/ticket": ticket, "/speak": speak}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    wbufsize = -1  # head and body leave in one packet

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        base, _, name = self.path.rpartition("/")
        if base != "/trunkline":
            return self.run(APPLICATION.get(self.path), body)
        if name == "events":
            if not is_signed(self.headers.get("X-Trunkline-Signature", ""), body):
                return self.answer(403)
            on_events(json.loads(body))
            return self.answer(204)
        if self.headers["Authorization"] != HOOKS_KEY:
            return self.answer(403)
        if name == "tunnel":
            return self.answer(*on_tunnel(self.headers, body))
        self.run(HOOKS.get(name), body)

    def do_GET(self):
        with lock:
            state = {"last_seen": last_seen, "told": told, "phones": phones, "tunnels": tunnels}
            self.answer(200, "application/json", json.dumps(state).encode())

    def run(self, handler, body):
        try:
            result = handler(json.loads(body), self.headers) if handler else None
            self.answer(200 if handler else 404, "application/json", json.dumps(result).encode())
        except (KeyError, TypeError, ValueError) as error:
            self.answer(400, "text/plain", f"{error!r}\n".encode())
        except Refused as error:
            self.answer(502, "text/plain", f"{error}: try again\n".encode())

    def answer(self, status, kind=None, body=b""):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer.request_queue_size = 128  # a crowd that connects at once
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
