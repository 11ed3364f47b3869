"""No figure is above its ceiling: `python -m tests.static_figures` prints them. When one falls, `--write` lowers its
ceiling."""

import re
from dataclasses import replace

import pytest

from tests.cuda_code.compiling import needs_disassembler, needs_nvcc, parse

from . import figures, launches, sass
from .figures import Figure
from .loops import innermost, loops
from .parts import PARTS

FOUND: dict[str, list[Figure]] = {}


def found(part):
    """Of this machine, once; skips where it cannot measure."""
    why_not = PARTS[part].why_not()
    if why_not is not None:
        pytest.skip(why_not)
    if part not in FOUND:
        FOUND[part] = PARTS[part].measure()
    return FOUND[part]


# Each takes up to 15 s: two architectures' code is disassembled, a block runs some 7000 times, whole models run.
@pytest.mark.parametrize("part", PARTS)
def test_no_figure_is_above_its_ceiling(part):
    table, measured = figures.read(), found(part)
    for tool, version in PARTS[part].made_with().items():
        if table.made_with[tool] != version:
            pytest.skip(f"the ceilings are those of {tool} {table.made_with[tool]}, here is {version}")
    known = table.of(part)
    if any(table.made_with[where] != here for where, here in PARTS[part].made_on().items()):
        known = figures.elsewhere(known)
    for _ in range(2):
        if part == "host" and figures.faults(measured, known):  # the machine may have been busy
            again = PARTS[part].measure()
            measured = [min(pair, key=lambda f: f.value) for pair in zip(measured, again, strict=True)]
    assert not figures.faults(measured, known)


def test_every_operator_of_ours_launches():
    """If not, the count is of something else than the launchers start."""
    of_calls = {f.name: f.value for f in found("launches") if f.unit.startswith("launches of a call")}
    operators = {f"{op}_cuda_{way}" for op in ("block", "patch_conv") for way in ("fwd", "fwd_train", "bwd")}
    assert set(of_calls) == operators and min(of_calls.values()) >= 1


def test_an_operator_that_launches_more():
    assert [launches.of_torch(name) for name in ("empty", "mm", "select_backward")] == [0, 1, 2]


@needs_nvcc
@needs_disassembler
@pytest.mark.parametrize("arch", sass.ARCHITECTURES)
def test_elements_of_a_turn_are_those_it_loads(arch):
    """Counted by their exponentials, and by the 16-byte vectors of one array or two."""
    for kernel, code in sass.gelu_kernels(arch).items():
        body, elements = sass.gelu_loop(code)
        arrays = 1 if "activate" in kernel else 2
        assert elements == 8 * sass.count(body, "LDG", modifier="128") / arrays > 0, kernel


@needs_nvcc
@needs_disassembler
@pytest.mark.parametrize("arch", sass.ARCHITECTURES)
def test_no_kernel_is_left_out(arch):
    """But those of widths that are no multiple of 8, and of float32, whose GELU is another."""
    gelus = sass.gelu_kernels(arch)
    others = [kernel for kernel in sass.kernels(r"mlp_grn/.*\.cu", arch) if kernel not in gelus]
    assert gelus and not [k for k in others if re.match(r"mlp_(activate|products|backward)", k) and not _rare(k)]
    products = sass.kernels(r"dwconv/mma_\w+\.cu", arch)
    assert products and products.keys() <= sass.CONVOLUTIONS.keys()


def _rare(kernel):
    return re.search(r"<(float, \d|\w+, 1)>$", kernel)


