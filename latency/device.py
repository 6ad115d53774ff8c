"""What was measured on what: the fingerprint of a device."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime

from .rounds import FLUSH_BYTES

PROTOCOL = 4  # of measuring: numbers of another are never mixed with these
# What /proc/cpuinfo says of each core that tells processors of one name apart; on x86, then on ARM.
KINDS = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part", "CPU revision")


@dataclass(frozen=True)
class Device:
    """Everything that a latency depends on besides the network. Numbers of different fingerprints are never mixed.

    Nothing of it changes by itself when the machine starts again.

    Attributes:
        cpu: its name, and what kinds of core it has.
        cores: that this process may run on.
        system: with the distribution or release, but not the kernel's version, which updates change.
        flush_bytes: of the buffer that is written between runs.
    """

    cpu: str
    cores: int
    threads: int
    provider: str
    onnxruntime: str
    system: str
    flush_bytes: int = FLUSH_BYTES

    @classmethod
    def here(cls, *, threads: int = 1, provider: str = "CPUExecutionProvider") -> Device:
        """This machine, with ONNX Runtime's provider of this name."""
        return cls(
            cpu=_cpu_model(),
            cores=len(allowed_cores()),
            threads=threads,
            provider=provider,
            onnxruntime=onnxruntime.__version__,
            system=" ".join([platform.system(), platform.machine(), _release()]).strip(),
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


def allowed_cores() -> Set[int]:
    """Numbers of the cores that this process may run on, where the system tells; else of all."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cpu_model() -> str:
    try:
        return cpu_of(Path("/proc/cpuinfo").read_text(), allowed_cores())
    except OSError:  # not Linux
        return platform.processor() or platform.machine() or "unknown CPU"


def cpu_of(cpuinfo: str, cores: Set[int]) -> str:
    """The processor's or the board's name, and the kinds of those cores, as Linux tells them."""
    told = [
        {key.strip(): " ".join(value.split()) for key, _, value in (line.partition(":") for line in part.splitlines())}
        for part in cpuinfo.split("\n\n")
    ]
    ours = [each for each in told if each.get("processor", "").isdecimal() and int(each["processor"]) in cores]
    names = [each[key] for key in ("model name", "Model") for each in (*ours, *told) if each.get(key)]
    kinds = {" ".join(each[key] for key in KINDS if key in each) for each in ours} - {""}
    return ", ".join([*names[:1], " + ".join(sorted(kinds))]).strip(", ") or platform.machine() or "unknown CPU"


def _release() -> str:
    if platform.system() != "Linux":
        return platform.release().partition(".")[0]
    try:
        told = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{told['ID']} {told.get('VERSION_ID', '')}".strip()
