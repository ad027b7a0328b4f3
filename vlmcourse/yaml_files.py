"""YAML files that people write by hand: what is wrong with them is said by name."""

from pathlib import Path

import yaml

from vlmcourse.errors import UserError

PLAIN = (str, int, float, bool, type(None))


class _OnceLoader(yaml.SafeLoader):
    """YAML in which no key may stand twice: the first of the two would be lost without a word."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if isinstance(name, PLAIN) and names.count(name) > 1:
                raise yaml.YAMLError(
                    f"line {node.start_mark.line + 1}: {name!r} stands there twice"
                )
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, wanted: str = "a mapping", error: type = UserError) -> dict:
    """Read a file that holds a mapping.

    Args:
        wanted: what the file should be, for whoever gave another.
        error: a kind of `UserError`.

    Raises:
        UserError: missing, not YAML, a key that stands twice, or no mapping.
    """
    try:
        read = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from reason
    except (UnicodeDecodeError, yaml.YAMLError) as reason:
        raise error(f"{path}: not YAML ({' '.join(str(reason).split())})") from reason
    if not isinstance(read, dict):
        raise error(f"{path}: not {wanted}")
    return read
