"""How a field of the configuration is declared: default, range, meaning, and what sweeps and listings want to know."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo


def knob(default: Any, description: str, **extra: Any) -> Any:
    """Declare a field: pydantic's constraints (`ge`, `le`, ...) and what `tdbench list` and sweeps want to know.

    Args:
        default: The default value.
        description: One line, with the unit.
        **extra: Field constraints; and `source` (where the default comes from), `aliases` (other names on the
            command line), `rule` (the range in words, where constraints cannot say it), `sweep` (the values that
            `tdbench ablate` takes where it is given none), `identity=False` for a field that changes where or how
            fast a run goes but not which run it is.
    """
    noted = ("source", "aliases", "rule", "sweep", "identity")
    own: dict[str, Any] = {key: extra.pop(key) for key in noted if key in extra}
    return Field(default, description=description, json_schema_extra=own or None, **extra)


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
            raise ValueError(f"must not be true or false, got {str(value).lower()}")
        return value


def about(field: FieldInfo) -> dict[str, Any]:
    """Return what `knob` noted of a field beside its constraints: source, aliases, rule, identity."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}
