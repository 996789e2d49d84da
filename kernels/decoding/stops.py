"""Stop strings: an automaton over bytes takes the bytes of every token, wherever the strings begin and end in them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_cispo.kernels.decoding.columns import Columns

STOPPED = 2  # the code of a row that a stop id or a stop string ends


@dataclass(frozen=True)
class Matcher:
    """What tokens are spelled of, and where each byte leads to.

    bytes_N: uint8, all tokens' bytes in a row; starts_V: int32 [vocabulary + 1], where each token's begin.
    next_SB: int32 [states, 256]. An entry below 0 completes a stop string and leads to the state ~entry. Many automata
        may share the table; state 0 is that of rows without stop strings and leads to itself.
    """

    bytes_N: Tensor
    starts_V: Tensor
    next_SB: Tensor


def match_stops(matcher: Matcher, code_B: Tensor, table_CS: Tensor, columns: Columns, first_slot: int) -> None:
    """Let the tokens of consecutive slots, written down already, take their automata on, and end rows.

    Args:
        code_B: int64, `record_triton`'s; becomes 2 where a stop string is complete, unless it is 1 or the token is one
            of the first `min_tokens`.
        table_CS: int64; stop_state is written, token, count and min_tokens are read.
    """
    if code_B.is_cuda:
        from lightning_cispo.kernels.decoding.stops_triton import match_triton

        match_triton(matcher, code_B, table_CS, columns, first_slot)
    else:
        _match_on_host(matcher, code_B, table_CS, columns, first_slot)


def _match_on_host(matcher: Matcher, code_B: Tensor, table_CS: Tensor, columns: Columns, first_slot: int) -> None:
    table, next_SB = table_CS.numpy(), matcher.next_SB.numpy()
    starts, spelled, codes = matcher.starts_V.numpy(), matcher.bytes_N.numpy(), code_B.numpy()
    for index in range(len(code_B)):
        row = table[:, first_slot + index]
        state, hit, token = row[columns.stop_state], False, row[columns.token]
        if not state:
            continue
        for byte in spelled[starts[token] : starts[token + 1]]:
            entry = next_SB[state, byte]
            hit |= bool(entry < 0)
            state = ~entry if entry < 0 else entry
        row[columns.stop_state] = state
        if hit and row[columns.count] > row[columns.min_tokens] and codes[index] != 1:
            codes[index] = STOPPED
