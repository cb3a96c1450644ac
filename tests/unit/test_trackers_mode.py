"""Which W&B mode `--wandb` means, without a question and without the network."""

from __future__ import annotations

import pathlib
import socket

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.trackers import WandbMode, resolve_mode
from orchestrator.trackers.mode import base_host, key_source

KEY = "k" * 40


@pytest.fixture(autouse=True)
def _nobody_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a mode is resolved without the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> dict[str, str]:
    """Environment of a user who never heard of W&B."""
    return {"HOME": str(tmp_path)}


def netrc(home: dict[str, str], host: str, name: str = ".netrc") -> None:
    pathlib.Path(home["HOME"], name).write_text(f"machine {host}\n  login user\n  password {KEY}\n")


def settings(folder: pathlib.Path, **rows: str) -> None:
    folder.mkdir(parents=True)
    (folder / "settings").write_text("[default]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items()))


def test_auto_without_a_key_is_offline(home: dict[str, str]) -> None:
    found = resolve_mode("auto", home)
    assert found.mode is WandbMode.OFFLINE
    assert found.reason == "no key for api.wandb.ai was found (`wandb login` stores one)"


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_auto_with_a_key_in_the_environment_is_online(home: dict[str, str], name: str) -> None:
    found = resolve_mode("auto", {**home, name: KEY})
    assert found.mode is WandbMode.ONLINE
    assert found.reason == f"{name} has a key for api.wandb.ai"


@pytest.mark.parametrize("name", [".netrc", "_netrc", "elsewhere"])
def test_auto_with_a_key_in_netrc_is_online(home: dict[str, str], name: str) -> None:
    netrc(home, "api.wandb.ai", name)
    environ = {**home, "NETRC": str(pathlib.Path(home["HOME"], name))} if name == "elsewhere" else home
    found = resolve_mode("auto", environ)
    assert found.mode is WandbMode.ONLINE
    assert name in found.reason
    assert KEY not in found.reason


@pytest.mark.parametrize(
    ("url", "stored", "mode"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", WandbMode.ONLINE),
        ("http://127.0.0.1:8080", "api.wandb.ai", WandbMode.OFFLINE),
        ("https://api.wandb.ai", "wandb.example.org", WandbMode.OFFLINE),
        ("https://api.forge.coreweave.com", "api.wandb.ai", WandbMode.ONLINE),
        ("https://forge.coreweave.com/api/wandb", "forge.coreweave.com", WandbMode.ONLINE),
        ("https://wandb.example.org/", "wandb.example.org", WandbMode.ONLINE),
    ],
)
def test_a_key_counts_for_its_own_server_only(home: dict[str, str], url: str, stored: str, mode: WandbMode) -> None:
    netrc(home, stored)
    assert resolve_mode("auto", {**home, "WANDB_BASE_URL": url}).mode is mode


@pytest.mark.parametrize(
    ("word", "mode"),
    [("online", WandbMode.ONLINE), ("offline", WandbMode.OFFLINE), ("dryrun", WandbMode.OFFLINE), ("disabled", WandbMode.DISABLED)],
)
def test_the_variable_decides_what_auto_is(home: dict[str, str], word: str, mode: WandbMode) -> None:
    found = resolve_mode("auto", {**home, "WANDB_MODE": word, "WANDB_API_KEY": KEY})
    assert (found.mode, found.reason) == (mode, f"asked for by WANDB_MODE={word}")


def test_the_flag_outranks_the_variable(home: dict[str, str]) -> None:
    environ = {**home, "WANDB_MODE": "online", "WANDB_API_KEY": KEY}
    assert resolve_mode("disabled", environ).mode is WandbMode.DISABLED
    assert resolve_mode("offline", environ).reason == "asked for by --wandb offline"
    assert resolve_mode("online", {**environ, "WANDB_MODE": "offline"}).mode is WandbMode.ONLINE


@pytest.mark.parametrize(("flag", "extra"), [("online", {}), ("auto", {"WANDB_MODE": "online"})])
def test_online_without_a_key_is_offline_and_says_so(home: dict[str, str], flag: str, extra: dict[str, str]) -> None:
    found = resolve_mode(flag, {**home, **extra})
    assert found.mode is WandbMode.OFFLINE
    assert "but no key for api.wandb.ai was found" in found.reason


def test_what_wandb_offline_left_is_respected(home: dict[str, str], tmp_path: pathlib.Path) -> None:
    settings(tmp_path / ".config" / "wandb", mode="offline")
    found = resolve_mode("auto", {**home, "WANDB_API_KEY": KEY})
    assert found.mode is WandbMode.OFFLINE
    assert "settings" in found.reason


def test_settings_files_name_the_server_and_may_hold_the_key(home: dict[str, str], tmp_path: pathlib.Path) -> None:
    settings(tmp_path / "config", base_url="https://wandb.example.org", api_key=KEY)
    settings(tmp_path / "wandb", base_url="http://localhost:9000")  # of the working directory
    environ = {**home, "WANDB_CONFIG_DIR": str(tmp_path / "config")}
    assert base_host(environ) == "localhost:9000"
    assert key_source(environ) == str(tmp_path / "config" / "settings")


@pytest.mark.parametrize("text", ["machine", "machine x password", "\x00\xff"])
def test_a_broken_netrc_or_settings_file_is_no_key(home: dict[str, str], tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / ".netrc").write_text(text, encoding="latin-1")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text(text, encoding="latin-1")
    assert resolve_mode("auto", home).mode is WandbMode.OFFLINE


def test_a_word_that_is_no_mode_is_refused(home: dict[str, str]) -> None:
    with pytest.raises(OrchestratorError, match="--wandb names no mode"):
        resolve_mode("on", home)
    with pytest.raises(OrchestratorError, match="WANDB_MODE names no mode"):
        resolve_mode("auto", {**home, "WANDB_MODE": "sometimes"})
