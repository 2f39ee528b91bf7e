"""Holds back what the kernel routes to a network device of its own (TUN): `slow.py DEVICE MS JITTER_MS`.

What comes out of it again is routed by the rules for packets from that device. Where the kernel has netem, `tc` does this.
"""

import collections
import fcntl
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

device, delay, jitter = sys.argv[1], float(sys.argv[2]) / 1000, float(sys.argv[3]) / 1000
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
print("ready", flush=True)
waiting = collections.deque()
while True:
    timeout = max(0, waiting[0][0] - time.monotonic()) if waiting else None
    if select.select([tun], [], [], timeout)[0]:
        packet = os.read(tun, 65536)
        due = time.monotonic() + delay + random.uniform(-jitter, jitter)
        # In the order in which they came, as on one wire.
        waiting.append((max(due, waiting[-1][0]) if waiting else due, packet))
    while waiting and waiting[0][0] <= time.monotonic():
        os.write(tun, waiting.popleft()[1])
