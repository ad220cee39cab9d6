"""Completion scripts for shells. They are static: completing asks no daemon."""

from mortalgpu.mgctl.arguments import COMMANDS, OUTPUTS, SHELLS, SWITCHES, VALUES

_BASH = """\
_mgctl() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="" i
    case "$before" in
        -o|--output) COMPREPLY=($(compgen -W "@OUTPUTS@" -- "$word")); return ;;
        --ca-file) COMPREPLY=($(compgen -f -- "$word")); return ;;
        -s|--addr|-t|--token|-n|--count|--pod) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${COMP_WORDS[i]}" in
            -o|--output|--ca-file|-s|--addr|-t|--token|-n|--count|--pod) ((i++)) ;;
            -*) ;;
            *) command="${COMP_WORDS[i]}"; break ;;
        esac
    done
    case "$word" in
        -*) COMPREPLY=($(compgen -W "@FLAGS@" -- "$word")); return ;;
    esac
    case "$command" in
        "") COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word")) ;;
        get) COMPREPLY=($(compgen -W "processes devices" -- "$word")) ;;
        help) COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word")) ;;
        completion) COMPREPLY=($(compgen -W "@SHELLS@" -- "$word")) ;;
    esac
}
complete -F _mgctl mgctl
"""

_ZSH = """\
#compdef mgctl
_mgctl() {
    _arguments \\
        '(-s --addr)'{-s,--addr}'[the address of the daemon]:address:' \\
        '(-t --token)'{-t,--token}'[a token, or @file]:token:' \\
        '(-o --output)'{-o,--output}'[format]:format:(@OUTPUTS@)' \\
        '--ca-file[authority to trust]:file:_files' \\
        '--pod[the own pod]:name:' \\
        '--pretty[for people]' \\
        '(-w --watch)'{-w,--watch}'[show each change]' \\
        '(-n --count)'{-n,--count}'[end after so many views]:number:' \\
        '(-h --help)'{-h,--help}'[help]' \\
        '--version[version]' \\
        '1:command:(@COMMANDS@)' \\
        '*::word:_mgctl_word'
}
_mgctl_word() {
    case "$words[1]" in
        get) compadd processes devices ;;
        help) compadd @COMMANDS@ ;;
        completion) compadd @SHELLS@ ;;
    esac
}
compdef _mgctl mgctl
"""


def script(shell: str) -> str:
    """Return the script for `bash` or `zsh`, to be sourced."""
    flags = " ".join([*VALUES, *SWITCHES])
    text = {"bash": _BASH, "zsh": _ZSH}[shell]
    fillings = {"COMMANDS": " ".join(COMMANDS), "OUTPUTS": " ".join(OUTPUTS), "SHELLS": " ".join(SHELLS), "FLAGS": flags}
    for name, filling in fillings.items():
        text = text.replace(f"@{name}@", filling)
    return text
