// Choice between the copies of a kernel compiled for different instruction sets (see custom_cuda/README.md).
#pragma once

namespace threedgen {

enum class Isa { baseline, v3, v4 };

// The best level of this processor, or the one THREEDGEN_CPU_ISA names; throws where that is unknown or not supported.
Isa selected_isa();

}  // namespace threedgen

// Declares the tables of kernels of every level and `select_<name>()`, which returns the one in use.
#if defined(THREEDGEN_X86_VARIANTS)
#define THREEDGEN_DECLARE_VARIANTS(Kernels, name)            \
  namespace baseline { extern const Kernels name; }          \
  namespace v3 { extern const Kernels name; }                \
  namespace v4 { extern const Kernels name; }                \
  static inline const Kernels& select_##name() {             \
    const Isa isa = selected_isa();                          \
    return isa == Isa::v4 ? v4::name : isa == Isa::v3 ? v3::name : baseline::name; \
  }
#else
#define THREEDGEN_DECLARE_VARIANTS(Kernels, name)            \
  namespace baseline { extern const Kernels name; }          \
  static inline const Kernels& select_##name() { return baseline::name; }
#endif
