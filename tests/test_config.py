"""The configuration: round trips, one-sentence errors, and a runtime that cannot touch ε."""

import inspect
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workbench import privacy
from workbench.config import (
    CorpusConfig,
    PrivacyConfig,
    RampConfig,
    RunConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainingConfig,
)
from workbench.errors import InputError

_positive = st.floats(1e-3, 1e3, allow_nan=False)

_privacy = st.builds(
    PrivacyConfig,
    noise_multiplier=_positive,
    target_epsilon=st.none(),
    delta=st.floats(1e-12, 0.5),
    max_grad_norm=_positive,
    sampling=st.sampled_from(["poisson", "truncated_poisson", "fixed_size", "shuffle"]),
    neighbouring_relation=st.sampled_from(["add_or_remove_one", "replace_one"]),
    accountant=st.sampled_from(["pld", "rdp", "prv"]),
    private=st.booleans(),
    clipping=st.sampled_from(["flat", "normalised", "adaptive"]),
    max_epsilon=st.none() | _positive,
)
_runtime = st.builds(
    RuntimeConfig,
    device=st.sampled_from(["auto", "cpu", "cuda", "mps"]),
    physical_batch_size=st.just("auto") | st.integers(1, 4096),
    precision=st.sampled_from(["float32", "tf32", "bf16"]),
    engine=st.sampled_from(["bookkeeping", "ghost", "hooks", "reference"]),
    threads=st.none() | st.integers(1, 64),
)
_training = st.builds(
    TrainingConfig,
    expected_batch_size=st.integers(1, 10**7),
    steps=st.integers(1, 10**7),
    epochs=st.none(),
    learning_rate=_positive,
    evaluate_every=st.integers(1, 1000),
)
_corpus = st.builds(
    CorpusConfig,
    source=st.text(min_size=1, max_size=30),
    record_tokens=st.integers(2, 4096),
)
_ramp = st.builds(
    RampConfig,
    kind=st.sampled_from(["constant", "linear", "exponential", "step"]),
    end_factor=_positive,
)
_runs = st.builds(
    RunConfig,
    schedule=st.builds(ScheduleConfig, noise=_ramp, batch=_ramp, max_grad_norm=_ramp),
    randomness=st.sampled_from(["seeded", "secure"]),
    privacy=_privacy,
    corpus=_corpus,
    training=_training,
    runtime=_runtime,
    seed=st.integers(0, 2**31),
)


@given(_runs)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_yaml_round_trip_loses_nothing(config: RunConfig) -> None:
    assert RunConfig.from_yaml(config.to_yaml()) == config


@given(_privacy, _training, st.lists(_runtime, min_size=2, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_the_runtime_cannot_change_what_privacy_reads(
    wanted: PrivacyConfig, training: TrainingConfig, runtimes: list[RuntimeConfig]
) -> None:
    runs = [RunConfig(privacy=wanted, training=training, runtime=each) for each in runtimes]
    size = training.expected_batch_size * 10
    read = {(run.privacy, run.sample_rate(size), run.steps(size)) for run in runs}
    assert len(read) == 1


def test_no_public_function_of_privacy_takes_a_runtime_or_a_whole_run() -> None:
    for name in privacy.__all__:
        public = getattr(privacy, name)
        for hint in typing.get_type_hints(public.__init__ if inspect.isclass(public) else public):
            assert "runtime" not in hint
        annotations = inspect.signature(public).parameters.values()
        assert not any("RunConfig" in str(p.annotation) for p in annotations), name
        assert not any("RuntimeConfig" in str(p.annotation) for p in annotations), name


def test_privacy_does_not_mention_the_runtime_anywhere() -> None:
    fields = set(RuntimeConfig.model_fields)
    private = set(PrivacyConfig.model_fields) | set(TrainingConfig.model_fields)
    assert not fields & (private | set(CorpusConfig.model_fields))


def test_a_configuration_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().privacy.delta = 0.1  # pyright: ignore[reportAttributeAccessIssue]


def test_changes_are_validated_and_leave_the_original_alone() -> None:
    before = RunConfig()
    after = before.with_changes({"privacy.delta": 1e-6, "seed": 3})
    assert (after.privacy.delta, after.seed) == (1e-6, 3)
    assert (before.privacy.delta, before.seed) == (1e-5, 0)
    with pytest.raises(InputError, match=r"training\.steps"):
        before.with_changes({"training.steps": 0})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"privacy.noise_multiplier": 0.0}, "privacy.noise_multiplier"),
        ({"privacy.noise_multiplier": -1.0}, "privacy.noise_multiplier"),
        ({"privacy.noise_multiplier": float("nan")}, "privacy.noise_multiplier"),
        ({"privacy.noise_multiplier": float("inf")}, "privacy.noise_multiplier"),
        ({"privacy.delta": 1.0}, "privacy.delta"),
        ({"privacy.delta": 0.0}, "privacy.delta"),
        ({"privacy.target_epsilon": 3.0}, "exactly one of noise_multiplier and target_epsilon"),
        ({"training.epochs": 1.0}, "exactly one of steps and epochs"),
        ({"training.expected_batch_size": 0}, "training.expected_batch_size"),
        ({"runtime.device": "tpu"}, "runtime.device"),
        ({"privacy.sigma": 1.0}, "privacy.sigma"),
        ({"privacey.delta": 0.1}, "privacey.delta is no field"),
        ({"seed.delta": 0.1}, "seed.delta is no field"),
        ({"runtime.physical_batch_size": "large"}, "runtime.physical_batch_size is 'large'"),
        ({"privacy.max_grad_norm": 1e300}, "privacy.max_grad_norm is 1e+300"),
        ({"training.learning_rate": 1e300}, "training.learning_rate is 1e+300"),
        ({"training.steps": 10**13}, "training.steps is 10000000000000"),
        ({"runtime.physical_batch_size": 0}, "runtime.physical_batch_size is 0"),
        ({"schedule.noise": {"end_factor": 0}}, "schedule.noise.end_factor"),
        ({"privacy.clip_learning_rate": 2000.0}, "privacy.clip_learning_rate is 2000"),
        ({"model.vocabulary": 10**9}, "model.vocabulary is 1000000000"),
    ],
)
def test_bad_values_get_one_sentence_naming_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        RunConfig().with_changes(changes)
    message = str(caught.value)
    assert field in message
    assert "\n" not in message
    assert message.endswith(".")


