"""The loops of a kernel, found in its machine code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tests.cuda_code.compiling import Instruction

Listing = Sequence[Instruction]
_ADDRESS = re.compile(r"(?:^|[\s,])0x([0-9a-f]+)$")


def _leads_to(i: Instruction) -> tuple[int | None, bool]:
    """The address that the instruction may go on at if not at the next one, and whether it may go on at that."""
    kind = i.opcode.split(".")[0]
    if kind in ("EXIT", "RET", "BRX", "JMX", "KILL"):
        return None, bool(i.guard)
    if kind not in ("BRA", "JMP", "CALL"):
        return None, True
    found = _ADDRESS.search(i.operands)
    # A condition is a guard, or stands before the address. Calls return; a conditional one may also be a way out of a
    # loop, as ptxas writes it for sm_80.
    always = kind != "CALL" and not i.guard and i.operands.startswith("0x")
    return int(found[1], 16) if found else None, not always


def _blocks(code: Listing) -> tuple[list[Listing], list[list[int]]]:
    """Runs of instructions that are entered at their first alone and left at their last alone; of each, those that may
    come next."""
    ways = [_leads_to(i) for i in code]
    leaders = {code[0].address} | {target for target, _ in ways if target is not None}
    leaders |= {
        b.address for (target, falls), b in zip(ways, code[1:], strict=False) if target is not None or not falls
    }
    starts = [n for n, i in enumerate(code) if i.address in leaders]
    number = {code[start].address: n for n, start in enumerate(starts)}
    blocks, after = [], []
    for n, (start, end) in enumerate(zip(starts, [*starts[1:], len(code)], strict=True)):
        target, falls = ways[end - 1]
        blocks.append(code[start:end])
        after.append([number[target]] if target in number else [])
        if falls and end < len(code):
            after[-1].append(n + 1)
    return blocks, after


def _dominators(after: list[list[int]]) -> list[set[int]]:
    """Of each block, those that every way to it leads through, from the kernel's first block on; itself is one."""
    before: list[list[int]] = [[] for _ in after]
    for n, follow in enumerate(after):
        for m in follow:
            before[m].append(n)
    everything = set(range(len(after)))
    found = [{0}, *(everything for _ in after[1:])]
    changed = True
    while changed:
        changed = False
        for n in range(1, len(after)):
            new = set.intersection(everything, *(found[m] for m in before[n])) | {n}
            changed, found[n] = changed or new != found[n], new
    return found


def loops(code: Listing) -> list[Listing]:
    """What each loop holds, with the loops inside it. A loop is where a branch goes back to a block that every way to
    the branch leads through: code that was moved out of line, and comes back, makes none."""
    blocks, after = _blocks(code)
    dominators = _dominators(after)
    bodies: dict[int, set[int]] = {}
    for n, follow in enumerate(after):
        for head in follow:
            if head not in dominators[n]:
                continue
            body, waiting = bodies.setdefault(head, {head}), [n]
            while waiting:
                m = waiting.pop()
                if m not in body:
                    body.add(m)
                    waiting += [other for other, to in enumerate(after) if m in to]
    return [[i for n in sorted(body) for i in blocks[n]] for _, body in sorted(bodies.items())]


def innermost(code: Listing, holds: Callable[[str], bool]) -> Listing:
    """The loop that has such opcodes and no loop inside that has. Of several, that with the most: the main loop, not
    what an unrolled one leaves over.

    Raises:
        LookupError: no loop has any.
    """
    found = [body for body in loops(code) if any(holds(i.opcode) for i in body)]
    addresses = [{i.address for i in body} for body in found]
    inner = [body for body, own in zip(found, addresses, strict=True) if not any(other < own for other in addresses)]
    if not inner:
        raise LookupError("no loop holds such an instruction")
    return max(inner, key=lambda body: sum(holds(i.opcode) for i in body))
