"""The matrix product of sm_90a, run on the CPU: the operand in shared memory, its order, and the convolution by it."""

import itertools

import pytest
import torch
from test_conv_gemm import FACTORS, FEW, channels_last, check, run
from test_host_execution import DTYPES, THREAD_ORDERS, bits_of

from support.cases import Case

host = pytest.importorskip(
    "host_execution._cuda_host", reason="needs `make host-kernels`", exc_type=ModuleNotFoundError
)
primitives = host.primitives

K, THREADS = 16, 128
COLUMNS = (64, 128)
ATOM = 512  # numbers: eight rows of 128 bytes


def encode(address, stride):
    """The 64 bits of a descriptor with the swizzle of 128 bytes, by the manual's table of its fields."""
    fields = {0: address // 16, 32: stride // 16, 62: 1}
    return sum(value << bit for bit, value in fields.items())


def laid_out(b, first, along_rows, count):
    """`count` numbers with b [K, columns] in it: atoms of 8 rows and 64 columns, whose row r has its eighth c at c ^ r.

    The atoms stand at first + i * along_rows, for rows 8 i. A row is an n; b starts at column first % 64.
    """
    memory = torch.full((count,), float("nan"), dtype=b.dtype)
    start = first % 64
    for (row, column), value in zip(itertools.product(*map(range, b.T.shape)), b.T.flatten(), strict=True):
        column += start
        atom = first - start + row // 8 * along_rows
        eighth = (column % 64 // 8) ^ (row % 8)
        memory[atom + row % 8 * 64 + eighth * 8 + column % 8] = value
    return memory


def place_in_a(i, thread):
    """Element i of a thread's fragment -> (row, column), by the manual's formulas for wgmma.m64nNk16."""
    warp, lane = thread // 32, thread % 32
    return 16 * warp + (lane >> 2) + (8 if i // 2 % 2 else 0), lane % 4 * 2 + (i & 1) + (8 if i >= 4 else 0)


def place_in_d(i, thread):
    warp, lane = thread // 32, thread % 32
    return 16 * warp + (lane >> 2) + (8 if i // 2 % 2 else 0), i // 4 * 8 + lane % 4 * 2 + (i & 1)


# (first, along_rows) in numbers: one atom after the other, from inside a row, with gaps.
LAYOUTS = [(0, ATOM), (16, ATOM), (2 * ATOM + 48, 2 * ATOM)]


@pytest.mark.parametrize("arrival", ["early", "late"])
@pytest.mark.parametrize("operand", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize(("first", "along_rows"), LAYOUTS)
def test_product(first, along_rows, columns, operand, arrival):
    host.set_copies(arrival)
    a, b = ((torch.randint(-8, 9, size) / 4).to(DTYPES[operand]) for size in ((64, K), (K, columns)))
    memory = laid_out(b, first, along_rows, 40 * ATOM)
    halves = [bits_of(torch.stack([a[place_in_a(i, thread)] for i in range(8)])) for thread in range(THREADS)]
    registers = [[low | high << 16 for low, high in zip(h[::2], h[1::2], strict=True)] for h in halves]
    descriptor = encode(2 * first, 2 * along_rows)
    sums = primitives.wgmma(operand, columns, bits_of(memory), descriptor, registers)
    result = torch.full((64, columns), float("nan"))
    for thread, i in itertools.product(range(THREADS), range(columns // 2)):
        result[place_in_d(i, thread)] = sums[thread][i]
    torch.testing.assert_close(result, 2 * (a.float() @ b.float()), rtol=0, atol=0)


NOT_PUBLISHED = r"reads \d+ bytes into the shared memory, where a cp\.async went without a fence\.proxy\.async after"
MISTAKES = {
    "operand without wait for its copy": NOT_PUBLISHED,
    "operand without fence": NOT_PUBLISHED,
    "operand overwritten": NOT_PUBLISHED,
    "operand past the end": "reads 32768 bytes into the shared memory, of which there are 32768",
    "no swizzle": "swizzle 0 with base offset 0, where only 1 with 0 is known here",
    "registers without fence": "no wgmma.fence since registers were written",
    "registers written after the fence": "no wgmma.fence since registers were written",
    "register of a": "a register of an operand was written before the product was waited for",
    "register of d": "a register of the sums was written before the product was waited for",
    "different operands": "the four warps of a group start different products",
    "a warp less": "a warp of a group started 0 products, another 1",
    "no wait": "the thread returned without waiting for 1 of its products",
}


@pytest.mark.parametrize("order", THREAD_ORDERS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, order):
    host.set_schedule(threads=order)
    with pytest.raises(RuntimeError, match=f"wgmma: {MISTAKES[mistake]}"):
        primitives.wgmma_misuse(mistake)


def test_no_mistake():
    primitives.wgmma_misuse("")


# The convolution. Tiles have 128 pixels and 64, 128 or 256 filters, a step along K has 64 channels.
WIDE = channels_last(Case("wide", (2, 72, 9, 8), 208, padding=(1, 1)))
WIDE_INPUT = channels_last(Case("wide_input", (2, 208, 9, 8), 72, (3, 2), (2, 1), (1, 0), (1, 2)))
NARROW = channels_last(Case("narrow", (2, 136, 8, 8), 56, padding=(1, 1)))
FULL = channels_last(Case("full", (2, 64, 8, 8), 136, (2, 3), padding=(1, 1)))
GROUPS = channels_last(Case("groups", (1, 144, 11, 10), 160, (2, 3), padding=(1, 1), groups=2))
STRIDE = channels_last(Case("stride", (2, 136, 15, 17), 128, stride=(2, 2), padding=(1, 1)))
MANY_SAMPLES = channels_last(Case("many_samples", (63, 128, 1, 2), 120, (1, 1)))
DEEP = channels_last(Case("deep", (1, 1000, 11, 11), 128, (1, 1)))
SHAPES = (WIDE, WIDE_INPUT, NARROW, FULL, GROUPS, STRIDE, MANY_SAMPLES)

# More than any other tile takes here.
WGMMA_BYTES = 80 << 10


def use_hopper(multiprocessors=FEW):
    host.set_limits(multiprocessors, 227 << 10, capability=90)


def tiles():
    """The grids of the products since the last call, None for those of other tiles."""
    launched = [(grid, size) for kernel, grid, _, size in host.launches() if kernel == "conv_gemm"]
    host.clear_launches()
    return [grid if size > WGMMA_BYTES else None for grid, size in launched]


@pytest.mark.parametrize(
    ("case", "factors"), [(WIDE, factors) for factors in FACTORS] + [(case, "all") for case in SHAPES[1:]], ids=str
)
def test_convolution(case, factors, half):
    use_hopper()
    case = case.but(**FACTORS[factors])
    check(case, run(case, half))


# What test_convolution is about.
@pytest.mark.parametrize(
    ("case", "grid"),
    [
        (WIDE, (2, 1, 1)),
        (WIDE_INPUT, None),
        (NARROW, (1, 1, 1)),
        (FULL, (2, 1, 1)),
        (GROUPS, (1, 2, 1)),
        (STRIDE, (2, 1, 1)),
        (MANY_SAMPLES, (1, 1, 1)),
    ],
    ids=lambda value: str(value) if isinstance(value, Case) else "",
)
def test_tiles(case, grid):
    use_hopper()
    run(case, torch.float16)
    assert tiles() == [grid]


def test_other_gpus_have_other_tiles():
    for capability in (80, 89, 100, 120):
        host.set_limits(FEW, 227 << 10, capability)
        run(WIDE, torch.float16)
        assert tiles() == [None]


def test_k_in_parts():
    use_hopper(multiprocessors=4)
    case = DEEP.but(**FACTORS["channel"])
    check(case, run(case, torch.float16))
    assert tiles() == [(1, 1, 4)]


@pytest.mark.parametrize("arrival", ["early", "late"])
@pytest.mark.parametrize("order", THREAD_ORDERS)
def test_any_order(order, arrival):
    use_hopper()
    result = run(STRIDE, torch.float16)
    host.set_schedule("shuffled", order, seed=3)
    host.set_copies(arrival)
    assert torch.equal(result, run(STRIDE, torch.float16))
