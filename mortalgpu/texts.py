"""Somebody else's text, made fit for a line of ours: in a message, a log, a table. Pure; imports nothing."""


def one_line(text: str, longest: int) -> str:
    """Return a text on one printable line of at most `longest` characters, with an ellipsis where it was cut.

    Whatever separates words is a blank; what else cannot be printed, or turns the direction of text, is a question mark.
    """
    short = text[: longest + 1]
    if not short.isprintable():
        short = "".join(" " if sign.isspace() else sign if sign.isprintable() else "?" for sign in short)
    return short if len(short) <= longest else short[: longest - 1] + "…"
