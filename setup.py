"""Builds custom_cuda/ ahead of time into one library, threedgen/_C.abi3.so, which `torch.ops.load_library` loads.

    pip install --no-build-isolation -e .        # or without -e; torch must be installed before
    python setup.py build_ext --inplace          # rebuilds what changed

Environment:
    THREEDGEN_NO_EXT=1       build nothing: the operators run as pure torch
    THREEDGEN_REQUIRE_EXT=1  a build that fails is an error (default: install without the library; threedgen.ops says so at first use)
    FORCE_CUDA=1             a missing CUDA toolkit is an error (default: CUDA sources are compiled where torch has CUDA and a toolkit)
    TORCH_CUDA_ARCH_LIST     such as "8.0;9.0+PTX" (default: the GPUs present, else 8.0 and 9.0 with PTX)
    CXX, MAX_JOBS            the C++ compiler; compilers at a time

Sources are found by name, so a new file needs no change here (custom_cuda/README.md says what goes where):
    *.cpp, cpu/*.cpp         compiled once, with strict floating point
    cpu/*_kernels.cpp        hot loops: compiled once per x86-64 level with THREEDGEN_ISA=baseline|v3|v4, chosen at run time
    cuda/*.cu                CUDA kernels
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "custom_cuda"
DATA_FOLDERS = ("configs", "assets")  # shipped inside the package, kept at the top of the repository

# Reassociation lets loops vectorize; NaN and infinity keep their meaning, which -ffast-math would take away.
HOT_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"]
STRICT_FLAGS = ["-ffp-contract=off"]
X86_LEVELS = {"baseline": [], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}


def flag(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


@dataclass(frozen=True)
class Toolchain:
    """Compilers and the flags that every file shares."""

    cxx: str
    nvcc: str | None
    common: list[str]
    link: list[str]
    x86: bool
    torch: str

    @classmethod
    def find(cls) -> Toolchain:
        try:
            import torch
            from torch.utils.cpp_extension import CUDA_HOME, include_paths, library_paths
        except ImportError as error:
            raise CompileError(f"torch cannot be imported ({error}): install torch first, then use pip's --no-build-isolation") from error
        cxx = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
        if cxx is None:
            raise CompileError("no C++ compiler found: install g++ or set CXX")
        cuda = (bool(torch.version.cuda) and CUDA_HOME is not None) or flag("FORCE_CUDA")
        if cuda and CUDA_HOME is None:
            raise CompileError("FORCE_CUDA=1, but torch has no CUDA or finds no toolkit: install a CUDA build of torch and set CUDA_HOME")
        device = "cuda" if cuda else "cpu"
        common = ["-std=c++20", "-O3", f"-I{SOURCES}"]
        for path in include_paths(device):
            common += ["-isystem", path]
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        if x86:
            common.append("-DTHREEDGEN_X86_VARIANTS")
        libraries = ["c10", "torch_cpu", "torch"] + (["c10_cuda", "torch_cuda", "cudart"] if cuda else [])
        link = [*(f"-L{path}" for path in library_paths(device)), *(f"-l{name}" for name in libraries)]
        nvcc = str(Path(CUDA_HOME) / "bin" / "nvcc") if cuda and CUDA_HOME else None
        return cls(cxx, nvcc, common, link, x86, torch.__version__)

    def host(self, source: Path, output: Path, extra: list[str]) -> list[str]:
        return [self.cxx, *self.common, "-fPIC", "-fopenmp", "-Wall", *extra, "-c", str(source), "-o", str(output)]

    def device(self, source: Path, output: Path) -> list[str]:
        assert self.nvcc is not None
        flags = ["-ccbin", self.cxx, "-Xcompiler", "-fPIC", "--expt-relaxed-constexpr", "--threads", "0", *cuda_architectures()]
        return [self.nvcc, *self.common, *flags, "-c", str(source), "-o", str(output)]

    def jobs(self, folder: Path) -> dict[Path, tuple[Path, list[str]]]:
        """Object file -> (source, command) for every object of the library."""
        jobs = {}
        for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("cpu/*.cpp")]):
            if source.stem.endswith("_kernels"):
                for level, march in (X86_LEVELS if self.x86 else {"baseline": []}).items():
                    output = folder / f"{source.stem}.{level}.o"
                    jobs[output] = source, self.host(source, output, [*HOT_FLAGS, *march, f"-DTHREEDGEN_ISA={level}"])
            else:
                output = folder / f"{source.stem}.o"
                jobs[output] = source, self.host(source, output, STRICT_FLAGS)
        if self.nvcc:
            for source in sorted(SOURCES.glob("cuda/*.cu")):
                output = folder / f"{source.stem}.cuda.o"
                jobs[output] = source, self.device(source, output)
        return jobs


def cuda_architectures() -> list[str]:
    """nvcc's -gencode options for the wanted GPUs."""
    import torch

    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";")
    if not wanted and torch.cuda.is_available():
        capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        wanted = ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities))
    options = []
    for architecture in filter(None, (wanted or "8.0;9.0+PTX").split(";")):
        number = architecture.removesuffix("+PTX").replace(".", "")
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options


def run(command: list[str]) -> None:
    """One compiler call; CompileError carries its first lines of complaint."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.stderr:
        print(result.stderr, file=sys.stderr)
    if result.returncode:
        raise CompileError(f"{' '.join(command)}\n{result.stderr[:4000]}")


class BuildLibrary(build_ext):
    """Compiles with per-file flags, several files at a time, and only what is older than its source, a header or this file."""

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        library.unlink(missing_ok=True)  # a failed build must not leave an old library behind
        library.parent.mkdir(parents=True, exist_ok=True)
        toolchain = Toolchain.find()
        folder = Path(self.build_temp).resolve() / f"torch-{toolchain.torch}"  # objects of another torch must not be linked
        folder.mkdir(parents=True, exist_ok=True)
        jobs = toolchain.jobs(folder)
        shared = max(path.stat().st_mtime for path in [Path(__file__), *SOURCES.rglob("*.h")])
        stale = [
            command
            for output, (source, command) in jobs.items()
            if self.force or not output.exists() or output.stat().st_mtime < max(shared, source.stat().st_mtime)
        ]
        print(f"threedgen: compiling {len(stale)} of {len(jobs)} objects with {toolchain.cxx}")
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count() or 1) as pool:
            list(pool.map(run, stale))
        run([toolchain.cxx, "-shared", "-fopenmp", *map(str, jobs), *toolchain.link, "-o", str(library)])


class BuildPackage(build_py):
    """Ships configs/ and assets/ as threedgen/configs and threedgen/assets; an editable install reads them where they are."""

    def run(self) -> None:
        package = Path(self.build_lib) / "threedgen"
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)  # else deleted files of an earlier build would be shipped
        super().run()
        if self.editable_mode:
            return
        for name in DATA_FOLDERS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))


# An optional extension that fails to build is reported and left out by setuptools.
library = Extension("threedgen._C", sources=[], py_limited_api=True, optional=not flag("THREEDGEN_REQUIRE_EXT"))

setup(
    ext_modules=[] if flag("THREEDGEN_NO_EXT") else [library],
    cmdclass={"build_ext": BuildLibrary, "build_py": BuildPackage},
)
