"""What was measured on what: the fingerprint of a device."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime

PROTOCOL = 2  # of measuring: numbers of another are never mixed with these


@dataclass(frozen=True)
class Device:
    """Everything that a latency depends on besides the network. Numbers of different fingerprints are never mixed."""

    cpu: str
    cores: int
    threads: int
    provider: str
    onnxruntime: str
    system: str

    @classmethod
    def here(cls, *, threads: int = 1, provider: str = "CPUExecutionProvider") -> Device:
        """This machine, with ONNX Runtime's provider of this name."""
        return cls(
            cpu=_cpu_model(),
            cores=os.cpu_count() or 1,
            threads=threads,
            provider=provider,
            onnxruntime=onnxruntime.__version__,
            system=f"{platform.system()} {platform.machine()}",
        )

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits, equal for equal devices."""
        return hashlib.sha256(json.dumps({**asdict(self), "protocol": PROTOCOL}, sort_keys=True).encode()).hexdigest()[
            :12
        ]

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        of = "" if self.provider == "CPUExecutionProvider" else f", {self.provider}"
        return f"{self.cpu} ({self.cores} cores, {threads}{of}), ONNX Runtime {self.onnxruntime}, {self.system}"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown CPU"
