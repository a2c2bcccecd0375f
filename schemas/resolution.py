"""Can values of one schema be read as another? Decided from the schemas alone.

Avro leaves some pairs to the data: a writer's union may hold branches that the reader lacks, and
fails only when one of them occurs. Here every branch must be readable, so that all records under
one schema share one fate.
"""

from typing import Any

from schemas.lint import SafeSchema

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
_NAMED = ("record", "error", "enum", "fixed")


def incompatibilities(writer: SafeSchema, reader: SafeSchema) -> list[str]:
    """Why `reader` cannot read what `writer` wrote, one clause each; empty when it can.

    Beyond the rules of the specification, two different logical types on one value do not match:
    milliseconds read as nanoseconds would resolve without an error and be wrong by a million.
    A writer without a logical type is taken at its word.
    """
    resolver = _Resolver(writer.names, reader.names)
    problems = resolver.compare(writer.plain, reader.plain, reader.plain["name"])
    return problems + _logical_problems(writer.declared, reader.declared)


class _Resolver:
    def __init__(self, writer_names: dict[str, Any], reader_names: dict[str, Any]) -> None:
        self._writer_names = writer_names
        self._reader_names = reader_names

    def compare(self, writer: Any, reader: Any, path: str) -> list[str]:
        if isinstance(writer, str):
            writer = self._writer_names.get(writer, writer)
        if isinstance(reader, str):
            reader = self._reader_names.get(reader, reader)
        if isinstance(writer, list):
            return [problem for branch in writer for problem in self.compare(branch, reader, path)]
        if isinstance(reader, list):
            if any(not self.compare(writer, branch, path) for branch in reader):
                return []
            return [f"{path}: {_kind(writer)} matches no branch of the reader's union"]
        written, read = _kind(writer), _kind(reader)
        if written != read and read not in _PROMOTIONS.get(written, ()):
            return [f"{path}: {written} cannot be read as {read}"]
        if read in _NAMED and written == read:
            return self._compare_named(writer, reader, path)
        if read == "array":
            return self.compare(writer["items"], reader["items"], f"{path}[]")
        if read == "map":
            return self.compare(writer["values"], reader["values"], f"{path}{{}}")
        return []

    def _compare_named(self, writer: Any, reader: Any, path: str) -> list[str]:
        accepted = {_short(reader["name"]), *map(_short, reader.get("aliases", []))}
        if _short(writer["name"]) not in accepted:
            return [f"{path}: the writer's type has another name"]
        if reader["type"] == "fixed" and writer["size"] != reader["size"]:
            return [f"{path}: {writer['size']} bytes cannot be read as {reader['size']}"]
        if reader["type"] == "enum":
            unknown = set(writer["symbols"]) - set(reader["symbols"])
            if unknown and "default" not in reader:
                return [f"{path}: the reader lacks {len(unknown)} symbols and has no default"]
        if reader["type"] in ("record", "error"):
            return self._compare_fields(writer, reader, path)
        return []

    def _compare_fields(self, writer: Any, reader: Any, path: str) -> list[str]:
        written = {field["name"]: field for field in writer["fields"]}
        problems = []
        for field in reader["fields"]:
            names = [field["name"], *field.get("aliases", [])]
            source = next((written[name] for name in names if name in written), None)
            where = f"{path}.{field['name']}"
            if source is not None:
                problems += self.compare(source["type"], field["type"], where)
            elif "default" not in field:
                problems.append(f"{where}: missing in the writer, and without a default")
        return problems


def _kind(schema: Any) -> str:
    return str(schema if isinstance(schema, str) else schema["type"])


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _logical_problems(writer: dict[str, Any], reader: dict[str, Any]) -> list[str]:
    """Differing logical types among the top-level fields."""
    written = {field["name"]: _logical(field["type"]) for field in writer["fields"]}
    problems = []
    for field in reader["fields"]:
        wanted = _logical(field["type"])
        names = [field["name"], *field.get("aliases", [])]
        given = next((written[name] for name in names if name in written), None)
        if wanted is not None and given is not None and given != wanted:
            where = f"{reader['name']}.{field['name']}"
            problems.append(f"{where}: the writer's logical type is not {wanted}")
    return problems


def _logical(schema: Any) -> str | None:
    """Logical type of a field, looking into a union with null."""
    branches = schema if isinstance(schema, list) else [schema]
    found = [branch.get("logicalType") for branch in branches if isinstance(branch, dict)]
    return next((str(logical) for logical in found if logical is not None), None)
