"""Runs a suite of others as it is published: theirs.py PORT NAME... [--without CASE...]

They expect a server at port 8000 of this host. That port leads to ours here; nothing else differs.
"""

import asyncio
import socket
import sys
import unittest

THEIR_PORT = 8000


def ours(host, port):
    return ("127.0.0.1", OUR_PORT) if port == THEIR_PORT else (host, port)


def redirect():
    connect, connect_blocking = asyncio.BaseEventLoop.create_connection, socket.create_connection

    async def create_connection(loop, factory, host=None, port=None, **rest):
        host, port = ours(host, port)
        return await connect(loop, factory, host, port, **rest)

    def create_connection_blocking(address, *rest, **named):
        return connect_blocking(ours(*address), *rest, **named)

    asyncio.BaseEventLoop.create_connection = create_connection
    socket.create_connection = create_connection_blocking


def cases(suite):
    for each in suite:
        yield from cases(each) if isinstance(each, unittest.TestSuite) else [each]


OUR_PORT = int(sys.argv[1])
redirect()
sys.path.insert(0, ".")
names, _, without = " ".join(sys.argv[2:]).partition("--without")
chosen = [case for case in cases(unittest.defaultTestLoader.loadTestsFromNames(names.split())) if case.id() not in without.split()]
ended = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(chosen))
sys.exit(not ended.wasSuccessful())
