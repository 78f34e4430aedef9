"""The bad piece of wire: packets that the router sends this way arrive late, or never. Its kernel need not know how."""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from socket import inet_ntoa

DEVICE = "wire0"
_TUN = Path("/dev/net/tun")
_SET_DEVICE, _PACKETS_ALONE = 0x400454CA, 0x1001  # TUNSETIFF, IFF_TUN | IFF_NO_PI
_MOST = 65536


@dataclass(frozen=True, slots=True)
class Trouble:
    """The seconds that a packet takes, with up to `jitter` more of them, and the share of packets that is lost."""

    delay: float
    jitter: float
    loss: float


def main() -> None:
    """Reads `from to delay jitter loss` and `from to` from its input, a line each; ends with it."""
    device = os.open(_TUN, os.O_RDWR)
    fcntl.ioctl(device, _SET_DEVICE, struct.pack("16sH", DEVICE.encode(), _PACKETS_ALONE))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    troubles: dict[tuple[str, str], Trouble] = {}
    waiting: list[tuple[float, int, bytes]] = []
    dice, count = random.Random(1), 0
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([device, sys.stdin], [], [], pause)
        if sys.stdin in ready:
            line = sys.stdin.readline().split()
            if not line:
                return
            troubles.pop((line[0], line[1]), None)
            if line[2:]:
                troubles[line[0], line[1]] = Trouble(*map(float, line[2:]))
        if device in ready:
            packet = os.read(device, _MOST)
            trouble = troubles.get((inet_ntoa(packet[12:16]), inet_ntoa(packet[16:20])), Trouble(0.0, 0.0, 0.0))
            if dice.random() >= trouble.loss:
                count += 1
                late = trouble.delay + dice.uniform(0.0, trouble.jitter)
                heapq.heappush(waiting, (time.monotonic() + late, count, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(device, heapq.heappop(waiting)[2])


if __name__ == "__main__":
    main()
