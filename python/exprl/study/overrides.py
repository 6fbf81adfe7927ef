"""`--set KEY=VALUE` of the commands that read a run: a setting that changes nothing is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exprl.errors import ConfigError


def refuse_dead(
    overrides: Sequence[str],
    live: Sequence[str],
    dead: Mapping[str, str],
    command: str,
) -> None:
    """Refuse overrides that a command would take and not look at.

    Args:
        live: keys that it reads; a section's name stands for all of its keys.
        dead: keys, of `live` or not, that it does not read, and what to write instead.

    Raises:
        ConfigError: names the override, and what to write instead where there is such a thing.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        instead = next((text for name, text in dead.items() if _is_in(key, name)), None)
        if instead is not None:
            raise ConfigError(f"--set {override}: `{command}` does not read {key}; {instead}")
        if not any(_is_in(key, name) for name in live):
            raise ConfigError(
                f"--set {override}: `{command}` does not read {key}; it reads {', '.join(live)}"
            )


def _is_in(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")
