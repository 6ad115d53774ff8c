"""What tells devices apart, and what does not."""

import platform
import stat
from dataclasses import asdict, fields, replace

import pytest

from latency import Device
from latency.device import UNKNOWN, allowed_cores, card_of, cpu_of, last_level_cache_bytes
from latency.rounds import FLUSH_BYTES

X86 = """processor\t: {n}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: {model}
model name\t: Intel(R)  Xeon(R) Processor
stepping\t: 1
microcode\t: 0x1
cpu MHz\t\t: 2599.998
"""
ARM = """processor\t: {n}
BogoMIPS\t: 48.00
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 4
"""
BOARD = "Hardware\t: BCM2835\nRevision\t: c03111\nSerial\t\t: 100000001\nModel\t\t: Plain Board 4 Rev 1.1\n"


def test_processors_of_one_name_are_told_apart():
    """Virtual machines of different hardware are often called alike."""
    one, other = ("\n".join(X86.format(n=n, model=model) for n in range(2)) for model in (143, 173))
    assert cpu_of(one, {0, 1}) == "Intel(R) Xeon(R) Processor, GenuineIntel 6 143 1"
    assert cpu_of(other, {0, 1}) == "Intel(R) Xeon(R) Processor, GenuineIntel 6 173 1"
    assert cpu_of(one.replace("2599.998", "3100.001").replace(": 0x1", ": 0x2b"), {0, 1}) == cpu_of(one, {0, 1})


def test_a_board_with_two_kinds_of_core_is_another_device_on_either_kind():
    text = "\n".join([*(ARM.format(n=n, part="0xd05") for n in (0, 1)), ARM.format(n=2, part="0xd0b"), BOARD])
    assert cpu_of(text, {0, 1}) == "Plain Board 4 Rev 1.1, 0x41 0x0 0xd05 4"
    assert cpu_of(text, {2}) == "Plain Board 4 Rev 1.1, 0x41 0x0 0xd0b 4"
    assert cpu_of(text, {0, 1, 2}) == "Plain Board 4 Rev 1.1, 0x41 0x0 0xd05 4 + 0x41 0x0 0xd0b 4"
    assert "100000001" not in cpu_of(text, {0, 1, 2})


def test_a_system_that_says_nothing_of_its_processor_still_has_one():
    assert cpu_of("", {0}) == cpu_of("isa : rv64imafdc", {0}) == platform.machine()


def test_this_machine_has_a_fingerprint_that_stays(monkeypatch):
    here = Device.here()
    assert here.fingerprint != Device.here(threads=2).fingerprint
    assert len(here.cpu) > 2
    assert here.cores == len(allowed_cores())
    assert here.flush_bytes == FLUSH_BYTES
    if platform.system() == "Linux":
        monkeypatch.setattr(platform, "release", lambda: "99.1.2-new-kernel")
        monkeypatch.setattr(platform, "version", lambda: "#2 SMP, built tomorrow")
    assert Device.here() == here


def test_every_field_is_part_of_the_fingerprint():
    here = Device.here()
    changed = [
        replace(here, **{field.name: value + 1 if isinstance(value := asdict(here)[field.name], int) else value + "x"})
        for field in fields(here)
    ]
    assert len({device.fingerprint for device in (here, *changed)}) == len(changed) + 1


def test_fewer_cores_are_another_device(monkeypatch):
    before = Device.here()
    monkeypatch.setattr("latency.device.allowed_cores", lambda: set(range(64)))
    assert Device.here().cores == 64
    assert Device.here().fingerprint != before.fingerprint


CUDA = "CUDAExecutionProvider"


def answering(folder, text):
    """A PATH on which nvidia-smi says this, or where there is none."""
    folder.mkdir()
    if text is not None:
        tool = folder / "nvidia-smi"
        tool.write_text(
            f"#!/bin/sh\ntest \"$*\" = '--query-gpu=name,uuid --format=csv,noheader' || exit 2\nprintf '{text}'\n"
        )
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return str(folder)


@pytest.mark.skipif(platform.system() == "Windows", reason="the tool of this test is a shell script")
def test_another_graphics_card_is_another_device(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", answering(tmp_path / "none", None))
    processor, unknown = Device.here(), Device.here(provider=CUDA)
    assert (processor.accelerator, unknown.accelerator) == ("", UNKNOWN)
    monkeypatch.setenv("PATH", answering(tmp_path / "one", "NVIDIA H100, GPU-1\\n"))
    one = Device.here(provider=CUDA)
    assert one.accelerator == "NVIDIA H100"
    assert "CUDAExecutionProvider on NVIDIA H100" in str(one)
    assert Device.here().fingerprint == processor.fingerprint
    monkeypatch.setenv("PATH", answering(tmp_path / "other", "NVIDIA L4, GPU-2\\n"))
    assert len({each.fingerprint for each in (unknown, one, Device.here(provider=CUDA))}) == 3
    assert Device.here(provider="DmlExecutionProvider").accelerator == UNKNOWN


@pytest.mark.parametrize(
    ("visible", "by_place", "name"),
    [
        ("0", True, "Small, 8 GB"),
        ("1", True, "Large"),
        ("1,0", True, "Large"),
        ("0", False, "Large or Small, 8 GB"),
        ("GPU-ab", False, "Large"),
        ("GPU-a", False, UNKNOWN),
        ("7", True, UNKNOWN),
        ("", True, UNKNOWN),
        ("MIG-ab", True, UNKNOWN),
    ],
)
def test_the_first_card_that_a_process_may_see_is_named(visible, by_place, name):
    assert card_of("Small, 8 GB, GPU-aa01\nLarge, GPU-ab02\n", visible, by_place=by_place) == name


def test_the_largest_cache_is_found(tmp_path):
    for i, size in enumerate(("48K", "2048K", "96M\n")):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(size)
    assert last_level_cache_bytes(tmp_path) == 96 * 2**20
    assert last_level_cache_bytes(tmp_path / "nothing") is None
