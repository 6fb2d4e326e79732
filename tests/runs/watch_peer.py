"""Run by tests: one of the processes of a run that watch each other, and does what its arguments say.

`python watch_peer.py first COUNT WHAT` prints its port; `python watch_peer.py INDEX PORT WHAT`. WHAT is `wait`, `heed`
(to wait for a signal to any process) or an exit status to end with.
"""

import os
import sys
import time

from dipod_jax.runs import watch
from dipod_jax.runs.signals import stop_requested

watch.LEAVE_S = 0.5


def main(who: str, number: str, what: str) -> None:
    if who == "first":
        server, port = watch.listen()
        print(port, flush=True)
        peers = watch.accept_all(server, int(number))
    else:
        peers = watch.connect("127.0.0.1", int(number), int(who))
    watching = watch.Watch(peers, "continue with --resume")
    with stop_requested() as stop:
        watching.take(stop)
        print("watching", flush=True)
        if what.isdecimal():
            watching.end(int(what))
            os._exit(int(what))
        for _ in range(600):
            if what == "heed" and stop.is_set():
                status = stop.stopped().exit_status
                watching.end(status)
                os._exit(status)
            time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
