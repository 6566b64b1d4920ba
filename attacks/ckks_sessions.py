"""Attacks on whole sessions with ciphertexts, and the same coalition against masks.

* `open_uploads`: all parties of a task have one key, which follows from their group secret (SPEC
  6.11(b)). So one of them and the aggregator, who has the uploads, decrypt everybody's. This is no
  flaw of CKKS but what one key means: Mouchet et al. (PoPETs 2021, ePrint 2020/304) share the key
  out for that reason, which is not done here (ADR 0020).
* `strip_masks`: what the same two make of masked uploads. A mask between two parties that do not
  collude stays on (Bonawitz et al., CCS 2017, section 6): what is left is uniform.
* `CollusionSpan`: membership in what either of these yields, in the basis that the party knows.
* `keys_from_released`: the passive key recovery of Li and Micciancio (`ckks_key`), by an aggregator
  on its own, from every sum of a session and the ciphertexts that it has of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.ckks_key import key_from_phase, read_integers
from collabedit.attacks.encrypted_views import (
    EncryptedCollusion,
    EncryptedView,
    HeldTask,
    MaskedCollusion,
)
from collabedit.attacks.span import vector_scores
from collabedit.attacks.views import Uploads, first_layer, layer_of
from collabedit.ciphertexts import chunk_words, plan_parameters, split_chunks, task_chunks
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.modular import Residues, add_mod
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import Form, decode_chunk
from collabedit.crypto.kdf import derive_key, encode_fields
from collabedit.crypto.masking import unmask_tile
from collabedit.exchange import TileLayout
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.basis import Rotation
from collabedit.party.decryption import task_key
from collabedit.plan import Plan
from collabedit.proto.envelope import context_fields
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary


def open_uploads(view: EncryptedCollusion, task: TaskIndex) -> Uploads:
    """Decrypt every upload of a task with the key of the colluding party.

    Returns:
        By party the integers that it encrypted, [statistics] in two's complement, exactly; in the
        secret basis, which the party knows.
    """
    plan, held = view.aggregator.plan, view.party.own[task]
    key = task_key(plan, held.context, held.group_secret)
    count, size = task_chunks(plan, task), plan.statistics_length(task)
    opened = {}
    for party, words in view.aggregator.tasks[task].uploads.items():
        encrypted = split_chunks(words[chunk_words(0, count)])
        parts = [
            read_integers(key, chunk.tobytes(), index=index, chunks=count)
            for index, chunk in enumerate(encrypted)
        ]
        opened[party] = np.concatenate(parts)[:size].view(np.uint64)
    return opened


def strip_masks(view: MaskedCollusion, task: TaskIndex) -> Uploads:
    """Take off every masked upload of a task all masks that the coalition knows.

    Returns:
        By party what is left, [task_length]: its contribution if no mask is missing, else uniform.
    """
    plan = view.aggregator.plan
    layout, stripped = TileLayout.of(plan, task), {}
    for party, upload in view.aggregator.uploads[task].items():
        vector = upload.copy()
        for index in range(layout.tiles):
            tile = vector[layout.bounds(index)]
            unmask_tile(tile, tile_index=index, masks=view.known[task][party])
        stripped[party] = vector
    return stripped


@dataclass(frozen=True, slots=True)
class CollusionSpan:
    """Membership in each single upload, for the aggregator with a party: who edited what.

    Candidates are turned into the basis of the task, whose secret the party has, and scored against
    what `open_uploads` or `strip_masks` leaves.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "collusion-span"
    adversary: Adversary = Adversary.COLLUDING

    def run(self, view: EncryptedCollusion | MaskedCollusion, prior: Prior) -> Finding:
        """Score the candidates against each upload: one row for each party."""
        plan = view.aggregator.plan
        layer = first_layer(plan) if self.layer is None else self.layer
        task, _, _ = layer_of(plan, layer)
        if isinstance(view, EncryptedCollusion):
            held, uploads = view.party.own[task], open_uploads(view, task)
        else:
            held, uploads = view.parties[0].own[task], strip_masks(view, task)
        turned = turn_candidates(plan, layer, held, prior.mapped_keys[layer])
        about: tuple[PartyId, ...] = tuple(sorted(uploads))
        rows = [vector_scores(plan, layer, uploads[party], turned, parties=1) for party in about]
        return Finding(self.name, about, np.stack(rows))


def turn_candidates(plan: Plan, layer: LayerIndex, held: HeldTask, candidates: Matrix) -> Matrix:
    """Return QK̃ for candidates K̃, [d', candidates], with Q the secret basis of the layer."""
    _, entry, _ = layer_of(plan, layer)
    fields = encode_fields(context_fields(held.context), layer)
    key = derive_key(held.group_secret, label="basis-keys", context=fields)
    return Rotation(key, entry.mapped).apply(candidates)


def keys_from_released(
    view: EncryptedView, *, parameters: CkksParameters | None = None
) -> Mapping[TaskIndex, tuple[SecretKey | None, ...]]:
    """Solve for the key of each task from each chunk of its opened sum.

    Behind the last number of a vector a chunk is filled up with zeros, which the aggregator knows
    to be zeros, but not what error they carry.

    Args:
        view: what it has.
        parameters: of the ciphertexts; None is the plan's.

    Returns:
        By task of which a sum was opened, for each chunk a key or None.
    """
    parameters = parameters or plan_parameters(view.plan)
    found = {}
    for task, each in view.tasks.items():
        if each.opened is None:
            continue
        degree = parameters.ring_degree
        released = np.zeros(task_chunks(view.plan, task) * degree, np.int64)
        released[: len(each.opened)] = each.opened.view(np.int64)
        chunks = released.reshape(-1, degree)
        found[task] = tuple(
            key_from_phase(parameters, pair, [int(value) * parameters.guard for value in chunk])
            for pair, chunk in zip(summed_pairs(view, task, parameters), chunks, strict=True)
        )
    return found


def summed_pairs(
    view: EncryptedView, task: TaskIndex, parameters: CkksParameters
) -> Iterator[Residues]:
    """Yield the ciphertexts that were opened, Σc₀ and Σc₁ of each chunk: [2, primes, n].

    Of the survivors' uploads; seeds expand to c₁.
    """
    each, context = view.tasks[task], seal_context(parameters)
    uploads = [
        split_chunks(each.uploads[party][chunk_words(0, task_chunks(view.plan, task))])
        for party in sorted(each.survivors)
    ]
    for index in range(task_chunks(view.plan, task)):
        total: Residues | None = None
        for encrypted in uploads:
            chunk = decode_chunk(
                parameters,
                encrypted[index].tobytes(),
                form=Form.SEEDED,
                index=index,
                chunks=len(encrypted),
            )
            pair = np.stack([chunk.residues[0], context.expand_seed(chunk.seed)])
            total = pair if total is None else _add(total, pair, parameters)
        assert total is not None  # noqa: S101  a sum has contributors
        yield total


def _add(left: Residues, right: Residues, parameters: CkksParameters) -> Residues:
    rows = [
        add_mod(left[:, place], right[:, place], prime)
        for place, prime in enumerate(parameters.wire_primes)
    ]
    return np.stack(rows, axis=1)
