"""Other programs that start and keep commands, for comparison; used where they are installed."""

from typing import Final

from benchmarks.peers.base import Peer
from benchmarks.peers.circus import Circus
from benchmarks.peers.conmon import Conmon
from benchmarks.peers.queues import Nq, TaskSpooler
from benchmarks.peers.s6 import S6
from benchmarks.peers.supervisor import Supervisor

PEERS: Final[tuple[type[Peer], ...]] = (TaskSpooler, Nq, S6, Conmon, Circus, Supervisor)

__all__ = ["PEERS", "Peer"]
