"""The form of a run: what is typed comes back as a configuration, or is refused in words."""

from pathlib import Path

import pytest

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.panels.run.form import RunForm


def form(config: RunConfig | None = None) -> RunForm:
    return RunForm(config or RunConfig(), on_change=lambda: None)


def test_what_is_filled_in_is_what_is_read_back():
    config = RunConfig.parse(
        {
            "privacy": {
                "noise_multiplier": None,
                "target_epsilon": 3.5,
                "clipping": "adaptive",
                "private": False,
            },
            "training": {"steps": None, "epochs": 2.25, "optimizer": "adamw_bc"},
            "corpus": {"source": "mine.csv", "text_field": "words"},
            "randomness": "secure",
            "seed": 7,
        }
    )
    assert form(config).config() == config


def test_more_digits_than_are_shown_are_kept_until_another_number_is_typed():
    config = RunConfig().with_changes({"privacy.noise_multiplier": 0.8804219})
    filled = form(config)
    assert filled.fields["privacy.noise_multiplier"].value == "0.8804"
    assert filled.config() == config
    filled.fields["privacy.noise_multiplier"].value = "0.9"
    assert filled.config().privacy.noise_multiplier == 0.9


def test_a_target_empties_the_noise_and_the_other_way_round():
    filled = form()
    filled.fields["privacy.target_epsilon"].value = "3"
    assert filled.fields["privacy.noise_multiplier"].value == ""
    assert filled.config().privacy.target_epsilon == 3
    filled.fields["privacy.noise_multiplier"].value = "1.5"
    assert filled.fields["privacy.target_epsilon"].value == ""
    assert filled.config().privacy.noise_multiplier == 1.5


@pytest.mark.parametrize(
    ("field", "typed", "complaint"),
    [
        ("privacy.noise_multiplier", "lots", "Noise σ is 'lots' but must be a number"),
        ("privacy.noise_multiplier", "nan", "Noise σ is 'nan' but must be a number"),
        ("privacy.noise_multiplier", "", "Noise σ and target ε are both empty"),
        ("training.steps", "", "Steps T and epochs are both empty"),
        ("privacy.noise_multiplier", "0", "privacy.noise_multiplier is 0.0 but"),
        ("privacy.max_grad_norm", "-1", "privacy.max_grad_norm is -1.0 but"),
        ("privacy.delta", "1", "privacy.delta is 1.0 but"),
        ("training.steps", "2.5", "training.steps is 2.5 but"),
        ("training.expected_batch_size", "", "Batch B is '' but must be a number"),
        ("training.learning_rate", "inf", "Learning rate is 'inf' but must be a number"),
    ],
)
def test_bad_input_is_refused_in_a_sentence_that_marks_its_field(
    field: str, typed: str, complaint: str
):
    filled = form()
    filled.fields[field].value = typed
    with pytest.raises(InputError) as refused:
        filled.config()
    assert str(refused.value).startswith(complaint)
    filled.mark(str(refused.value))
    assert "wb-refused" in filled.fields[field]._dom_classes
    filled.mark("")
    assert "wb-refused" not in filled.fields[field]._dom_classes


def test_a_change_is_told_once_though_it_empties_another_field():
    told: list[None] = []
    filled = RunForm(RunConfig(), on_change=lambda: told.append(None))
    filled.fields["training.epochs"].value = "2"
    assert len(told) == 1


def test_showing_another_configuration_is_no_change_of_the_user():
    told: list[None] = []
    filled = RunForm(RunConfig(), on_change=lambda: told.append(None))
    other = RunConfig().with_changes({"training.steps": 17, "seed": 3})
    filled.show(other)
    assert (filled.config(), told) == (other, [])


def test_the_twin_has_no_noise_to_choose():
    filled = form()
    filled.fields["privacy.private"].value = False
    assert filled.fields["privacy.noise_multiplier"].disabled
    assert filled.fields["privacy.clipping"].disabled
    assert not filled.fields["training.steps"].disabled
    assert not filled.config().privacy.private
    filled.fields["privacy.private"].value = True
    assert not filled.fields["privacy.noise_multiplier"].disabled


def test_nothing_can_be_edited_while_a_run_goes():
    filled = form()
    filled.enable(False)
    fields = [*filled.fields.values(), *filled.box.children]
    assert all(field.disabled for field in fields)
    filled.enable(True)
    assert not any(field.disabled for field in fields)


def test_the_run_folder_is_named_by_the_time_unless_typed():
    filled = form()
    assert filled.run_dir is None
    filled.box.children[-1].value = " kept/here "
    assert filled.run_dir == Path("kept/here")


def test_every_field_has_a_label_and_says_what_it_is():
    filled = form()
    assert all(field.description and field.tooltip for field in filled.fields.values())