# A loop without work, one around another, as ptxas closes it for sm_80; code out of line, which comes back, and the
# trap behind all code.
LISTING = """
        /*0000*/                   S2R R0, SR_TID.X ;                 /* 0x0000000000007919 */
                                                                      /* 0x000e240000002100 */
        /*0010*/              @!P3 BRA 0x0100 ;
        /*0020*/                   IADD3 R0, R0, -0x1, RZ ;
        /*0030*/               @P0 BRA 0x0020 ;
        /*0040*/                   BSSY B0, 0x0f0 ;
        /*0050*/                   ISETP.GE.AND P2, PT, R0, R4, PT ;
        /*0060*/               @P2 BRA 0x00b0 ;
        /*0070*/                   MUFU.EX2 R5, R5 ;
        /*0080*/                   MUFU.EX2 R6, R6 ;
        /*0090*/               @P1 CALL.REL.NOINC 0x00b0 ;
        /*00a0*/                   BRA 0x0050 ;
        /*00b0*/                   MUFU.EX2 R5, R5 ;
        /*00c0*/              @!P0 BRA 0x00b0 ;
        /*00d0*/               @P4 BRA 0x0050 ;
        /*00e0*/                   BSYNC B0 ;
        /*00f0*/                   EXIT ;
        /*0100*/                   MUFU.RCP R1, R1 ;
        /*0110*/                   BRA 0x0020 ;
        /*0120*/                   BRA 0x0120;
"""


def test_loops():
    code = parse(LISTING)
    assert len(code) == 19 and (code[1].guard, code[1].opcode, code[1].operands) == ("@!P3", "BRA", "0x0100")
    found = [(body[0].address, len(body)) for body in loops(code)]
    assert found == [(0x20, 2), (0x50, 9), (0xB0, 2), (0x120, 1)]


def test_the_innermost_loop():
    code = parse(LISTING)
    exponentials = innermost(code, lambda opcode: opcode.startswith("MUFU.EX2"))
    assert [i.address for i in exponentials] == [0xB0, 0xC0]
    assert sass.count(exponentials, *sass.XU) == 1
    with pytest.raises(LookupError):
        innermost(code, lambda opcode: opcode == "MUFU.RCP")  # out of line, in no loop


def figure(value, **changes):
    return replace(Figure("code", "kernel, sm_90", "instructions per element", value, "csrc"), **changes)


def test_ceilings_only_fall():
    known = [figure(20.0, ceiling=20.0)]
    assert not figures.faults([figure(19.0)], known)
    assert figures.faults([figure(20.01)], known) == [
        "kernel, sm_90, instructions per element: 20.01, the ceiling is 20"
    ]
    assert [f.ceiling for f in figures.with_ceilings([figure(19.0)], known)] == [19.0]
    assert [f.ceiling for f in figures.with_ceilings([figure(21.0)], known)] == [20.0]
    assert [f.ceiling for f in figures.with_ceilings([figure(21.0)], known, may_rise=True)] == [21.0]


def test_what_wavers_has_room():
    known = [figure(5.0, ceiling=6.0)]
    assert [f.ceiling for f in figures.with_ceilings([figure(4.9, room=1.2)], known)] == [6.0]
    assert [f.ceiling for f in figures.with_ceilings([figure(4.0, room=1.2)], known)] == [4.8]
    assert [f.ceiling for f in figures.with_ceilings([figure(4.0, room=None)], [])] == [None]


def test_another_machine_has_more_room():
    (there,) = figures.elsewhere([figure(5.0, ceiling=6.0)])
    assert there.ceiling == 7.5
    assert figures.elsewhere([figure(5.0)]) == [figure(5.0)]


def test_figures_come_and_go():
    assert "not in the table" in figures.faults([figure(1.0)], [])[0]
    assert "not found" in figures.faults([], [figure(1.0)])[0]


def test_the_table_is_written_as_it_is_read(monkeypatch, tmp_path):
    table, text = figures.read(), figures.TABLE.read_text()
    monkeypatch.setattr(figures, "TABLE", tmp_path / "figures.tsv")
    figures.write(table)
    assert figures.TABLE.read_text() == text


def test_the_page_has_every_value():
    cells = re.findall(r"(?<=\| )[\d.]+(?= \|)", figures.page())
    assert sorted(cells) == sorted(figures.written(f.value) for f in figures.read().figures)
