"""Whether W&B is written to its server, to files or not at all, decided without asking anyone and without the network."""

from __future__ import annotations

import configparser
import dataclasses
import enum
import netrc
import pathlib
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from orchestrator.errors import OrchestratorError

FLAGS = ("auto", "online", "offline", "disabled")

_DEFAULT_URL = "https://api.wandb.ai"
# One public server under several names; the library takes a key stored for the oldest name for all of them.
_PUBLIC_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com", "forge.coreweave.com")


class WandbMode(enum.StrEnum):
    """Where runs go."""

    ONLINE = "online"
    OFFLINE = "offline"
    DISABLED = "disabled"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedMode:
    """A mode, and why it was chosen, in words for the user."""

    mode: WandbMode
    reason: str


# What the library itself takes in WANDB_MODE and in its settings file.
_MODES = {
    "online": WandbMode.ONLINE,
    "run": WandbMode.ONLINE,
    "shared": WandbMode.ONLINE,
    "offline": WandbMode.OFFLINE,
    "dryrun": WandbMode.OFFLINE,
    "disabled": WandbMode.DISABLED,
}


def resolve_mode(flag: str, environ: Mapping[str, str]) -> ResolvedMode:
    """The mode for `--wandb FLAG`: what is asked for, else `WANDB_MODE`, else what `wandb offline` left, else by the key.

    Online without a key is offline: the library would stop and ask for one.

    Args:
        flag: `auto`, `online`, `offline` or `disabled`.
        environ: The environment variables.

    Raises:
        OrchestratorError: The flag, or `WANDB_MODE`, names no mode.
    """
    if flag not in FLAGS:
        raise OrchestratorError("--wandb names no mode", found=flag, expected="one of " + ", ".join(FLAGS), fix="choose one of them")
    mode, why = _asked(flag, environ)
    if mode is not None and mode is not WandbMode.ONLINE:
        return ResolvedMode(mode=mode, reason=why)
    host, source = base_host(environ), key_source(environ)
    if not source:
        note = f", but no key for {host} was found" if mode else f"no key for {host} was found"
        return ResolvedMode(mode=WandbMode.OFFLINE, reason=f"{why}{note} (`wandb login` stores one)")
    return ResolvedMode(mode=WandbMode.ONLINE, reason=why or f"{source} has a key for {host}")


def key_source(environ: Mapping[str, str]) -> str:
    """Where the key for the server is found, never the key itself; empty if there is none."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environ.get(name):
            return name
    path, host = _netrc_path(environ), base_host(environ)
    try:
        entries = netrc.netrc(str(path))
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
        entries = None
    names = (host, *_PUBLIC_HOSTS[:1]) if host in _PUBLIC_HOSTS else (host,)
    if entries is not None and any((entries.authenticators(name) or ("", "", ""))[2] for name in names):
        return str(path)
    return next((str(file) for file, settings in _settings(environ) if settings.get("api_key")), "")


def base_host(environ: Mapping[str, str]) -> str:
    """Host, and port if any, of the server that runs are sent to."""
    url = environ.get("WANDB_BASE_URL") or next((rows["base_url"] for _, rows in _settings(environ) if rows.get("base_url")), _DEFAULT_URL)
    return urlsplit(url).netloc or url


def _asked(flag: str, environ: Mapping[str, str]) -> tuple[WandbMode | None, str]:
    if flag != "auto":
        return WandbMode(flag), f"asked for by --wandb {flag}"
    if word := environ.get("WANDB_MODE"):
        if word not in _MODES:
            expected = "one of " + ", ".join(_MODES)
            raise OrchestratorError("WANDB_MODE names no mode", found=word, expected=expected, fix="correct or unset the variable")
        return _MODES[word], f"asked for by WANDB_MODE={word}"
    for file, rows in _settings(environ):
        if (word := rows.get("mode", "")) in _MODES:
            return _MODES[word], f"asked for by {file}"
    return None, ""


def _settings(environ: Mapping[str, str]) -> Iterator[tuple[pathlib.Path, Mapping[str, str]]]:
    """The library's settings files, the more specific first."""
    config = environ.get("WANDB_CONFIG_DIR")
    for path in (
        pathlib.Path("wandb", "settings"),
        (pathlib.Path(config) if config else _home(environ) / ".config" / "wandb") / "settings",
    ):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
        if parser.has_section("default"):
            yield path, dict(parser.items("default"))


def _netrc_path(environ: Mapping[str, str]) -> pathlib.Path:
    if path := environ.get("NETRC"):
        return pathlib.Path(path).expanduser()
    unix, windows = _home(environ) / ".netrc", _home(environ) / "_netrc"
    return windows if windows.exists() and not unix.exists() else unix


def _home(environ: Mapping[str, str]) -> pathlib.Path:
    return pathlib.Path(environ["HOME"]) if environ.get("HOME") else pathlib.Path("~").expanduser()
