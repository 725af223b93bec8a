"""The bytes of a step by what they are for, at the moment when most were alive; on real tensors or on fake ones.

Every tensor that comes to life is written down: its bytes, the operation that made it, which model it derives from, and
when it died. Categories are given afterwards, when it is known which tensors became a gradient. Workspace inside an
operation and rounding by an allocator are not seen; both are small, and neither depends on the variant.

Two models on two devices are told apart by what a number derives from: from the teacher alone, it is on the teacher's;
otherwise on the student's. What the student's losses read of the teacher's has to be on the student's device too, from
then on, as a copy. Integers and masks belong to neither: they say where, not what.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from harness.config.annotations import PreTrainedModel
from harness.trial.meter import LiveBytes, tensors_in

Owner = Literal["student", "teacher"]
# trunk: whatever a trunk computes, forward and backward. logits: everything between the trunks and the gradient of the
# student's hidden states, which is what selection and chunks are about; the gradient of the head's matrix is apart.
# inputs: tokens, and states read from a cache.
Category = Literal["parameters", "gradients", "head gradient", "optimizer", "trunk", "logits", "inputs"]
CATEGORIES: tuple[Category, ...] = (
    "parameters",
    "gradients",
    "head gradient",
    "optimizer",
    "trunk",
    "logits",
    "inputs",
)
ACTIVATIONS: frozenset[Category] = frozenset({"trunk", "logits", "inputs"})

_LARGEST = 12

# Fake tensors are asked where they are more often than everything else together; it makes nothing.
_DEVICE = torch.ops.prim.device.default


@dataclass(kw_only=True)
class Entry:
    """One storage.

    Attributes:
        category: what it is for.
        owner: the model it derives from; what derives from both is the student's, which alone is differentiated.
        num_bytes: its size.
        what: operation, dtype and shape.
        copy: whether it is the student's copy of something of the teacher's, which one device for both would not need.
        over: processes that it is shared out among; `num_bytes` is one's share.
    """

    category: Category
    owner: Owner | None
    num_bytes: int
    what: str
    copy: bool = False
    over: int = 1


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The moment when most bytes were alive.

    Attributes:
        num_bytes: all of them.
        by_category: the same, by category.
        largest: the largest tensors then, "operation dtype shape" with category, count and bytes together.
    """

    num_bytes: int
    by_category: dict[Category, int]
    largest: list[tuple[str, Category, int, int]]

    def plus(self, state_bytes: int) -> "Peak":
        """Return the peak with an optimiser's state beside it, which no tensor of the step stands for."""
        if not state_bytes:
            return self
        by_category = {**self.by_category, "optimizer": self.by_category["optimizer"] + state_bytes}
        return Peak(num_bytes=self.num_bytes + state_bytes, by_category=by_category, largest=self.largest)


