"""What crosses a file boundary: strict pydantic models whose faults read as one sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from fits.errors import UserError, nearest
from fits.files import read_mapping, write_json, write_yaml


def whole_number(value: Any) -> Any:
    """Take 1e9 and "1e9" for the count they mean; leave everything else to pydantic."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number, not true or false")
    if isinstance(value, str):
        try:
            value = float(value.replace("_", ""))
        except ValueError:
            raise ValueError("must be a whole number") from None
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("must be a whole number")
        return int(value)
    return value


Count = Annotated[int, BeforeValidator(whole_number)]
"""A whole number; accepts ``1e9`` and ``"1e9"`` as people write them in YAML."""


class Schema(BaseModel):
    """Base of every file's model: frozen, unknown keys refused, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def parse(cls, data: Any, source: str | Path) -> Self:
        """Build the model from plain data.

        Raises:
            UserError: names ``source``, the key, the value and the fault.
        """
        return parse(cls, data, source)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the model from a YAML or JSON file (by its ending).

        Raises:
            UserError: the file is missing or malformed, or a key is wrong.
        """
        return parse(cls, read_mapping(path), path)

    def save(self, path: str | Path, *, heading: str = "") -> None:
        """Write the model as YAML, or as JSON when the path ends in ``.json``; whole or not at all."""
        data = self.model_dump(mode="json")
        if Path(path).suffix == ".json":
            write_json(path, data)
        else:
            write_yaml(path, data, heading=heading)


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], data: Any, source: str | Path) -> Model:
    """Validate plain data as ``model``.

    Raises:
        UserError: the first fault, in one sentence that names ``source``, the key and the value.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(_another_kind(model, data, source) or _sentence(model, error, source)) from None


def _another_kind(model: type[BaseModel], data: Any, source: str | Path) -> str:
    """What to say of a file that was meant for something else: of its keys most are unknown, and not misspelt."""
    if not isinstance(data, dict):
        return ""
    fields = {name: field for name, field in model.model_fields.items() if name != "schema_version"}
    keys = [str(key) for key in data if key != "schema_version"]
    unknown = [key for key in keys if key not in fields and not nearest(key, fields)]
    lacking = [name for name, field in fields.items() if field.is_required() and name not in keys]
    if not lacking or 2 * len(unknown) <= len(keys):
        return ""
    has, lacks = (", ".join(f"'{key}'" for key in keys[:3]) for keys in (unknown, lacking))
    return f"{source} is a file of another kind: it has {has} and lacks {lacks}; give another file."


def _sentence(model: type[BaseModel], error: ValidationError, source: str | Path) -> str:
    # A misspelt key also leaves its right name missing: name the misspelling first. A file of another version is
    # expected to have other keys: name that before all.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = next((fault for fault in faults if fault["loc"] == ("schema_version",)), faults[0])
    if fault["loc"] == ("schema_version",) and fault["type"] == "literal_error":
        wanted = fault.get("ctx", {}).get("expected")
        return f"{source} is of schema_version {fault['input']!r}, this program reads {wanted}; make the file again."
    key = ".".join(str(part) for part in fault["loc"])
    more = f" ({len(faults) - 1} more faults follow.)" if len(faults) > 1 else ""
    if fault["type"] == "extra_forbidden":
        hint = nearest(str(fault["loc"][-1]), _known_keys(model, fault["loc"]))
        return f"{source}: unknown key '{key}'{hint}; remove or rename it.{more}"
    if fault["type"] == "missing":
        return f"{source}: key '{key}' is missing; add it.{more}"
    message = fault["msg"].removeprefix("Value error, ").rstrip(".")
    message = message[0].lower() + message[1:]
    if not key or isinstance(fault["input"], dict):  # a check across several keys names them itself
        where = f" in '{key}'" if key else ""
        return f"{source}{where}: {message}.{more}"
    return f"{source}: key '{key}' is {fault['input']!r}: {message}.{more}"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed beside the unknown one, following ``location`` through nested models, lists and unions."""
    fields = model.model_fields
    for part in location[:-1]:
        if part in fields:  # otherwise the place in a list, or the member of a union that was tried
            inner = _models_in(fields[part].annotation)
            fields = {name: field for each in inner for name, field in each.model_fields.items()}
    return list(fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation such as ``tuple[Run, ...] | None`` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models_in(each)
