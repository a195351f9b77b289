"""What runs the CUDA kernels on the CPU, held against what the PTX manual and the CUDA programming guide say."""

import itertools
import math

import pytest
import torch

host = pytest.importorskip(
    "host_execution._cuda_host", reason="needs `make host-kernels`", exc_type=ModuleNotFoundError
)
primitives = host.primitives

LANES = range(32)
THREAD_ORDERS = ("round_robin", "first_ahead", "last_ahead")
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
NAN = float("nan")


def bits_of(numbers):
    """The 16-bit numbers of a tensor as integers without sign."""
    return [bits & 0xFFFF for bits in numbers.contiguous().view(torch.int16).flatten().tolist()]


# Element i of a lane's fragment -> (row, column), by the PTX manual's formulas for mma.m16n8k16:
# groupID = laneid >> 2, threadID_in_group = laneid % 4.


def place_in_a(i, lane):
    row = lane >> 2 if 0 <= i < 2 or 4 <= i < 6 else (lane >> 2) + 8
    return row, lane % 4 * 2 + (i & 1) + (8 if i >= 4 else 0)


def place_in_b(i, lane):
    return lane % 4 * 2 + (i & 1) + (8 if i >= 2 else 0), lane >> 2


def place_in_d(i, lane):
    return (lane >> 2) + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)


def pairs(matrix, place, count):
    """Registers of each lane, of two 16-bit numbers each, the first in the lower half."""
    registers = []
    for lane in LANES:
        halves = bits_of(torch.stack([matrix[place(i, lane)] for i in range(2 * count)]))
        registers.append([low | high << 16 for low, high in zip(halves[::2], halves[1::2], strict=True)])
    return registers


def multiply(operand, a, b, d):
    registers = [[d[place_in_d(i, lane)].item() for i in range(4)] for lane in LANES]
    fragments = pairs(a.to(DTYPES[operand]), place_in_a, 4), pairs(b.to(DTYPES[operand]), place_in_b, 2)
    product = primitives.mma(operand, *fragments, registers)
    result = torch.full((16, 8), NAN)
    for lane, i in itertools.product(LANES, range(4)):
        result[place_in_d(i, lane)] = product[lane][i]
    return result


@pytest.mark.parametrize("operand", DTYPES)
@pytest.mark.parametrize("order", THREAD_ORDERS)
def test_mma(operand, order):
    host.set_schedule(threads=order)
    a, b, d = (torch.randint(-8, 9, size).float() / 4 for size in ((16, 16), (16, 8), (16, 8)))
    torch.testing.assert_close(multiply(operand, a, b, d), d + a @ b, rtol=0, atol=0)


