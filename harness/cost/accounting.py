"""The bytes of a step by what they are for, at the moment when most were alive; on real tensors or on fake ones.

Every tensor that comes to life is written down: its bytes, the operation that made it, which model it derives from, and
when it died. Categories are given afterwards, when it is known which tensors became a gradient. Workspace inside an
operation and rounding by an allocator are not seen; both are small, and neither depends on the variant.

Two models on two devices are told apart by what a number derives from: from the teacher alone, it is on the teacher's;
otherwise on the student's. What the student's losses read of the teacher's has to be on the student's device too, from
then on, as a copy. Integers and masks belong to neither: they say where, not what.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from harness.config.annotations import PreTrainedModel
from harness.cost.rig import Rig
from harness.cost.variants import Owner
from harness.distill.optimiser import MasterWeights
from harness.trial.meter import LiveBytes, tensors_in

GIB = 1 << 30

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

# Fake tensors are asked where they are more often than everything else together; it makes nothing.
_DEVICE = torch.ops.prim.device.default


# Bytes by category, at the moment when most were alive; `total()` is all of them.
Peak = Counter[Category]

# bitsandbytes: two states of one byte per number, a float32 scale for every 256 of each; parameters of fewer than 4096
# numbers keep float32 states.
_BLOCK, _SMALL = 256, 4096


@dataclass(kw_only=True)
class Entry:
    """One storage.

    Attributes:
        category: what it is for.
        owner: the model it derives from; what derives from both is the student's, which alone is differentiated.
        num_bytes: its size.
        before: whether it was there before the step.
        copy: whether it is the student's copy of something of the teacher's, which one device for both would not need.
        over: processes that it is shared out among; `num_bytes` is one's share.
    """

    category: Category
    owner: Owner | None
    num_bytes: int
    before: bool = False
    copy: bool = False
    over: int = 1


class Ledger(LiveBytes):
    """Writes down every storage of a step, and says afterwards what the peak consisted of."""

    def __init__(self, *, head: tuple[int, int]) -> None:
        """Start empty; the head's gradient is known by the head's shape, classes and the student's hidden size."""
        super().__init__()
        self._head = head
        self._region: Category = "inputs"
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
                size = -(-bytes_of(tensor) // over)
                self._enter(key, Entry(category=category, owner=owner, num_bytes=size, before=True, over=over))

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
        peak = Peak()
        for serial, count in alive.items():
            if count and keep[serial]:
                peak[self._entries[serial].category] += self._entries[serial].num_bytes
        return peak

    def trace(self, wanted: Callable[[Entry], bool], *, num: int) -> list[Peak]:
        """Return what was alive of the wanted entries over a step, in at most `num` parts of it.

        A step goes on by tensors that are made or dropped; each part has as many of these, and is shown at the moment
        when most bytes of the wanted entries were alive.
        """
        first = sum(entry.before for entry in self._entries)
        length = len(self._events) - first
        live, total, most, parts = Peak(), 0, -1, dict[int, Peak]()
        for number, (serial, sign) in enumerate(self._events, start=-first):
            entry = self._entries[serial]
            size = sign * entry.num_bytes if wanted(entry) else 0
            live[entry.category] += size
            total += size
            part = number * num // length
            if number >= 0 and (part not in parts or total > most):
                parts[part], most = live.copy(), total
        return list(parts.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; what it returns derives from the models that its inputs derive from."""
        if func is _DEVICE:
            return args[0].fake_device
        numbers = (tensor for tensor in tensors_in((args, kwargs)) if tensor.is_floating_point())
        serials = [self._alive.get(tensor.untyped_storage()._cdata) for tensor in numbers]
        given = [serial for serial in serials if serial is not None]
        owner = _derived(self._entries[serial].owner for serial in given)
        if owner == "student":
            for serial in given:
                if self._entries[serial].owner == "teacher" and serial not in self._copies:
                    self._copies[serial] = self._begin(replace(self._entries[serial], owner="student", copy=True))
        # The backward pass of a product with the head reads it; the product that makes its gradient does not.
        product = func is torch.ops.aten.mm.default and not any(
            self._entries[serial].category == "parameters" for serial in given
        )
        first = len(self._entries)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tensors_in(result):
            made = self._alive.get(tensor.untyped_storage()._cdata)
            if made is None:
                continue
            entry = self._entries[made]
            # A buffer filled in place derives from what was put into it.
            if entry.category not in ("parameters", "optimizer") and tensor.is_floating_point():
                entry.owner = _derived((entry.owner, owner))
            if made >= first and self._region == "logits" and self._is_head_gradient(tensor, product=product):
                entry.category = "head gradient"
        return result

    def _is_head_gradient(self, tensor: Tensor, *, product: bool) -> bool:
        """Whether a new tensor is a gradient of the head, or a sum of them.

        Autograd makes it transposed, and logits of as many rows as the hidden size are wide have that shape too; but
        they are made with the head itself.
        """
        classes, width = self._head
        return tensor.shape == (classes, width) or (tensor.shape == (width, classes) and product)

    def _add(self, storage: torch.UntypedStorage) -> None:
        super()._add(storage)
        self._enter(storage._cdata, Entry(category=self._region, owner=None, num_bytes=storage.nbytes()))

    def _drop(self, key: int, size: int) -> None:
        super()._drop(key, size)
        serial = self._alive.pop(key)
        self._events.append((serial, -1))
        if serial in self._copies:
            self._events.append((self._copies.pop(serial), -1))

    def _enter(self, key: int, entry: Entry) -> None:
        self._alive[key] = self._begin(entry)

    def _begin(self, entry: Entry) -> int:
        self._events.append((len(self._entries), +1))
        self._entries.append(entry)
        return len(self._entries) - 1


def take_step(rig: Rig, optimiser: torch.optim.Optimizer | MasterWeights, ledger: Ledger) -> None:
    """Take one step of a rig, and tell the ledger whose every tensor is; it knows the optimiser's state already."""
    ledger.register(rig.student_parameters, "parameters", "student")
    ledger.register(rig.teacher_parameters, "parameters", "teacher")
    ledger.register(rig.inputs, "inputs", "teacher")
    ledger.register((batch.input_ids for batch in rig.batches), "inputs", None)
    with ExitStack() as stack:
        stack.enter_context(ledger.watch(rig.student))
        if rig.teacher is not None:
            stack.enter_context(ledger.watch(rig.teacher))
        stack.enter_context(ledger)
        rig.gradients()
        ledger.mark_gradients(rig.student)
        with ledger.region("optimizer"):
            torch.nn.utils.clip_grad_norm_(rig.core.parameters, 1.0)
            optimiser.step()


def states_of(
    optimiser: torch.optim.Optimizer | MasterWeights, parameters: Sequence[torch.nn.Parameter]
) -> list[Tensor]:
    """Take a first step, so that an optimiser has its state, and return all that stays from step to step."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if isinstance(optimiser, MasterWeights):
        return optimiser.states
    return [value for state in optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]


def adam8bit_bytes(parameters: Iterable[Tensor]) -> int:
    """Return the size of an 8-bit Adam's state of some weights, as bitsandbytes lays it out."""
    sizes = [parameter.numel() for parameter in parameters]
    return sum(2 * num + 2 * 4 * -(-num // _BLOCK) if num >= _SMALL else 8 * num for num in sizes)


def bytes_of(*tensors: Tensor) -> int:
    """Return the bytes behind some tensors."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def _derived(owners: Iterable[Owner | None]) -> Owner | None:
    found = set(owners)
    return "student" if "student" in found else "teacher" if "teacher" in found else None
