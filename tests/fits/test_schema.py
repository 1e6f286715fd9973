import pytest

from fits.errors import UserError
from fits.files import read_yaml
from fits.schema import Count, Schema


class Inner(Schema):
    tokens: Count


class Example(Schema):
    budget: float
    inner: Inner
    runs: tuple[Inner, ...] = ()
    other: dict[str, Inner] | None = None


def parse(**data):
    return Example.parse(data, "example.yaml")


@pytest.mark.parametrize("text", ["1e21", "1.0e21", "1.0e+21", "1E21"])
def test_hand_written_exponents_are_numbers(tmp_path, text):
    path = tmp_path / "example.yaml"
    path.write_text(f"budget: {text}\ninner: {{tokens: 1e9}}\n")
    example = Example.load(path)
    assert example.budget == 1e21
    assert example.inner.tokens == 10**9


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"budget": 1, "inner": {"token": 3}}, ["inner.token", "did you mean 'tokens'"]),
        ({"budget": 1, "inner": {"tokens": 3}, "runs": [{"tokens": 1}, {"tokns": 1}]}, ["runs.1.tokns", "'tokens'"]),
        ({"budget": 1, "inner": {"tokens": 3}, "other": {"a": {"tokns": 1}}}, ["other.a.tokns", "'tokens'"]),
        ({"budget": 1}, ["'inner' is missing"]),
        ({"budget": "much", "inner": {"tokens": 3}}, ["'budget' is 'much'", "number"]),
        ({"budget": 1, "inner": {"tokens": 2.5}}, ["'inner.tokens' is 2.5", "whole number"]),
        ({"budget": float("nan"), "inner": {"tokens": 1}}, ["'budget' is nan", "finite"]),
        ({"law": "hoffmann", "formula": "E", "other": {}}, ["another kind", "'law', 'formula'", "'budget', 'inner'"]),
        ({"budgt": 1, "iner": {}}, ["did you mean 'budget'"]),
    ],
)
def test_a_fault_is_one_sentence_with_file_key_and_value(data, words):
    with pytest.raises(UserError) as caught:
        parse(**data)
    message = str(caught.value)
    assert message.startswith("example.yaml")
    assert "\n" not in message
    assert all(word in message for word in words)


def test_save_and_load_give_the_same_model(tmp_path):
    example = parse(budget=2.55e24, inner={"tokens": 7})
    for name in ("example.yaml", "example.json"):
        example.save(tmp_path / name)
        assert Example.load(tmp_path / name) == example


def test_python_objects_in_yaml_are_refused(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("budget: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match=r"evil\.yaml line 1"):
        read_yaml(path)
