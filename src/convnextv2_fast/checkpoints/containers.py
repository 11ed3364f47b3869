"""Find the state dict in what a checkpoint holds: training loops put it under many names, beside much else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from .prefixes import holds_blocks

PLAIN_KEYS = ("model", "state_dict", "module", "model_state_dict", "net", "params")
EMA_KEYS = ("model_ema", "state_dict_ema", "ema", "params_ema")
_DEEPEST = 16  # levels of mappings that are looked into
_SHOWN = 8


@dataclass(frozen=True)
class StateDict:
    """A flat state dict and where it was."""

    tensors: Mapping[str, Tensor]
    what: str  # for messages: the path, or "the state dict"
    key: str = ""  # where in the checkpoint; empty: at the top
    unused_ema: str | None = None  # the key of a moving average that was not taken
    beside: tuple[str, ...] = ()  # the names of tensors that lie in other state dicts beside it, with their keys


def unwrap(x: Any, use_ema: bool | str, what: str) -> StateDict:
    """The state dict in `x`: `x` itself, or what lies under one of `PLAIN_KEYS` or `EMA_KEYS`, at any level.

    Where it has none of these, mappings under other names ("student", "teacher") that hold a ConvNeXt V2 are taken
    together, each with its name before those of its tensors; `prefix` then chooses.

    Args:
        use_ema: as `read_state_dict`.
    Raises:
        CheckpointError: there is no state dict, or mappings lie in themselves, or too deep in each other.
    """
    path: list[str] = []
    beside: list[str] = []
    seen: list[Any] = []
    ema_key: str | None = None
    took_ema = False
    holds = _Search()
    while not _is_state_dict(x):
        if not isinstance(x, Mapping):
            raise CheckpointError(f"{what}: expected a state dict{_under(path)}, got a {type(x).__name__}")
        if any(x is other for other in seen):
            raise CheckpointError(f"{what}: holds no weights: what lies{_under(path)} contains itself")
        if len(path) == _DEEPEST:
            raise CheckpointError(f"{what}: holds no weights within {_DEEPEST} mappings, one under the other")
        seen.append(x)
        plain, ema = holds.first(x, PLAIN_KEYS, seen), holds.first(x, EMA_KEYS, seen)
        if plain is None and ema is None:
            if use_ema is not True:
                others, rest = _others(x)
                if others:
                    beside += [f"{''.join(f'{k}.' for k in path)}{n}" for n in rest]
                    x = others
                    break
            # there is nothing in these, and that will be said
            plain, ema = _first_mapping(x, PLAIN_KEYS), _first_mapping(x, EMA_KEYS)
        ema_key = ema_key or ema
        if ema is not None and (
            use_ema is True or (use_ema == "auto" and (plain is None or _is(x.get("chosen"), ema)))
        ):
            key, took_ema = ema, True
        elif plain is not None:
            key = plain
        else:
            raise CheckpointError(f"{what}: {_nothing(x, ema, path)}")
        beside += [
            f"{''.join(f'{k}.' for k in path)}{k}.{n}"
            for k, v in x.items()
            if k not in (*PLAIN_KEYS, *EMA_KEYS) and isinstance(k, str) and _is_state_dict(v)
            for n in v
        ]
        path.append(key)
        x = x[key]
    if use_ema is True and not took_ema:
        raise CheckpointError(f"{what}: use_ema=True, but it holds no {_either(EMA_KEYS)}")
    return StateDict(x, what, ".".join(path), None if took_ema else ema_key, tuple(beside))


def _is_state_dict(x: Any) -> bool:
    return isinstance(x, Mapping) and bool(x) and all(isinstance(v, Tensor) for v in x.values())


def _is(chosen: Any, key: str) -> bool:
    """Whether `finetune` wrote the file for the sake of what lies under this key."""
    return isinstance(chosen, str) and chosen == key


class _Search:
    """Which mappings have a state dict below them, each looked at once, as a checkpoint may contain itself."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def first(self, x: Mapping[Any, Any], keys: tuple[str, ...], outer: Sequence[Any]) -> str | None:
        """The first of the keys below which there is one; `outer` are the mappings that `x` lies in."""
        below = (k for k in keys if not any(x.get(k) is other for other in outer))
        return next((k for k in below if self._leads(x.get(k), _DEEPEST)), None)

    def _leads(self, x: Any, levels: int) -> bool:
        if _is_state_dict(x):
            return True
        if not isinstance(x, Mapping) or not levels:
            return False
        if id(x) not in self._known:
            self._known[id(x)] = False  # while it is being looked at
            self._known[id(x)] = any(self._leads(x.get(k), levels - 1) for k in (*PLAIN_KEYS, *EMA_KEYS))
        return self._known[id(x)]


def _first_mapping(x: Mapping[Any, Any], keys: tuple[str, ...]) -> str | None:
    return next((k for k in keys if isinstance(x.get(k), Mapping) and x[k]), None)


def _others(x: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of state dicts that lie under names of no meaning here, and hold blocks of a ConvNeXt V2; and the
    names of those in state dicts without blocks, such as a head's."""
    found: dict[str, Tensor] = {}
    rest: list[str] = []
    waiting: list[tuple[str, Mapping[Any, Any], int]] = [("", x, 0)]
    seen: set[int] = set()
    while waiting:
        prefix, at, level = waiting.pop(0)
        if id(at) in seen or level > _DEEPEST:
            continue
        seen.add(id(at))
        if _is_state_dict(at):
            named = {f"{prefix}{n}": tensor for n, tensor in at.items()}
            if holds_blocks([n for n in at if isinstance(n, str)]):
                found |= named
            else:
                rest += named
            continue
        waiting += [
            (f"{prefix}{k}.", v, level + 1) for k, v in at.items() if isinstance(k, str) and isinstance(v, Mapping)
        ]
    return found, rest


def _nothing(x: Mapping[Any, Any], ema: str | None, path: list[str]) -> str:
    if ema is not None:
        return f"holds weights only under {ema!r}, and use_ema=False"
    held = ", ".join(repr(k)[:100] for k in list(x)[:_SHOWN]) or "nothing"
    place = f"{_under(path)} it holds {held}".strip()
    if any(type(v).__name__ in ("ndarray", "NumpyValue") for v in x.values()) and holds_blocks(
        [n for n in x if isinstance(n, str)]
    ):
        return "holds numpy arrays, not tensors; pass {name: torch.from_numpy(x) for name, x in ...} in its place"
    module = next((k for k, v in x.items() if isinstance(v, nn.Module)), None)
    if module is not None:
        return f"holds no weights: {module!r} is a module; pass its state_dict()"
    odd = next((k for k, v in x.items() if not isinstance(v, Tensor)), None)
    if odd is not None and any(isinstance(v, Tensor) for v in x.values()):
        return f"no state dict: {odd!r} is a {type(x[odd]).__name__}, not a tensor; leave out what is none"
    return f"holds no weights: {place}; expected a state dict, or one under {', '.join((*PLAIN_KEYS, *EMA_KEYS))}"


def _either(keys: tuple[str, ...]) -> str:
    return f"{', '.join(keys[:-1])} or {keys[-1]}"


def _under(path: list[str]) -> str:
    return f" under {'.'.join(path)}" if path else ""
