"""Reads the configuration: a YAML file, then the environment, then flags; later ones override.

Rules:
1. The file holds the tree of `config`, or is a chart's values file whose `config:` key holds it.
2. `MORTALGPU_<KEY_PATH>` overrides a key: the path's words in upper case, with or without underscores between words
   (`deviceManager.deviceCacheTTL` is MORTALGPU_DEVICE_MANAGER_DEVICE_CACHE_TTL). Variables that name no key are left alone,
   since Kubernetes itself sets MORTALGPU_SERVICE_HOST and the like for a Service called mortalgpu.
3. `--set key.path=value` overrides both; a path that names no key is an error.
4. Every error is a ConfigError that names the key, and never shows the value of a secret.
"""

from collections.abc import Mapping, Sequence

import msgspec

from mortalgpu.config import Config, check
from mortalgpu.configfile.document import CHART_KEYS, Tree, read
from mortalgpu.configfile.explain import explained
from mortalgpu.configfile.override import apply_flag, apply_variable

__all__ = ["CHART_KEYS", "Tree", "convert", "load"]


def load(path: str, environ: Mapping[str, str], overrides: Sequence[str] = ()) -> Config:
    """Read, override, convert and check the configuration at `path`; an empty path means all defaults.

    `overrides` are `key.path=value` texts from flags. Reads one file; blocks. Raises ConfigError.
    """
    tree = read(path) if path else {}
    for name, value in sorted(environ.items()):
        apply_variable(tree, name, value)
    for override in overrides:
        apply_flag(tree, override)
    config = convert(tree)
    check(config)
    return config


def convert(tree: Tree) -> Config:
    """Turn a plain tree into a Config. Raises ConfigError naming the first wrong key and its value."""
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise explained(str(error), tree) from None
