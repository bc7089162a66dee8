"""A child of the pool closes the sockets that it has inherited: its parent's connections are its parent's alone."""

from __future__ import annotations

import gc
import os
import socket

_STANDARD_ERROR = 2


def close_inherited_sockets() -> int:
    """Close this process' copies of all sockets but standard input and output; gives how many.

    To be called right after the fork, before this process opens any. The connections themselves stay as they are:
    nothing is said on them. While a child holds a copy, what its parent closes is not closed, and an epoll of the
    parent goes on telling of it under a number that another connection has by then (docs/pitfalls.md#inherited).
    """
    inherited = [one for one in gc.get_objects() if issubclass(type(one), socket.socket)]
    closed = 0
    for one in inherited:
        if one.fileno() > _STANDARD_ERROR:
            # Not `close`, which other objects may hold off: and none of them may close that number again later.
            os.close(one.detach())
            closed += 1
    return closed
