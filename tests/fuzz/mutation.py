"""Makes new inputs out of known ones, the same ones from the same seed: damage, repetition, splicing, numbers too large."""

import random
import re
from collections.abc import Iterator, Sequence

from tests.fuzz.target import LONGEST_INPUT

_ODD_BYTES = b"\x00\x01\x07\x0a\x0d\x1b\x20\x22\x25\x27\x2c\x2d\x2f\x3a\x5b\x5c\x5d\x7b\x7d\x7f\x80\x9b\xc0\xed\xfe\xff"
_ODD_NUMBERS = (
    *(b"0", b"-1", b"00", b"1e999", b"NaN", b"0x" + b"f" * 40, b"127", b"128", b"255", b"65536", b"4294967296"),
    *(b"2147483648", b"9223372036854775808", b"18446744073709551615", b"9" * 30, b"9" * 400, "٣".encode(), "²".encode()),
)
_NUMBER = re.compile(rb"[0-9]+")
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/: "
_BRACKETS = (b"[", b"{", b"(", b'{"a":', b"- ", b"[[", b"\x0a\x02")


def inputs(seeds: Sequence[bytes], words: Sequence[bytes], count: int, seed: str) -> Iterator[bytes]:
    """Yield `count` inputs made from the seeds; what was made is built upon now and then."""
    chance = random.Random(seed)
    pool = list(seeds) or [b""]
    for _ in range(count):
        data = chance.choice(pool)
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            data = mutated(data, pool, words, chance)[:LONGEST_INPUT]
        if chance.random() < 0.05 and len(pool) < 400:
            pool.append(data)
        yield data


def mutated(data: bytes, pool: Sequence[bytes], words: Sequence[bytes], chance: random.Random) -> bytes:
    """Change one thing."""
    spoilt = bytearray(data)
    place = chance.randrange(len(spoilt) + 1)
    end = min(len(spoilt), place + 2 ** chance.randrange(10))
    match chance.randrange(16):
        case 0 if place < len(spoilt):
            spoilt[place] ^= 1 << chance.randrange(8)
        case 1 if place < len(spoilt):
            spoilt[place] = chance.choice(_ODD_BYTES)
        case 2:
            del spoilt[place:end]
        case 3:
            del spoilt[place:]
        case 4:
            spoilt[place:place] = chance.randbytes(chance.randrange(1, 9))
        case 5:
            spoilt[place:place] = bytes([chance.choice(_ODD_BYTES)]) * chance.randrange(1, 9)
        case 6:
            spoilt[end:end] = spoilt[place:end] * chance.choice((1, 1, 2, 10))
        case 7:
            other = chance.choice(pool)
            spoilt[place:end] = other[chance.randrange(len(other) + 1) :]
        case 8:
            spoilt[place:place] = chance.choice(_BRACKETS) * chance.choice((1, 2, 50, 2000))
        case 9 if found := list(_NUMBER.finditer(spoilt)):
            number = chance.choice(found)
            spoilt[number.start() : number.end()] = chance.choice(_ODD_NUMBERS)
        case 10 if words:
            spoilt[place:place] = chance.choice(words)
        case 11 | 12 if place < len(spoilt):
            # As long as before, for what tells its length somewhere else.
            spoilt[place:end] = bytes(chance.choices(_LETTERS, k=end - place))
        case 13 if place < len(spoilt):
            spoilt[place] = (spoilt[place] + chance.choice((-1, 1))) % 256
        case 14 if words and place < len(spoilt):
            word = chance.choice(words)[: len(spoilt) - place]
            spoilt[place : place + len(word)] = word
        case _ if words:
            spoilt[place:end] = chance.choice(words)
        case _:
            spoilt[place:end] = chance.randbytes(end - place)
    return bytes(spoilt)