def test_epochs_make_no_more_steps_than_can_be_asked_for() -> None:
    many = RunConfig().with_changes({"training.steps": None, "training.epochs": 1e20})
    with pytest.raises(InputError, match=r"training\.epochs is 1e\+20.*; lower it\.$") as caught:
        many.steps(100)
    assert "\n" not in str(caught.value)
    most = many.with_changes({"training.expected_batch_size": 1, "training.epochs": 1e10})
    assert most.steps(100) == 10**12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just words", "not a YAML mapping"),
        ("privacy: [", "not YAML"),
        ("privacy: 3", "privacy"),
        ("training: {steps: abc}", "training.steps"),
        ("privacy:", "privacy is an empty section"),
        ("model: [1]", "should be a section"),
        ("seed: yes", "seed is True but should be neither true nor false"),
        ("corpus: {text_field: on}", "put a text in quotes"),
        ("corpus: {source: 12}", "put it in quotes"),
        ("seed: 1e30", "seed is 1e+30"),
        ("corpus: {record_tokens: 1e9}", "corpus.record_tokens is"),
        ("'': 1", "'' is not a field"),
    ],
)
def test_bad_yaml_gets_one_sentence(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        RunConfig.from_yaml(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml: No such file"):
        RunConfig.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("privacy: {noise-multiplier: 2}", "noise_multiplier in the section privacy."),
        ("privacy: {noiseMultiplier: 2}", "noise_multiplier in the section privacy."),
        ("privacy: {noise_multipler: 2}", "noise_multiplier in the section privacy."),
        ("privacy: {sigma: 2}", "noise_multiplier in the section privacy."),
        ("noise_multiplier: 2", "noise_multiplier in the section privacy."),
        ("training: {noise_multiplier: 2}", "noise_multiplier in the section privacy."),
        ("max-steps: 2", "steps in the section training."),
        ("lr: 2", "learning_rate in the section training."),
        ("privacy.noise_multiplier: 2", "write noise_multiplier in the section privacy."),
        ("privacy: {training.steps: 2}", "write steps in the section training."),
        ("Privacy: {delta: 1e-6}", "you mean privacy."),
        ("trainig: {steps: 2}", "you mean training."),
        ("schedule: {noise: {kinds: step}}", "kind in the section schedule.noise."),
        ("zeal: 2", "check its spelling or remove it."),
    ],
)
def test_a_name_that_is_no_field_is_told_what_it_probably_means(text: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        RunConfig.from_yaml(text)
    assert meant in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["1e-5", "010", "1:30", "yes", "2024-01-02", "null", "~", "<<", "0x1F", "-", "a: b", ".5"],
)
def test_texts_that_look_like_something_else_survive_yaml(text: str) -> None:
    config = RunConfig.parse({"corpus": {"source": text, "text_field": text}})
    assert RunConfig.from_yaml(config.to_yaml()) == config


def test_a_value_too_large_to_show_is_cut_in_the_sentence() -> None:
    for value in (10**5000, ["a long list"] * 5000):
        with pytest.raises(InputError, match=r"^seed is ") as caught:
            RunConfig.parse({"seed": value})
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "path", ["~nosuchuser/a.yaml", "/x/" + "x" * 300, "a\0b", "\ud800", ".", "none/a.yaml"]
)
def test_a_file_that_no_path_leads_to_is_refused(path: str) -> None:
    with pytest.raises(InputError) as caught:
        RunConfig.load(path)
    assert "configuration" in str(caught.value)
    assert "\n" not in str(caught.value)
