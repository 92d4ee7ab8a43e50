"""A thermostat: it reports, takes orders, and misses nothing. One command: clients/examples/start.sh device

It reports once a second. An order waits at Rainbow while the device is away, and is carried out once, also over
restarts.
"""

import asyncio
import contextlib
import os
from pathlib import Path

from rainbow.client import Client, FileStorage

URL = f"ws://127.0.0.1:{os.environ.get('EXAMPLE_RAINBOW_PORT', '1984')}/connect/"
MEMORY = Path(os.environ.get("DEVICE_MEMORY", "device.memory"))
REPORT, SET = 1, 2


async def main():
    celsius, wanted = 15.0, 20.0

    def obey(message):
        """What it returns is the reply, which the caller gets."""
        nonlocal wanted
        if message.type == SET:
            wanted = message.json()["celsius"]
            return {"celsius": celsius, "wanted": wanted}

    client = Client(URL, device_id="thermostat-1", os="python", storage=FileStorage(MEMORY))
    client.on("message", obey)
    client.on("close", lambda closed: print(f"no connection: {closed.code} {closed.reason}", flush=True))
    async with client:
        while True:
            celsius += (wanted - celsius) / 10
            # An old reading is worth nothing: QoS 0.
            await client.send(REPORT, {"celsius": celsius, "wanted": wanted}, qos=0)
            await asyncio.sleep(1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
