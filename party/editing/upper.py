"""The blocks above one layer, run on their own on what a search for targets changes.

One pass over a token tree (`token_tree`) serves all steps of a search: it keeps the layer's output
at the own nodes, keys and values of the shared nodes in the blocks above, and the arguments that
each of these blocks received besides the hidden states. A step then runs the upper blocks on the
own nodes of the edits still searched, and nothing else.

Nothing of a forward pass is rebuilt per architecture (position ids, rotary embeddings, masks by
layer type, ...): the model is called with position ids, a mask and a cache of its keys, as for
generating text, and what it hands to its blocks is recorded. A row is then replayed and compared
with an ordinary pass: an architecture that hands anything else from block to block, or attends to
less than all that came before, is told apart at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from collabedit.party.editing.hooks import capturing_output, hidden_of, stopping_after
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.token_tree import TokenTree

_REPLAY_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Relative. Norms compute in float32 even in a float64 model; half precision gets 2e-2."""

Block: TypeAlias = Callable[[Tensor], Tensor]


class UpperBlocks:
    """Blocks above a layer and the final norm, for the own nodes of a tree.

    Attributes:
        start: output of the layer at the own nodes, [own, d_model].
    """

    def __init__(self, model: EditableModel, layer: int, tree: TokenTree) -> None:
        """Run the model once over the tree.

        Args:
            model: the model.
            layer: the edited layer; there must be a block above it.
            tree: what is searched.
        """
        self._final_norm = model.final_norm
        self._modules = [model.block(index) for index in range(layer + 1, model.n_layers)]
        self._tree = tree
        # Additive, which every implementation of attention takes. An own key is always attended
        # to, so a mask that becomes -inf in a shorter dtype does no harm.
        refused = torch.finfo(model.dtype).min
        mask = torch.zeros(tree.ancestors.shape, dtype=model.dtype)
        self._mask = mask.masked_fill_(~tree.ancestors, refused).to(model.device)
        self._keys = _KeyCache(above=layer)
        # A block is run on something even where no node is shared.
        shared = torch.arange(max(tree.shared, 1))
        with torch.no_grad(), ExitStack() as stack:
            edited = stack.enter_context(capturing_output(model.block(layer)))
            self._calls = stack.enter_context(self._recording(shared))
            stack.enter_context(stopping_after(self._modules[-1]))
            model.hf.base_model(
                input_ids=torch.tensor([tree.tokens], device=model.device),
                position_ids=torch.tensor([tree.positions], device=model.device),
                attention_mask=self._mask[None, None],
                past_key_values=self._keys,
                use_cache=True,
            )
        self.start = edited.values[0, tree.shared :]
        self._nodes: Tensor | None = None
        self._blocks: list[Block] = []

    def take(self, nodes: Tensor) -> None:
        """Run on these own nodes from here on.

        Args:
            nodes: [m], ascending, on the CPU; all of some edits.
        """
        of_tree = nodes + self._tree.shared
        seen = self._tree.ancestors[of_tree, : self._tree.shared].any(dim=0).nonzero()[:, 0]
        self._keys.take(seen)
        select = _Selection(self._mask, of_tree, torch.cat([seen, of_tree]))
        self._blocks = [
            _bind(module, select.of_all(args), select.of_named(kwargs))
            for module, (args, kwargs) in zip(self._modules, self._calls, strict=True)
        ]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map the layer's output at the taken nodes, [m, d_model], to final hidden states."""
        values = hidden[None]
        for block in self._blocks:
            values = block(values)
        final: Tensor = self._final_norm(values)
        return final[0]

    def is_faithful(self, model: EditableModel, ids: Sequence[int], nodes: Sequence[int]) -> bool:
        """Whether replaying a row gives what an ordinary pass gives. Changes what is taken.

        Args:
            model: the model.
            ids: the row's tokens, without padding.
            nodes: its own nodes, the last of its tokens.
        """
        with torch.no_grad():
            row = torch.tensor([ids], device=model.device)
            expected = model.forward(row)[0, len(ids) - len(nodes) :]
            taken = torch.tensor(nodes)
            self.take(taken)
            found = self(self.start[taken.to(self.start.device)])
            error = (found.to(expected.device) - expected).norm() / expected.norm()
        return bool(error <= _REPLAY_TOLERANCE.get(model.dtype, 2e-2))

    @contextmanager
    def _recording(
        self, shared: Tensor
    ) -> Iterator[list[tuple[tuple[object, ...], dict[str, object]]]]:
        """Keep what upper blocks receive besides hidden states; let them run on shared nodes."""
        calls: list[tuple[tuple[object, ...], dict[str, object]]] = []
        select = _Selection(self._mask, shared, shared)

        def hook(
            _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> tuple[tuple[object, ...], dict[str, object]]:
            others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            calls.append((args[1:], others))
            hidden = args[0] if args else kwargs["hidden_states"]
            if len(calls) == 1:
                hidden = select(hidden)
            return (hidden, *select.of_all(args[1:])), select.of_named(others)

        with ExitStack() as stack:
            for module in self._modules:
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield calls


class _KeyCache:
    """Stands where a model expects its cache of keys and values while it writes text.

    It first keeps those of the shared nodes, for all blocks above one, then puts them before those
    of the own nodes. transformers' own caches grow with every call.
    """

    def __init__(self, *, above: int) -> None:
        self._above = above
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._taken: dict[int, tuple[Tensor, Tensor]] | None = None

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_others: object, **_named: object
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values to attend to; [1, heads, nodes, d_head] each."""
        if self._taken is None:
            if layer > self._above:
                self._kept[layer] = keys, values
            return keys, values
        before = self._taken[layer]
        return (
            torch.cat([before[0].to(keys.dtype), keys], dim=-2),
            torch.cat([before[1].to(values.dtype), values], dim=-2),
        )

    def get_seq_length(self, _layer: int = 0) -> int:
        """Count what is kept from calls before: nothing, as far as the model need know."""
        return 0

    def take(self, nodes: Tensor) -> None:
        """Put these shared nodes before others from here on."""
        self._taken = {
            layer: (
                keys.index_select(-2, nodes.to(keys.device)),
                values.index_select(-2, nodes.to(values.device)),
            )
            for layer, (keys, values) in self._kept.items()
        }


class _Selection:
    """Cuts arguments for all nodes down to some; equal arguments stay one tensor."""

    def __init__(self, mask: Tensor, nodes: Tensor, seen: Tensor) -> None:
        self._count = len(mask)
        self._nodes = nodes
        self._mask = mask[nodes.to(mask.device)][:, seen.to(mask.device)][None, None]
        # The first is kept with the second, lest another object get its id.
        self._made: dict[int, tuple[object, object]] = {}

    def __call__(self, value: object) -> object:
        """Return the argument for the nodes."""
        if id(value) not in self._made:
            self._made[id(value)] = value, self._cut(value)
        return self._made[id(value)][1]

    def of_all(self, values: Sequence[object]) -> tuple[object, ...]:
        """Return positional arguments for the nodes."""
        return tuple(self(value) for value in values)

    def of_named(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return named arguments for the nodes."""
        return {name: self(value) for name, value in values.items()}

    def _cut(self, value: object) -> object:
        if isinstance(value, Tensor):
            nodes = self._nodes.to(value.device)
            if value.shape == (1, 1, self._count, self._count):
                return self._mask.to(value.device)
            if value.shape[:2] == (1, self._count):
                return value.index_select(1, nodes)
            return value.index_select(0, nodes) if value.shape == (self._count,) else value
        if isinstance(value, tuple):
            return self.of_all(value)
        return self.of_named(value) if isinstance(value, dict) else value


def _bind(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Block:
    def run(hidden: Tensor) -> Tensor:
        return hidden_of(module(hidden, *args, **kwargs))

    return run
