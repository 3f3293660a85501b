"""What the system reports of the processor."""

import pytest

from imgcls.system import cpu


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_cpu_name_is_the_model_s(cpuinfo):
    assert cpu.cpu_name()  # the architecture, without the file
    cpuinfo.write_text("processor : 0\nmodel name\t: AMD EPYC 9354: 32-Core\nflags : fpu\nmodel name : other\n")
    assert cpu.cpu_name() == "AMD EPYC 9354: 32-Core"


@pytest.mark.parametrize(("flags", "expected"), [("fpu amx_bf16 sse", True), ("avx512_bf16", True), ("avx512f", False)])
def test_has_bf16_follows_the_flags(cpuinfo, flags, expected):
    assert not cpu.has_bf16()
    cpuinfo.write_text(f"flags : {flags}\n")
    assert cpu.has_bf16() is expected
