"""The command line of `mortalgpu`: its sub-commands and their flags. Knows what may be said, not what is done about it."""

import argparse

from mortalgpu import release


def parser() -> argparse.ArgumentParser:
    """Return the parser. A wrong word ends the program with exit code 2, as argparse has it."""
    top = argparse.ArgumentParser(
        prog="mortalgpu",
        description="Shares the GPUs of this node between containers, and holds each to the memory it was granted.",
    )
    top.add_argument("--version", action="version", version=f"mortalgpu {release.text()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the daemon")
    _add_configuration(run)
    _add_places(run)
    discover = commands.add_parser("discover", help="print the devices and how they would be shared, without kubelet")
    _add_configuration(discover)
    discover.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
    check = commands.add_parser("check-config", help="check a configuration file and say what is wrong with it")
    check.add_argument("file", help="the file, or a chart's values file")
    check.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as in log.verbose=true")
    token = commands.add_parser("token", help="mint a token for the device API, with this node's key")
    _add_configuration(token)
    token.add_argument("--state-dir", metavar="DIR", help="where the daemon keeps its small files (stateDir)")
    token.add_argument("--level", required=True, help="l0 (sees the node) or l1 (one container)")
    token.add_argument("--meta-device", action="append", default=[], metavar="ID", help="l1: an id that its container holds")
    token.add_argument("--email", default="", help="whom the token is for")
    token.add_argument("--lifetime", type=float, default=None, metavar="SECONDS", help="how long it is good; none: for ever")
    demo = commands.add_parser("demo", help="show a simulated node at work, without any GPU or kubelet")
    demo.add_argument(
        "--for", dest="seconds", type=_seconds, default=None, metavar="SECONDS", help="end by itself after so long"
    )
    demo.add_argument("--plain", action="store_true", help="plain lines even on a terminal")
    return top


def _add_configuration(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", default="", metavar="FILE", help="configuration, or a chart's values file; none: defaults")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as in log.verbose=true"
    )
    command.add_argument("--driver-library", metavar="FILE", help="where libnvidia-ml.so.1 is (driver.library)")


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("--kubelet-dir", metavar="DIR", help="kubelet's device-plugin directory (kubelet.devicePluginDir)")
    command.add_argument("--pod-resources", metavar="SOCKET", help="kubelet's socket (kubelet.podResourcesSocket)")
    command.add_argument("--state-dir", metavar="DIR", help="where the daemon keeps its small files (stateDir)")
    command.add_argument("--node-name", metavar="NAME", help="this node's name in the cluster (nodeName)")
    command.add_argument("--verbose", action="store_true", help="log at DEBUG level (log.verbose)")
    command.add_argument("--log-text", action="store_true", help="log for people instead of JSON lines (log.json off)")


def overrides(arguments: argparse.Namespace) -> list[str]:
    """Return what the flags say as `key.path=value` texts, those of --set first: a flag with a name of its own wins."""
    said = vars(arguments)
    texts = list(said.get("set") or [])
    keys = {
        "driver_library": "driver.library",
        "kubelet_dir": "kubelet.devicePluginDir",
        "pod_resources": "kubelet.podResourcesSocket",
        "state_dir": "stateDir",
        "node_name": "nodeName",
    }
    texts += [f"{key}={said[name]}" for name, key in keys.items() if said.get(name) is not None]
    texts += ["log.verbose=true"] if said.get("verbose") else []
    texts += ["log.json=false"] if said.get("log_text") else []
    return texts


def _seconds(text: str) -> float:
    seconds = float(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a time above zero")
    return seconds
