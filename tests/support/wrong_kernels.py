"""pytest -p support.wrong_kernels: the last number of each output of Triton's form P and of the CUDA kernels is off.

For test_stand_in.py: tests that pass even so would find nothing on a card.
"""

from host_execution import cuda_host


def pytest_collection_finish():
    from kerneldna_ops.triton_kernels import conv_forward  # how its kernels are defined is decided by then

    right, right_on_the_host = conv_forward.Product.__call__, cuda_host.conv

    def wrong(*args):
        dots, y = right(*args), args[-1]
        y.as_strided((y.numel(),), (1,))[-1] += 0.5
        return dots

    def wrong_on_the_host(*args):
        output = right_on_the_host(*args)
        output[-1, -1, -1, -1] += 0.5
        return output

    conv_forward.Product.__call__, cuda_host.conv = wrong, wrong_on_the_host
