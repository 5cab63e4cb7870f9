// How fast records of a file can be had here.
#pragma once

#include <string>

#include "tables/record_store.h"

namespace stem {

struct DiskRates {
  std::string read_path;     ///< "io_uring, direct"
  double record_s = 0;       ///< median time of one record read alone
  double records_per_s = 0;  ///< with many reads in flight
};

/// Reads some 300 records at random places, past the page cache where that can be. Takes about a tenth of a
/// second. Throws Error as ReadQueue::open, kIo when a read fails.
DiskRates measure_disk(const RecordFile& file, const ReadQueueOptions& options = {});

}  // namespace stem
