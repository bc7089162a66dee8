"""A process that was forked closes its copies of its parent's sockets, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import socket

from aggregator.tasks.inherited import close_inherited_sockets

PATIENCE_SECONDS = 60


def _close_and_wait(closed: int) -> None:
    """Close what was inherited, say so, and live until the end is sent."""
    assert close_inherited_sockets() >= 1
    os.write(closed, b"x")
    signal.pause()


def test_what_the_parent_closes_is_closed_and_its_epoll_tells_of_it_no_more() -> None:
    is_closed, closed = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        child = multiprocessing.get_context("fork").Process(target=_close_and_wait, args=(closed,))
        child.start()
        try:
            assert select.select([is_closed], [], [], PATIENCE_SECONDS)[0]
            assert os.read(is_closed, 1) == b"x"
            # It is still one connection, on which the child has said nothing.
            ours.sendall(b"hello")
            assert theirs.recv(5) == b"hello"
            number = ours.fileno()
            with select.epoll() as poller, theirs:
                poller.register(ours, select.EPOLLIN)
                ours.close()  # no shutdown: with a copy left, neither side would hear of it
                theirs.settimeout(PATIENCE_SECONDS)
                assert theirs.recv(1) == b""
                with socket.socket() as successor:
                    assert successor.fileno() == number
                    assert poller.poll(0) == []
        finally:
            child.kill()
            child.join()
            os.close(is_closed)
            os.close(closed)
