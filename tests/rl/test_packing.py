import numpy as np
import pytest

from lightning_cispo.rl.packing import pack
from tests.rl.builders import samples


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [10, 40, 10_000])
def test_every_sequence_once_no_padding_equal_counts(ranks, max_tokens):
    given = samples([3, 9, 25, 4, 4, 17, 8, 30])
    packed = pack(given, ranks, max_tokens)
    assert len(packed) == ranks and len({len(batches) for batches in packed}) == 1
    seen = []
    for batch in (batch for batches in packed for batch in batches):
        assert len(batch.tokens_T) == batch.cu_seqlens[-1]
        assert len(batch.samples) == 1 or len(batch.tokens_T) <= max_tokens or not batch.samples
        for index, start, end in zip(batch.samples, batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=False):
            assert np.array_equal(batch.tokens_T[start:end], given[index].tokens_T)
            np.testing.assert_allclose(
                batch.scales_T[start:end], given[index].loss_mask_T * given[index].scale, rtol=1e-6
            )
            assert set(batch.advantages_T[start:end]) == {np.float32(given[index].advantage)}
            seen.append(index)
    assert sorted(seen) == list(range(len(given)))


def test_a_rank_without_a_sequence_gets_an_uncounted_token():
    packed = pack(samples([5]), ranks=2, max_tokens=100)
    (empty,) = packed[1]
    assert empty.samples == [] and len(empty.tokens_T) == 1 and not empty.scales_T.any()
