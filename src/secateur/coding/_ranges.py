"""A binary range coder in whole numbers: native/coding/range_coder.h, byte for byte, where that is not built."""

from __future__ import annotations

__all__ = ["RangeDecoder", "RangeEncoder"]

_BITS = 16  # of a probability
_SHORTEST = 1 << 32
_FULL = (1 << 64) - 1


class RangeEncoder:
    """Write bits, each with the probability of a one in 65,536ths, 1 to 65,535."""

    def __init__(self) -> None:
        self._low, self._range, self._out = 0, _FULL, bytearray()

    def write(self, bit: int, probability: int) -> None:
        """Narrow the interval to the bit's part of it; the ones lie below."""
        bound = (self._range >> _BITS) * probability
        if bit:
            self._range = bound
        else:
            self._low += bound
            if self._low > _FULL:
                self._low &= _FULL
                self._carry()
            self._range -= bound
        while self._range < _SHORTEST:
            self._out += (self._low >> 32).to_bytes(4, "big")
            self._low = (self._low << 32) & _FULL
            self._range <<= 32

    def finish(self) -> bytes:
        """Return the fewest bytes that, followed by zeros, are a number of the interval."""
        value = count = 0
        for count in range(9):
            rest = (1 << (64 - 8 * count)) - 1
            value = (self._low + rest) & ~rest
            if value - self._low < self._range:
                break
        if value > _FULL:
            self._carry()
        self._out += (value & _FULL).to_bytes(8, "big")[:count]
        return bytes(self._out.rstrip(b"\0"))

    def _carry(self) -> None:
        for index in reversed(range(len(self._out))):
            self._out[index] = (self._out[index] + 1) & 255
            if self._out[index]:
                return


class RangeDecoder:
    """Read what the encoder wrote; behind its end there are zeros. Any bytes give some bits."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at, self._range = content, 8, _FULL
        self._code = int.from_bytes(content[:8].ljust(8, b"\0"), "big")

    def read(self, probability: int) -> int:
        """Return the next bit."""
        bound = (self._range >> _BITS) * probability
        bit = self._code < bound
        if bit:
            self._range = bound
        else:
            self._code -= bound
            self._range -= bound
        while self._range < _SHORTEST:
            word = self._content[self._at : self._at + 4].ljust(4, b"\0")
            self._code = (self._code << 32 | int.from_bytes(word, "big")) & _FULL
            self._at += 4
            self._range <<= 32
        return bit

    @property
    def done(self) -> bool:
        """Whether all bytes were needed."""
        return self._at >= len(self._content)
