#include "cpu/isa.h"

#include <cstdlib>
#include <string>

#include <torch/library.h>

namespace threedgen {
namespace {

bool supported(Isa isa) {
#if defined(THREEDGEN_X86_VARIANTS)
  __builtin_cpu_init();
  // By feature, because older compilers do not know the names of the levels; what is left out here (F16C, LZCNT, MOVBE)
  // comes with every processor that has the rest.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return isa == Isa::baseline || (isa == Isa::v3 && v3) || (isa == Isa::v4 && v4);
#else
  return isa == Isa::baseline;
#endif
}

Isa choose() {
  const char* wanted = std::getenv("THREEDGEN_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0')
    return supported(Isa::v4) ? Isa::v4 : supported(Isa::v3) ? Isa::v3 : Isa::baseline;
  const std::string name = wanted;
  TORCH_CHECK_VALUE(name == "baseline" || name == "v3" || name == "v4", "THREEDGEN_CPU_ISA='", name, "' is unknown: use baseline, v3 or v4, or unset it");
  const Isa isa = name == "v4" ? Isa::v4 : name == "v3" ? Isa::v3 : Isa::baseline;
  TORCH_CHECK_VALUE(supported(isa), "THREEDGEN_CPU_ISA=", name, " is not supported by this processor: use a lower level or unset it");
  return isa;
}

std::string cpu_isa() {
  const Isa isa = selected_isa();
  return isa == Isa::v4 ? "v4" : isa == Isa::v3 ? "v3" : "baseline";
}

}  // namespace

Isa selected_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace threedgen

TORCH_LIBRARY_IMPL(threedgen, CompositeExplicitAutograd, m) { m.impl("cpu_isa", &threedgen::cpu_isa); }
