"""What networks cost on a device: counts, ONNX graphs, timings, block tables."""

from .costs import DeviceCosts
from .counts import Counts, PopulationCosts, count
from .device import Device
from .onnx_graph import Parity, ParityError, build_onnx, export_onnx
from .runtime import Timing, measure
from .table import LatencyTable, measure_table

__all__ = [
    "Counts",
    "Device",
    "DeviceCosts",
    "LatencyTable",
    "Parity",
    "ParityError",
    "PopulationCosts",
    "Timing",
    "build_onnx",
    "count",
    "export_onnx",
    "measure",
    "measure_table",
]