@pytest.mark.parametrize("operand", DTYPES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, NAN, 2.0**-24, 3 * 2.0**-20, 1.9990234375])
def test_mma_reads_every_number(operand, value):
    """Infinities and what is not normal in float16, too."""
    a, b = torch.zeros(16, 16), torch.ones(16, 8)
    a[3, 5] = value
    expected = torch.zeros(16, 8)
    expected[3] = a[3, 5].to(DTYPES[operand]).float()
    torch.testing.assert_close(multiply(operand, a, b, torch.zeros(16, 8)), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("order", THREAD_ORDERS)
def test_ldmatrix(order):
    host.set_schedule(threads=order)
    numbers = list(range(1000, 1000 + 40 * 8))
    starts = [8 * row for row in torch.randperm(40)[:32].tolist()]
    registers = primitives.ldmatrix(numbers, starts)
    for m in range(4):
        matrix = torch.tensor([numbers[start : start + 8] for start in starts[8 * m : 8 * m + 8]])
        expected = [matrix[lane // 4, lane % 4 * 2] | matrix[lane // 4, lane % 4 * 2 + 1] << 16 for lane in LANES]
        assert [lane[m] for lane in registers] == expected


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("argument", [0, 1, 5, 16, 31])
@pytest.mark.parametrize("kind", ["index", "xor", "down"])
@pytest.mark.parametrize("order", THREAD_ORDERS)
def test_shuffle(kind, argument, width, order):
    host.set_schedule(threads=order)
    values = torch.randn(32, dtype=torch.float64).tolist()

    def source(lane):
        """The programming guide: warps of `width` lanes of their own; who names no lane of them keeps its value."""
        first = lane - lane % width
        if kind == "index":
            return first + argument % width
        other = lane ^ argument if kind == "xor" else lane + argument
        return other if other < first + width else lane

    once = [values[source(lane)] for lane in LANES]
    assert primitives.shuffle(kind, values, argument, width) == once
    # Lanes that are ahead must not disturb those that are not.
    assert primitives.shuffle(kind, values, argument, width, times=2) == [once[source(lane)] for lane in LANES]


def edge_cases(dtype):
    """All numbers of the dtype, the middles between neighbours, and what lies just beside these."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    numbers = numbers[numbers.isfinite()].unique()
    middles = (numbers[1:].double() + numbers[:-1].double()).div(2).float()
    beyond = torch.tensor([65519.996, 65520.0, 1e6, 3.4e38, math.inf, 0.0, 1e-30])
    cases = torch.cat([numbers, middles, beyond, -beyond])
    infinity = torch.tensor(math.inf)
    return torch.cat([cases, torch.nextafter(cases, infinity), torch.nextafter(cases, -infinity)])


@pytest.mark.parametrize("name", DTYPES)
def test_rounding(name):
    cases = edge_cases(DTYPES[name])
    rounded = torch.tensor(primitives.round(name, cases.tolist()))
    expected = cases.to(DTYPES[name]).float()
    assert torch.equal(rounded, expected)
    assert torch.equal(rounded.signbit(), expected.signbit())
    assert math.isnan(primitives.round(name, [NAN])[0])


POISON = [0xFF] * 16


@pytest.mark.parametrize("arrival", ["early", "late"])
def test_copies_arrive_in_time(arrival):
    host.set_copies(arrival)
    source = list(range(48))
    first, second = source[16:32], source[32:48]
    before, started, waited_for_first, waited_for_both = primitives.copies(source, 16, True)
    assert before == POISON + POISON
    assert started == (first + second if arrival == "early" else before)
    assert waited_for_first == (started if arrival == "early" else first + POISON)
    assert waited_for_both == first + second


@pytest.mark.parametrize("arrival", ["early", "late"])
def test_copies_that_are_not_valid_bring_zeros_and_read_nothing(arrival):
    host.set_copies(arrival)
    assert primitives.copies([], 1 << 40, False)[-1] == [0] * 32


@pytest.mark.parametrize("order", THREAD_ORDERS)
def test_barriers(order):
    host.set_schedule(threads=order)
    after = [(i + 1) % 96 for i in range(96)]
    assert primitives.neighbours(96, "block") == after
    assert primitives.neighbours(96, "none") != after
    of_warps = primitives.neighbours(96, "warp")
    assert of_warps != after
    assert all(of_warps[i] == after[i] for i in range(96) if i % 32 != 31)


def test_orders_of_threads():
    lower, upper = list(range(32)), list(range(32, 64))
    host.set_schedule(threads="first_ahead")
    # Whoever comes last to a __syncwarp has it happen; all others have yet to go on.
    assert primitives.thread_order(64) == lower + lower + upper + upper
    host.set_schedule(threads="last_ahead")
    assert primitives.thread_order(64) == (lower + lower + upper + upper)[::-1]
    host.set_schedule(threads="round_robin")
    assert primitives.thread_order(64) == [*lower, 31, *upper, 63, *lower[:31], *upper[:31]]


def test_orders_of_blocks():
    ascending = list(range(24))
    assert primitives.block_order([4, 3, 2]) == ascending
    host.set_schedule(blocks="descending")
    assert primitives.block_order([4, 3, 2]) == ascending[::-1]
    host.set_schedule(blocks="shuffled", seed=1)
    shuffled = primitives.block_order([4, 3, 2])
    assert sorted(shuffled) == ascending
    assert shuffled not in (ascending, ascending[::-1])
    assert primitives.block_order([4, 3, 2]) == shuffled
    host.set_schedule(blocks="shuffled", seed=2)
    assert primitives.block_order([4, 3, 2]) != shuffled


THREAD = "kernel misuse, block (1, 0, 0), thread (5, 0, 0): "
MISUSES = {
    "throw": THREAD + "thrown",
    "trap": THREAD + "__trap",
    "return before a meeting": THREAD + "the thread returned while others of its warp wait for it in __syncwarp",
    "return after others": "kernel misuse, block (0, 0, 0), thread (15, 0, 0): __syncwarp: other threads of the warp"
    " have returned from the kernel",
    "different instructions": THREAD + "__shfl_sync: other threads of the warp are in __syncwarp",
    "barrier against meeting": "kernel misuse, block (1, 0, 0), thread (15, 3, 0): threads wait in __syncwarp for"
    " others of their warp, which wait in __syncthreads",
    "part of a warp": THREAD + "__syncwarp: the mask names lanes 0xffff, where kernels of this project name all 32",
    "part of a shuffle": THREAD
    + "__shfl_down_sync: the mask names lanes 0xfffffffe, where kernels of this project name all 32",
    "row past the end": THREAD + "ldmatrix: the row is 592 bytes into the shared memory, of which there are 512",
    "unaligned row": THREAD + "ldmatrix: the row is not aligned to 16 bytes",
    "unaligned source": THREAD + "cp.async: the source is not aligned to 16 bytes",
    "unaligned target": THREAD + "cp.async: the target is not aligned to 16 bytes",
    "target past the end": THREAD + "cp.async: the target is 512 bytes into the shared memory, of which there are 512",
    "copy without wait": THREAD + "cp.async: the thread returned without waiting for 1 of its copies",
    "copy without commit": THREAD + "cp.async: the thread returned without waiting for 1 of its copies",
    "overlap without wait": "kernel misuse, block (0, 0, 0): no thread called wait_for_previous_kernel,"
    " though the launch overlaps the one before",
    "grid of none": "kernel misuse: a grid of blocks has from (1, 1, 1) to (2147483647, 65535, 65535) of them, not"
    " (1, 0, 1)",
    "half a warp": "kernel misuse: a block has whole warps of 32 threads, at most 1024 threads and 64 of them in z, not"
    " (48, 1, 1)",
    "too much shared memory": "kernel misuse needs 166913 bytes of shared memory in a block, and device 0 has 166912",
}


@pytest.mark.parametrize("what", MISUSES)
def test_misuse_is_an_error_and_nothing_breaks(what):
    with pytest.raises(RuntimeError) as error:
        primitives.misuse(what)
    assert str(error.value) == MISUSES[what]
    primitives.misuse("nothing")
    assert primitives.neighbours(64, "block")[:2] == [1, 2]


@pytest.mark.parametrize("order", THREAD_ORDERS)
def test_a_barrier_does_not_wait_for_threads_that_returned(order):
    host.set_schedule(threads=order)
    primitives.misuse("return before a barrier of others, which is allowed")


def test_limits():
    host.set_limits(shared_bytes=511)
    with pytest.raises(RuntimeError, match=r"needs 512 bytes of shared memory in a block, and device 0 has 511$"):
        primitives.misuse("nothing")


def test_launches_are_listed():
    primitives.neighbours(96, "block")
    primitives.block_order([4, 3, 2])
    assert host.launches() == [
        ("neighbours", (1, 1, 1), (96, 1, 1), 96 * 4),
        ("block_order", (4, 3, 2), (32, 1, 1), 0),
    ]
    host.clear_launches()
    assert host.launches() == []


def test_controls_refuse_other_names():
    with pytest.raises(ValueError, match=r"^threads is one of 'first_ahead', .*, not 'warp'$"):
        host.set_schedule(threads="warp")
    with pytest.raises(ValueError, match=r"^arrival is one of 'early', 'late', not 'never'$"):
        host.set_copies("never")
