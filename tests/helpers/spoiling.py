"""Damage to files, drawn by chance."""

import random


def spoil(content: bytes, chance: random.Random) -> bytes:
    """A bit, a byte or a stretch is another, or it is shorter or longer, somewhere."""
    at, spoilt = chance.randrange(len(content)), bytearray(content)
    match chance.randrange(6):
        case 0 | 1:
            spoilt[at] ^= 1 << chance.randrange(8)
        case 2:
            spoilt[at] = chance.randrange(256)
        case 3:
            end = min(len(content), at + chance.choice([2, 8, 100]))
            spoilt[at:end] = chance.randbytes(end - at)
        case 4:
            del spoilt[at : at + chance.choice([1, 8, len(content)])]
        case _:
            spoilt[at:at] = chance.choice([b"0", b" ", bytes(8), b"9" * 20])
    return bytes(spoilt)
