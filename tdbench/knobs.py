"""How a field of the configuration is declared: default, range, meaning, and what sweeps and listings want to know."""

from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from tdbench.errors import OutOfRange

_NOTED = ("source", "aliases", "rule", "sweep", "identity", "needs")


def knob(default: Any, description: str, **extra: Any) -> Any:
    """Declare a field: pydantic's constraints (`ge`, `le`, ...) and what `tdbench list` and sweeps want to know.

    Args:
        default: The default value; `...` where it must be given.
        description: One line, with the unit.
        **extra: Field constraints; and `source` (where the default comes from), `aliases` (other names on the
            command line), `rule` (the range in words, where constraints cannot say it), `sweep` (the values that
            `tdbench ablate` takes where it is given none), `identity=False` for a field that changes where or how
            fast a run goes but not which run it is, `needs={"schedule": ("linear",)}` for one that does nothing unless
            another field of the section has such a value, or one of such a pattern (`*.py:*`); refused where no run of
            a command uses it.
    """
    own: dict[str, Any] = {key: extra.pop(key) for key in _NOTED if key in extra}
    return Field(default, description=description, json_schema_extra=own or None, **extra)


def _check_odd(value: int) -> int:
    if value < 1 or value % 2 == 0:
        raise OutOfRange("odd and at least 1", value)
    return value


Odd = Annotated[int, AfterValidator(_check_odd)]  # a block with a middle


class Section(BaseModel):
    """A frozen branch of the tree that refuses unknown keys, NaN, and booleans where numbers belong."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: Any) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise OutOfRange("neither true nor false", value)
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_as_on_the_command_line(cls, value: Any, info: Any) -> Any:
        """Take `0.3,0.6` for the list that it is on the command line, and one number for a list of one."""
        annotation = cls.model_fields[info.field_name].annotation
        if tuple[float, ...] not in (annotation, *get_args(annotation)):
            return value
        return value.split(",") if isinstance(value, str) else [value] if isinstance(value, (int, float)) else value

    def uses(self) -> dict[str, str | None]:
        """Return, of keys beside those that are declared with `needs`, what `used` tells of them."""
        return {}


def used(section: Section) -> dict[str, str | None]:
    """Return, of the fields that need a value of another one, why each does nothing; None where it does something.

    Left out are those that do nothing and are left at their defaults.
    """
    found: dict[str, str | None] = {}
    for name, other, values, default in _needs(type(section)):
        value, there = getattr(section, name), getattr(section, other)
        if any(fnmatchcase(str(there), value) for value in values):
            found[name] = None
        elif value != default:
            only = f"only where that is {' or '.join(values)}"
            found[name] = f"must be left at {default}, got {value}: it does nothing where {other} is {there}, {only}"
    return found | section.uses()


@cache
def _needs(section: type[Section]) -> tuple[tuple[str, str, tuple[str, ...], Any], ...]:
    """Return each field that needs a value of another, that field, the values, and the default."""
    return tuple(
        (name, other, values, field.default)
        for name, field in section.model_fields.items()
        for other, values in about(field).get("needs", {}).items()
    )


def as_json(value: Any) -> Any:
    """Return a value as JSON has it, by which values are compared and sent between processes."""
    return to_jsonable_python(value, fallback=str)


def about(field: FieldInfo) -> dict[str, Any]:
    """Return what `knob` noted of a field beside its constraints: source, aliases, rule, sweep, identity, needs."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def bounds(field: FieldInfo) -> dict[str, float]:
    """Return a field's constraints by pydantic's names for them: `ge`, `gt`, `le`, `lt`."""
    names = ("ge", "gt", "le", "lt")
    return {name: getattr(one, name) for one in field.metadata for name in names if hasattr(one, name)}


def allowed(field: FieldInfo) -> str:
    """Return the values that a field takes, in a few signs: `≥ 0, ≤ 1`, `constant | linear`."""
    if "rule" in about(field):
        return about(field)["rule"]
    if get_origin(field.annotation) is Literal:
        return " | ".join(map(str, get_args(field.annotation)))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{signs[name]} {limit}" for name, limit in bounds(field).items())


def shown_default(field: FieldInfo) -> str:
    """Return a field's default as YAML writes it; `—` where there is none."""
    if field.is_required():
        return "—"
    return "null" if field.default is None else str(field.get_default(call_default_factory=True))
