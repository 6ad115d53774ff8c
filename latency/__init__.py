"""What networks cost on a device: counts, ONNX graphs, timings, block tables."""

from .costs import DeviceCosts
from .counts import Counts, PopulationCosts, count
from .device import Device
from .measuring import MeasuringPlan, measure_plan
from .model import LatencyModel, LearnedLatency, measure_learned
from .modelling import calibration_of, fit_latency_model, plan_latency_model, read_latency_model
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
    "MeasuringPlan",
    "Parity",
    "ParityError",
    "PopulationCosts",
    "Timing",
    "build_onnx",
    "calibration_of",
    "count",
    "export_onnx",
    "fit_latency_model",
    "measure",
    "measure_learned",
    "measure_plan",
    "measure_table",
    "plan_latency_model",
    "read_latency_model",
]
