"""From a recorded launch to machine code, for a GPU that need not be there.

What is specialised (16-byte alignment, integers that are 1 or divisible by 16, descriptors) is decided by the functions
that Triton's own launcher calls, so that the code is that of a real launch.
"""

import tempfile
from dataclasses import dataclass
from typing import Any

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from kerneldna_ops.triton_kernels.launch import Launch


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: machine code, Triton's code before layouts are chosen, shared memory in bytes."""

    cubin: bytes
    ttir: str
    shared: int


@dataclass(frozen=True)
class Request:
    """What decides the machine code."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: Any
    target: GPUTarget

    @classmethod
    def of(cls, launch: Launch, arch: int) -> "Request":
        """arch: 90 for sm_90. Raises TypeError if arguments are missing or too many."""
        if triton.knobs.runtime.interpret:
            raise RuntimeError("Kernels decorated while TRITON_INTERPRET is set cannot be compiled; unset it.")
        kernel, options = launch.kernel, {**launch.options, "enable_fp_fusion": True, "debug": False}
        target = GPUTarget("cuda", arch, 32)
        backend = make_backend(target)
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, _ = bind(**launch.args, **options)
        packed = kernel._pack_args(backend, options, bound, specialization, options)
        chosen, signature, constants, attributes = packed
        return cls(kernel, signature, constants, attributes, chosen, target)

    @property
    def identity(self) -> str:
        """Equal for launches that run the same machine code, as long as neither the kernels nor Triton change."""
        # Where libdevice lies is no matter; that it comes with Triton is.
        options = sorted(item for item in self.options.__dict__.items() if item[0] != "extern_libs")
        arguments = (self.signature, self.constants, self.attributes, options)
        return f"{self.target.arch} {self.kernel.cache_key} {arguments}"

    def front_end(self) -> str:
        """Triton's code before any pass, in a hundredth of the time of `compile`; raises what its front end raises."""
        backend, context = make_backend(self.target), ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        modules = backend.get_codegen_implementation(self.options), backend.get_module_map()
        return str(source.make_ir(self.target, self.options, *modules, context))

    def compile(self) -> Binary:
        """Raises what the compiler raises."""
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        # A cache of its own: nothing is taken from an earlier run, nothing is left behind.
        with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
            triton.knobs.cache.dir = folder
            compiled = triton.compile(source, target=self.target, options=self.options.__dict__)
        return Binary(compiled.asm["cubin"], compiled.asm["ttir"], compiled.metadata.shared)
