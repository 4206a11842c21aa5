#pragma once

namespace multimix {

// How matrix products read their operands.
enum class Operand : int { kBF16, kF16, kTF32, kFP32 };

}  // namespace multimix
