"""What can be built: search spaces, architectures, layer records."""

from .catalogue import PUBLISHED, SPACES, get_space
from .errors import InputError
from .graph import GraphBatch
from .layers import Layer, Network, NetworkBuilder
from .space import Arch, Population, SearchSpace, Task, parse_arch

__all__ = [
    "PUBLISHED",
    "SPACES",
    "Arch",
    "GraphBatch",
    "InputError",
    "Layer",
    "Network",
    "NetworkBuilder",
    "Population",
    "SearchSpace",
    "Task",
    "get_space",
    "parse_arch",
]
