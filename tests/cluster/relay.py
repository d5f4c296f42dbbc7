"""The long cable between two sites: what passes through it takes its time, and some of it is lost.

    relay.py NETWORK OTHER        in the router's namespace; reads `delay=0.02 loss=0.01` line by line, ends with its input

Both directions are routed into one TUN device and come out of another one, each packet as late as was said last. The order
stays. Made for some thousand packets a second.
"""

import collections
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, TUN, NO_INFO = 0x400454CA, 0x0001, 0x1000
TABLE = 160


def device(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22s", name.encode(), TUN | NO_INFO, b""))
    subprocess.run(["ip", "link", "set", name, "up", "txqueuelen", "5000"], check=True)
    # What comes out of the far end has a source that lives elsewhere.
    subprocess.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"], check=True)
    return file


def main():
    one, other = sys.argv[1:3]
    near, far = device("near"), device("far")
    subprocess.run(["ip", "route", "add", "default", "dev", "near", "table", str(TABLE)], check=True)
    for number, (source, target) in enumerate(((one, other), (other, one))):
        # Not what comes out of the cable: that goes on by the usual table.
        words = ["from", source, "to", target, "iif", f"to-{'ab'[number]}", "lookup", str(TABLE), "priority", str(200 + number)]
        subprocess.run(["ip", "rule", "add", *words], check=True)
    print("ready", flush=True)
    delay, loss, waiting = 0.0, 0.0, collections.deque()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            try:
                os.write(far, waiting.popleft()[1])
            except OSError:
                pass
        pause = waiting[0][0] - now if waiting else 1.0
        readable, _, _ = select.select([near, sys.stdin], [], [], max(0.0, min(pause, 1.0)))
        if sys.stdin in readable:
            line = sys.stdin.readline()
            if not line:
                return
            said = dict(word.split("=") for word in line.split())
            delay, loss = float(said.get("delay", delay)), float(said.get("loss", loss))
            print("ok", flush=True)
        if near in readable:
            now = time.monotonic()
            try:
                while len(waiting) < 20_000:
                    packet = os.read(near, 65536)
                    if random.random() >= loss:
                        # A shorter delay from now on overtakes nobody.
                        due = max(now + delay, waiting[-1][0] if waiting else 0.0)
                        waiting.append((due, packet))
            except BlockingIOError:
                pass


if __name__ == "__main__":
    main()
