"""What git does not keep of a revision's results, the pictures and run files, from DVC's cache or remote."""

import configparser
from collections.abc import Mapping
from pathlib import Path

from scm.pipeline import dvc_command
from scm.results.fingerprint import LockedStage

KEPT_BY_GIT = "results/metrics/"


def missing_outputs(
    root: Path, folder: Path, stages: Mapping[str, LockedStage], models: list[str]
) -> tuple[list[str], str]:
    """Brings the outputs of the evaluations of these models into a folder with the dvc.yaml and dvc.lock of a revision.

    Args:
        root: the project's folder; if it is `folder`, nothing is brought.
        stages: of the dvc.lock.

    Returns:
        paths that neither the cache nor the remote has, and the remedy.
    """
    outs = [out["path"] for model in models for out in stages.get(f"evaluate@{model}", {}).get("outs", ())]
    absent = [path for path in outs if not path.startswith(KEPT_BY_GIT) and not (folder / path).exists()]
    if folder == root:
        return absent, "`dvc checkout` or `dvc pull` brings them"
    source = dvc_command.remote(root)
    place = "there is no DVC remote" if source is None else f"the remote {source.name} lacks them"
    remedy = f"{place}; the machine that has them gives them by `dvc push`"
    if not absent:
        return [], remedy
    _connect(root, folder, source)
    return dvc_command.bring(folder, absent, source), remedy


def _connect(root: Path, folder: Path, source: dvc_command.Remote | None) -> None:
    """Makes the folder a DVC project of its own, with the cache and the remote of the project."""
    (folder / ".dvc").mkdir()
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    values = {
        "core": {"no_scm": "true", "site_cache_dir": str(folder / ".dvc/site")},
        "cache": {"dir": dvc_command.dvc(root, "cache", "dir").stdout.strip()},
    }
    # A relative address would lead elsewhere from here.
    values |= {} if source is None else {f"'remote \"{source.name}\"'": {"url": source.address}}
    for section, entries in values.items():
        if not config.has_section(section):
            config.add_section(section)
        for key, value in entries.items():
            config.set(section, key, value)
    with (folder / ".dvc/config").open("w", encoding="utf-8") as file:
        config.write(file)
