"""What values in the configuration look like: durations, sizes, addresses, names, and their table.

Knows no key: those stand in `config` and the tables beside it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lb.address import check_address, split_host

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB)")
_UNIT_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def parse_duration(value: object) -> object:
    """'1m30s', '250ms' or a number of seconds → seconds. Anything else passes on to be refused."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration: write 500ms, 10s, 2m or 1h30m")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def parse_size(value: object) -> object:
    """'64KiB', '10 MiB' or a number of bytes → bytes. Anything else passes on to be refused."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size: write 512B, 64KiB, 10MiB or 1GiB")
    return int(match[1]) * _UNIT_BYTES[match[2]]


def _check_host(value: str) -> str:
    split_host(value)
    return value


def _check_field_value(value: str) -> str:
    if value.strip(" \t") != value or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
        raise ValueError(f"{value!r} is not a header field's value: no control characters in it")
    return value


def _check_network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is not a network: write 10.0.0.0/8, fd00::/8 or one address"
        ) from None
    return value


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=86400 * 366)]
Bytes = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=1024**5)]
ListenAddress = Annotated[str, AfterValidator(lambda text: check_address(text, lowest_port=0))]
BackendAddress = Annotated[str, AfterValidator(check_address)]
HostName = Annotated[str, AfterValidator(_check_host)]
Network = Annotated[str, AfterValidator(_check_network)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
"""A header field's name."""
FieldValue = Annotated[str, AfterValidator(_check_field_value)]
PathPrefix = Annotated[str, Field(pattern=r"^/[!-~]*$")]


class Table(BaseModel):
    # strict: `min = "2"` and `min = true` are mistakes, not numbers
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _arrays(cls, value: Any) -> Any:
        """TOML's arrays, which strict checking would not take for tuples."""
        if not isinstance(value, dict):
            return value
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


def one_or_many(value: Any, key: str, shorthand: str) -> Any:
    """`key` as one string, one table, or a list of either → a tuple of tables, where a string
    stands for a table whose `shorthand` it is."""
    if not isinstance(value, dict) or key not in value:
        return value
    given = value[key]
    several = given if isinstance(given, list | tuple) else (given,)
    tables = tuple({shorthand: item} if isinstance(item, str) else item for item in several)
    return {**value, key: tables}
