"""What networks cost on a device: counts, ONNX graphs, timings, block tables."""

from .costs import DeviceCosts, read_latency_model
from .counts import Counts, PopulationCosts, count
from .device import Device
from .model import LatencyModel, LearnedLatency, measure_learned
from .onnx_graph import Parity, ParityError, build_onnx, export_onnx
from .runtime import Timing, measure
from .table import LatencyTable, measure_table

__all__ = [
    "Counts",
    "Device",
    "DeviceCosts",
    "LatencyModel",
    "LatencyTable",
    "LearnedLatency",
    "Parity",
    "ParityError",
    "PopulationCosts",
    "Timing",
    "build_onnx",
    "count",
    "export_onnx",
    "measure",
    "measure_learned",
    "measure_table",
    "read_latency_model",
]
