"""What earlier passes taught of a model."""

from dataclasses import dataclass, field

from workbench.clipping.bookkeeping.isolation import Call, Signature
from workbench.clipping.clipped_sum import now_and_then


@dataclass
class Habits:
    """What earlier passes taught of a model.

    Calls that were tried out, and those of them whose rows were seen to be records; calls whose
    rows all records share, to be repeated for each; calls to be left as they are, on what is made
    of no record, or of what is watched before; calls on what was seen to be made of no record, and
    not only counted; layers without a rule, and whether parameters are
    used outside of layers; of normalisations, whether they multiply or add their weights element by
    element and do no more with them. ``careful`` says that what is shared may be another thing in
    every pass.
    """

    tried: set[Call] = field(default_factory=set)
    by_record: set[Call] = field(default_factory=set)
    shared: set[Signature] = field(default_factory=set)
    of_no_record: set[Signature] = field(default_factory=set)
    of_watched: set[Signature] = field(default_factory=set)
    made_of_none: set[Signature] = field(default_factory=set)
    without_rule: set[str] = field(default_factory=set)
    elementwise: dict[Signature, bool] = field(default_factory=dict)
    has_strays: bool = False
    careful: bool = False
    passes: int = 0
    most_records_tried: int = 1

    def trial_is_due(self, batch: int) -> bool:
        """At passes 1, 4, 16, 64 … and for far larger batches: records may decide what layers do.

        By chance a few records can pass where more would not.
        """
        is_due = now_and_then(self.passes + 1)
        return batch > 1 and (is_due or batch > 2 * self.most_records_tried)

    def looks_closely(self) -> bool:
        """Whether this pass has to see what is shared by all records is made of."""
        return self.careful or now_and_then(self.passes + 1)