class Ledger(LiveBytes):
    """Writes down every storage of a step, and says afterwards what the peak consisted of."""

    def __init__(self, *, head: tuple[int, int]) -> None:
        """Start empty.

        Args:
            head: classes and hidden size of the student's head matrix, by which the gradient of the head is known.
        """
        super().__init__()
        self._head = head
        self._region: Category = "inputs"
        self._operation = ""
        self._reads_parameters = False
        self._entries: list[Entry] = []
        self._alive: dict[int, int] = {}
        # Entries of the student's copies, by the entries that they are copies of.
        self._copies: dict[int, int] = {}
        # Which entry, and whether it came to life (+1) or died (-1).
        self._events: list[tuple[int, int]] = []

    def register(self, tensors: Iterable[Tensor], category: Category, owner: Owner | None, *, over: int = 1) -> None:
        """Enter tensors that exist already and stay, shared out among so many processes."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key not in self._alive:
                self._known.add(key)
                size = -(-_size(tensor) // over)
                self._enter(
                    key, Entry(category=category, owner=owner, num_bytes=size, what=_what("", tensor), over=over)
                )

    @contextmanager
    def region(self, category: Category) -> Iterator[None]:
        """Say what the tensors made in a block are for."""
        before, self._region = self._region, category
        try:
            yield
        finally:
            self._region = before

    @contextmanager
    def watch(self, model: PreTrainedModel) -> Iterator[None]:
        """Tell a model's trunk from what follows it, forward and backward, in a block."""

        def enter(*_: Any) -> None:
            self._region = "trunk"

        def leave(_: Any, __: Any, output: Any) -> None:
            self._region = "logits"
            hidden = output.last_hidden_state
            if hidden.requires_grad:
                # Everything up to the gradient of the hidden states is the head's and the loss's, the rest the trunk's.
                hidden.register_hook(enter)

        handles = [
            model.base_model.register_forward_pre_hook(enter),
            model.base_model.register_forward_hook(leave),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def mark_gradients(self, model: PreTrainedModel) -> None:
        """Recognise the gradients of a model's parameters among the tensors that are alive, shared out as these are."""
        for parameter in model.parameters():
            if parameter.grad is not None:
                entry = self._entries[self._alive[parameter.grad.untyped_storage()._cdata]]
                if entry.category != "head gradient":
                    entry.category = "gradients"
                    entry.over = self._entries[self._alive[parameter.untyped_storage()._cdata]].over
                    entry.num_bytes = -(-entry.num_bytes // entry.over)

    def peak_of(self, wanted: Callable[[Entry], bool] = lambda _: True) -> Peak:
        """Return the moment when most bytes of the wanted entries were alive."""
        live, best, moment = 0, 0, -1
        keep = [wanted(entry) for entry in self._entries]
        for number, (serial, sign) in enumerate(self._events):
            if keep[serial]:
                live += sign * self._entries[serial].num_bytes
                if live > best:
                    best, moment = live, number
        alive = Counter[int]()
        for serial, sign in self._events[: moment + 1]:
            alive[serial] += sign
        return _summary([self._entries[serial] for serial, count in alive.items() if count and keep[serial]])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; what it returns derives from the models that its inputs derive from."""
        if func is _DEVICE:
            return func(*args)
        given = [tensor for tensor in tensors_in((args, kwargs)) if tensor.is_floating_point()]
        owners = [self._owner(tensor) for tensor in given]
        owner = _derived(owners)
        if owner == "student":
            for tensor, each in zip(given, owners, strict=True):
                if each == "teacher":
                    self._hand_over(tensor)
        self._operation = str(func)
        self._reads_parameters = any(self._category(tensor) == "parameters" for tensor in given)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tensors_in(result):
            self._note(tensor, owner)
        return result

    def _owner(self, tensor: Tensor) -> Owner | None:
        serial = self._alive.get(tensor.untyped_storage()._cdata)
        return None if serial is None else self._entries[serial].owner

    def _category(self, tensor: Tensor) -> Category | None:
        serial = self._alive.get(tensor.untyped_storage()._cdata)
        return None if serial is None else self._entries[serial].category

    def _hand_over(self, tensor: Tensor) -> None:
        serial = self._alive[tensor.untyped_storage()._cdata]
        if serial not in self._copies:
            original = self._entries[serial]
            self._copies[serial] = len(self._entries)
            self._events.append((len(self._entries), +1))
            self._entries.append(replace(original, owner="student", copy=True))

    def _note(self, tensor: Tensor, owner: Owner | None) -> None:
        serial = self._alive.get(tensor.untyped_storage()._cdata)
        if serial is None:
            return
        entry = self._entries[serial]
        # A buffer filled in place derives from what was put into it.
        if entry.category not in ("parameters", "optimizer") and tensor.is_floating_point():
            entry.owner = _derived((entry.owner, owner))
        if not entry.what:
            entry.what = _what(self._operation, tensor)
            if self._region == "logits" and self._is_head_gradient(tensor):
                entry.category = "head gradient"

    def _is_head_gradient(self, tensor: Tensor) -> bool:
        """Whether a new tensor is a gradient of the head, or a sum of them.

        Autograd makes it transposed, and logits of as many rows as the hidden size are wide have that shape too; but
        they are made with the head itself.
        """
        classes, width = self._head
        if tensor.shape == (classes, width):
            return True
        return tensor.shape == (width, classes) and self._operation == "aten.mm.default" and not self._reads_parameters

    def _add(self, storage: torch.UntypedStorage) -> None:
        super()._add(storage)
        entry = Entry(category=self._region, owner=None, num_bytes=storage.nbytes(), what="")
        self._enter(storage._cdata, entry)

    def _drop(self, key: int, size: int) -> None:
        super()._drop(key, size)
        serial = self._alive.pop(key)
        self._events.append((serial, -1))
        if serial in self._copies:
            self._events.append((self._copies.pop(serial), -1))

    def _enter(self, key: int, entry: Entry) -> None:
        self._alive[key] = len(self._entries)
        self._events.append((len(self._entries), +1))
        self._entries.append(entry)


def _derived(owners: Iterable[Owner | None]) -> Owner | None:
    found = set(owners)
    return "student" if "student" in found else "teacher" if "teacher" in found else None


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _what(operation: str, tensor: Tensor) -> str:
    return f"{operation} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}".strip()


def _summary(present: list[Entry]) -> Peak:
    by_category = dict.fromkeys(CATEGORIES, 0)
    kinds: dict[tuple[str, Category], list[int]] = {}
    for entry in present:
        by_category[entry.category] += entry.num_bytes
        kinds.setdefault((entry.what, entry.category), []).append(entry.num_bytes)
    largest = sorted(((*key, len(sizes), sum(sizes)) for key, sizes in kinds.items()), key=lambda kind: -kind[3])
    return Peak(num_bytes=sum(by_category.values()), by_category=by_category, largest=largest[:_LARGEST])
