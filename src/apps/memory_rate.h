// How fast memory can be read here.
#pragma once

namespace stem {

/// Bytes a second that all threads together read from memory; takes about a third of a second and 512 MiB.
double memory_read_rate();
/// Of one thread alone.
double memory_read_rate_of_one();

}  // namespace stem
