// Shared memory has 32 banks of 4 bytes, and gives one word of each at a time. So an access of a warp takes as many
// passes as the bank with most of its words has; a word that several lanes read counts once. Accesses of 8 bytes a lane
// are made by half warps, those of 16 bytes by quarters.
#pragma once

namespace kerneldna::cuda {

// word: of a lane, the first of the 1, 2 or 4 that it accesses.
template <class WordOfLane> constexpr int bank_passes(int words, const WordOfLane &word) {
  constexpr int kBanks = 32, kLanes = 32;
  const int together = kLanes / words;
  int passes = 0;
  for (int first = 0; first < kLanes; first += together) {
    int most = 0;
    for (int bank = 0; bank < kBanks; ++bank) {
      int different = 0, seen[kLanes] = {};
      for (int i = 0; i < together * words; ++i) {
        const int at = word(first + i / words) + i % words;
        bool is_new = at % kBanks == bank;
        for (int j = 0; j < different; ++j)
          is_new = is_new && seen[j] != at;
        if (is_new)
          seen[different++] = at;
      }
      most = different > most ? different : most;
    }
    passes += most;
  }
  return passes;
}

} // namespace kerneldna::cuda
