"""Workers of one cluster on this machine, which talk over the loopback device."""

import json
import socket


def tf_configs(count: int) -> list[str]:
    """TF_CONFIG of each of so many workers, at ports that are free."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        json.dumps(
            {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
        )
        for i in range(count)
    ]
