"""``+experiments/<question>=run`` finds ``experiments/<question>/run.yaml`` beside the package ``hydra_plugins``.

The repository root cannot simply be a search path of Hydra: ``--help`` lists the groups of a search path, and would walk through
every run, every environment and every data folder below it. So a source of its own shows ``experiments`` and nothing else; it
derives from Hydra's for files, which no public module has, though plugins for sources are a public interface.
"""

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin

GROUP = "experiments"


class ExperimentSource(FileConfigSource):
    """Config files below ``<root>/experiments``, named as seen from the root; ``experiments://<root>``."""

    @staticmethod
    def scheme() -> str:
        return GROUP

    def is_group(self, config_path: str) -> bool:
        return self._shown(config_path) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return self._shown(config_path) and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter == ObjectType.CONFIG else [GROUP]
        if not self.is_group(config_path):
            return []
        if config_path == GROUP:
            return super().list(config_path, results_filter)
        # An experiment's own parts and reports are nobody's to choose, and --help, which takes milliseconds a group, would walk
        # through them.
        return [] if results_filter == ObjectType.GROUP else super().list(config_path, ObjectType.CONFIG)

    @staticmethod
    def _shown(config_path: str) -> bool:
        return config_path.split("/")[0] in ("", GROUP)


class ExperimentSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        root = Path(__file__).absolute().parents[2]
        if (root / GROUP).is_dir():
            search_path.append(provider="calf_grid", path=f"{GROUP}://{root}")
