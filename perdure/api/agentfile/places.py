"""Reading a file's JSON with every problem named by its place in it."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from perdure.core.errors import Invalid

Model = TypeVar("Model", bound=BaseModel)


def wrong(where: str, what: str) -> Invalid:
    return Invalid(f"The agent file is wrong at {where}: {what}")


def an_object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, f"must be an object, not {type(value).__name__}")
    return cast(dict[str, Any], value)


def objects(parent: dict[str, Any], key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for each of the list under `key`; nothing if it is left out or null."""
    place = f"{where}.{key}" if where else key
    value = parent.get(key)
    if value is None:
        return
    if not isinstance(value, list):
        raise wrong(place, f"must be a list, not {type(value).__name__}")
    for at, item in enumerate(cast(list[object], value)):
        yield f"{place}[{at}]", an_object(item, f"{place}[{at}]")


def text(parent: dict[str, Any], key: str, where: str) -> str:
    value = parent.get(key)
    if not isinstance(value, str):
        raise wrong(f"{where}.{key}", "must be a string" if key in parent else "is missing")
    return value


def optional_text(parent: dict[str, Any], key: str, where: str) -> str | None:
    return None if parent.get(key) is None else text(parent, key, where)


def texts(parent: dict[str, Any], key: str, where: str) -> list[str]:
    """A list of strings; empty if it is left out or null."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast(list[object], value)):
        raise wrong(f"{where}.{key}", "must be a list of strings")
    return cast(list[str], value)


def parsed(kind: type[Model], value: dict[str, Any], where: str) -> Model:
    """`value` as a wire model of ours."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise wrong(f"{where}.{place}" if place else where, str(problem["msg"])) from error


@contextmanager
def within(where: str) -> Generator[None]:
    """Puts the place in the file before the message of an Invalid that names only a field of it."""
    try:
        yield
    except Invalid as error:
        field, _, what = error.message.partition(": ")
        raise wrong(f"{where}.{field}", what) from error
