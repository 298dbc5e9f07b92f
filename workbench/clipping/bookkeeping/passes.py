"""Forward and backward passes of one call, as many as it takes to tell records apart."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from workbench.clipping.bookkeeping.book import Book
from workbench.clipping.bookkeeping.contributions import Dense
from workbench.clipping.bookkeeping.habits import Habits
from workbench.clipping.bookkeeping.isolation import NOT_RECORDS, Tap, has_upstream
from workbench.clipping.bookkeeping.layer import Layer, NoRuleError, layers_of
from workbench.clipping.bookkeeping.layer_calls import way_to_run
from workbench.clipping.bookkeeping.layer_rules import RULES
from workbench.clipping.bookkeeping.provenance import Provenance
from workbench.clipping.bookkeeping.recorder import Recorder, UnexpectedError
from workbench.clipping.bookkeeping.rounding import widest
from workbench.clipping.clipped_sum import (
    RecordLosses,
    trainable,
)
from workbench.errors import InputError


class Passes:
    """Runs forward and backward once, or again as long as that shows more of the model.

    All passes of a call draw the same random numbers, so that their losses can be compared.
    """

    def __init__(self, model: nn.Module, record_losses: RecordLosses, habits: Habits) -> None:
        self.model, self.record_losses, self.habits = model, record_losses, habits
        self.layers = layers_of(model)
        self.parameters = list(trainable(model).values())
        self.batch: int | None = None
        self.plain: Tensor | None = None  # the losses of a pass in which nothing was repeated
        self.try_out = False
        self._drawn = _random_states()

    def book(self) -> Book:
        """Every use of every parameter."""
        book = self._pass()
        while book is None:
            _set_random_states(self._drawn)
            for parameter in self.parameters:
                parameter.grad = None
            book = self._pass()
        return book

    def _pass(self) -> Book | None:
        """One pass, or None if it has shown something because of which another is needed."""
        try:
            return self._watched()
        except UnexpectedError:
            return None
        except NoRuleError as found:
            if found.layer.name in self.habits.without_rule:
                raise AssertionError(f"{found.layer.name} is watched without a rule") from None
            self.habits.without_rule |= {found.layer.name, *self._of_its_kind(found.layer)}
            return None

    def _of_its_kind(self, layer: Layer) -> set[str]:
        """The layers that compute the same, unless there is a rule for what they compute."""
        kind = type(layer.module)
        has_rule = kind.forward in RULES or issubclass(kind, nn.Embedding)
        return {other.name for other in self.layers if type(other.module) is kind and not has_rule}

    def _watched(self) -> Book | None:
        habits = self.habits
        close = habits.looks_closely() and bool(habits.shared or habits.of_no_record)
        provenance = Provenance(self.model) if self.try_out or close else None
        if provenance and habits.shared and self.plain is None:
            self._run_plainly()
        ways = [(layer, way_to_run(layer, habits)) for layer in self.layers]
        recorder = Recorder(ways, habits, self.batch, provenance)
        try:
            return self._recorded(recorder, provenance)
        finally:
            recorder.forget()

    def _recorded(self, recorder: Recorder, provenance: Provenance | None) -> Book | None:
        habits = self.habits
        with recorder:
            losses = self._losses(recorder, provenance)
            if losses is None:
                return None
            book = Book(losses)
            if not book.batch or not losses.requires_grad:
                return book
            _refuse_float16(losses)
            if recorder.repeated:
                if recorder.batch != book.batch:
                    self.batch = book.batch
                    return None
                self._compare(losses, recorder)
            recorder.batch = book.batch
            uneven = recorder.uneven()
            self.try_out |= habits.trial_is_due(book.batch)
            self.try_out |= not uneven and recorder.untried()
            trial = recorder.trial(losses) if self.try_out and not uneven else None
            strangers = uneven or recorder.backward(losses, book.add, trial)
            if not strangers:
                if trial:
                    _refuse_unseen(recorder)
                return self._with_strays(recorder, losses, book)
        if uneven or trial:
            self._learn(strangers, recorder)
        if not recorder.repeated:
            self.plain = losses.detach()
        self.batch, self.try_out = book.batch, True
        return None

    def _run_plainly(self) -> None:
        """Take the losses, and how many they are, from the model as it is."""
        self.plain = self.record_losses().detach()
        self.batch = len(self.plain)
        _set_random_states(self._drawn)

    def _losses(self, recorder: Recorder, provenance: Provenance | None) -> Tensor | None:
        """The losses, or None if rows that all records share cannot be repeated for each."""
        try:
            with provenance or nullcontext():
                return self.record_losses()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if not recorder.repeated:
                raise
            if self.plain is None or provenance is None:
                self._run_plainly_again()
                return None
            self.habits.of_no_record |= recorder.repeated.keys()
            self.habits.shared -= recorder.repeated.keys()
            return None

    def _run_plainly_again(self) -> None:
        _set_random_states(self._drawn)
        self._run_plainly()
        self.try_out = True

    def _compare(self, losses: Tensor, recorder: Recorder) -> None:
        """Refuse where repeated rows give other losses than shared ones, beyond rounding.

        Products of more rows may round otherwise, which the layers above enlarge; half of the
        digits is far beyond that, and far below what another record's rows change.
        """
        if self.plain is None:
            return
        plain, found = (x.detach().to(widest(x.device)) for x in (self.plain, losses))
        narrow = torch.bfloat16 if recorder.is_narrow else losses.dtype
        rounding = torch.finfo(narrow).eps ** 0.5
        within = (plain - found).abs() <= rounding * (plain.abs() + plain.abs().mean())
        if not (within | ~plain.isfinite()).all():
            raise _not_repeated(recorder, "the losses change")

    def _learn(self, strangers: list[Tap], recorder: Recorder) -> None:
        """Note which of these calls all records share, or are to be left as they are.

        Refuse the first if there is no such call.
        """
        habits, others = self.habits, [tap for tap in recorder.taps if tap not in strangers]
        copied = {tap.layer.name for tap in strangers if tap.is_copy}
        ours = [tap for tap in strangers if not tap.is_copy]
        watched = {tap.signature for tap in ours if has_upstream(tap, others)} - habits.of_watched
        rest = [tap for tap in ours if tap.signature not in watched | habits.of_watched]
        shared = {tap.signature for tap in rest if tap.can_be_shared} - habits.shared
        habits.without_rule |= copied
        habits.of_watched |= watched
        habits.shared |= shared
        if not (copied or watched or shared):
            unknown = {tap.signature for tap in rest if not tap.can_be_shared}
            if not unknown - habits.of_no_record:
                raise strangers[0].layer.refusal(*NOT_RECORDS)
            habits.of_no_record |= unknown

    def _with_strays(self, recorder: Recorder, losses: Tensor, book: Book) -> Book | None:
        """The book with the gradients that were not taken from layers, one record at a time."""
        strays = [p for p in self.parameters if p.grad is not None]
        if not strays:
            return book
        if not recorder.kept_graph:
            self.habits.has_strays = True
            return None
        for parameter, gradients in zip(strays, recorder.apart(losses, strays), strict=True):
            book.add(parameter, Dense(gradients))
        return book


def _not_repeated(recorder: Recorder, what: str) -> InputError:
    layer = list(recorder.repeated.values())[-1]
    return layer.refusal(
        f"all records share its output, and where each gets its own {what}",
        "give its input a row for each record",
    )


def _refuse_unseen(recorder: Recorder) -> None:
    """Refuse a layer that was left as it is because of watched tensors that were not there."""
    for tap in recorder.left_alone:
        if not has_upstream(tap, recorder.verified):
            raise tap.layer.refusal(*NOT_RECORDS)


def _refuse_float16(losses: Tensor) -> None:
    if losses.dtype == torch.float16:
        raise InputError(
            "The losses are in float16, whose small numbers lose digits that clipping needs; "
            "compute them in bfloat16 or float32."
        )


def _random_states() -> tuple[Tensor, list[Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


def _set_random_states(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
