"""mgctl's help texts."""

_OVERVIEW = """\
mgctl shows who uses which GPU of this node, how much of it is theirs, and why a process was killed.

Usage: mgctl COMMAND [flags]

Commands:
  get processes   GPU processes and containers (short: p); --watch keeps looking
  get devices     devices, their shares and health (short: d)
  top             a live view; q ends it
  kill PID        end a GPU process of yours, by its number on the host
  ping            ask whether the daemon answers
  version         tell the version of mgctl
  completion      print a completion script, for bash or zsh

Flags:
  -s, --addr ADDRESS     the daemon's address: host:port or unix:///path (MG_CTL_ADDR)
  -t, --token TOKEN      a token, or @FILE that holds one (MG_CTL_TOKEN); words of a command are seen by others, so
                         prefer the variable or a file
      --ca-file FILE     talk TLS to host:port, trusting the authority in FILE (MG_CTL_CA_FILE)
      --pod NAME         the own pod, NAME or NAMESPACE/NAME: only for a token that all pods share (MG_CTL_POD)
  -o, --output FORMAT    table, json or yaml (MG_CTL_OUTPUT)
      --pretty           indented JSON; ruled tables
  -w, --watch            with get processes: show each change
  -n, --count N          with --watch and top: end after N views
  -h, --help             this text

In a container that was given shares no flag is needed, and it sees its own pod only.
Exit codes: 0 done, 1 refused or failed, 2 wrong words, 69 the daemon is not reachable."""

_TOPICS = {
    "get": """\
mgctl get processes|p [--watch] [--output table|json|yaml] [--pretty]
mgctl get devices|d [--output table|json|yaml] [--pretty]

GPU is per cent of the share; MEMORY is what the process uses / what the container's shares are worth / its limit, in MiB.
PID is the number on the host, and in brackets the one inside the container.
Green: within the request. Yellow: above the request. Red: above the limit; a process will be killed.""",
    "top": """\
mgctl top [--count N]

A live view of devices and containers with their memory, a sparkline of the last minute, and recent kills. q ends it.
Without a terminal it prints plain text, a block for each view.""",
    "kill": """\
mgctl kill PID...

Ends GPU processes at once (SIGKILL). PID is the number on the host: the first one in the PID column of get processes.
From a container only its own processes can be ended.""",
    "ping": "mgctl ping\n\nAsks whether the daemon answers; needs no token.",
    "version": "mgctl version\n\nTells the version of mgctl, without asking the daemon.",
    "completion": """\
mgctl completion bash|zsh

Prints a completion script. bash: `source <(mgctl completion bash)`. zsh: `source <(mgctl completion zsh)`.""",
    "help": "mgctl help [COMMAND]",
}


def text(topic: str) -> str:
    """Return the help for a command, or the overview."""
    return _TOPICS.get(topic, _OVERVIEW)
