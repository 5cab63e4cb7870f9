// stem doctor: what this machine offers and what stem makes of it.
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "apps/memory_rate.h"
#include "apps/progress.h"
#include "apps/system_text.h"
#include "core/error.h"
#include "core/rng.h"
#include "io/json.h"
#include "kernels/cpu/cpu.h"
#include "tables/disk_rates.h"

namespace stem {
namespace {

struct Options {
  std::string disk = ".";
  bool json = false;
};

// Those of the CPU's features that decide how fast stem is.
std::vector<std::string> features_of(const std::string& cpuinfo) {
  const std::string known[] = {"sse4_1",   "avx2",     "fma",         "f16c",        "avx512f",
                               "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
                               "amx_tile", "amx_bf16", "amx_int8",    "asimd",       "bf16",
                               "i8mm",     "sve"};
  std::string flags = system_value(cpuinfo, "flags");
  if (flags.empty()) flags = system_value(cpuinfo, "Features");
  flags = " " + flags + " ";
  std::vector<std::string> found;
  for (const std::string& name : known) {
    if (flags.find(" " + name + " ") != std::string::npos) found.push_back(name);
  }
  return found;
}

// A file of records to read, between the sizes that ten layers of SmolLM2's shape have in bf16 (31 kB) and
// f32.
class ScratchFile {
 public:
  static constexpr std::uint64_t kRecordBytes = 48 << 10;
  static constexpr std::int64_t kRecords = 1024;

  explicit ScratchFile(const std::filesystem::path& directory) {
    std::string name = (directory / "stem-doctor-XXXXXX").string();
    const int descriptor = mkstemp(name.data());
    if (descriptor < 0) {
      fail(ErrorCode::kIo, "{}: cannot make a file of {} there: {}", directory.string(),
           bytes_text(static_cast<double>(kRecordBytes * kRecords)), std::generic_category().message(errno));
    }
    path_ = name;
    std::vector<std::uint32_t> record(kRecordBytes / 4);
    const Rng rng(1, 1);
    for (std::size_t i = 0; i < record.size(); ++i) record[i] = static_cast<std::uint32_t>(rng.at(i));
    bool written = true;
    errno = 0;
    for (std::int64_t r = 0; r < kRecords && written; ++r)
      written = write(descriptor, record.data(), kRecordBytes) == static_cast<ssize_t>(kRecordBytes);
    written = written && fsync(descriptor) == 0;
    const int why = errno == 0 ? ENOSPC : errno;  // a write that stopped half-way says nothing
    close(descriptor);
    if (!written) {
      std::filesystem::remove(path_);
      fail(ErrorCode::kIo, "{}: cannot write {}: {}", path_.string(),
           bytes_text(static_cast<double>(kRecordBytes * kRecords)), std::generic_category().message(why));
    }
  }
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  RecordFile records() const { return {path_, 0, kRecordBytes, kRecords}; }

 private:
  std::filesystem::path path_;
};

struct Findings {
  std::string cpu, huge_pages;
  std::vector<std::string> features, advice;
  std::int64_t memory_kb = 0, available_kb = 0;
  double read_rate = 0, read_rate_of_one = 0;
  DiskRates disk;
};

Findings examine(const Options& o) {
  Findings f;
  const std::string cpuinfo = system_text("/proc/cpuinfo"), meminfo = system_text("/proc/meminfo");
  f.cpu = system_value(cpuinfo, "model name");
  if (f.cpu.empty()) f.cpu = "unknown";
  f.features = features_of(cpuinfo);
  f.memory_kb = std::atoll(system_value(meminfo, "MemTotal").c_str());
  f.available_kb = std::atoll(system_value(meminfo, "MemAvailable").c_str());
  const std::string pages = system_text("/sys/kernel/mm/transparent_hugepage/enabled");
  const std::size_t open = pages.find('['), shut = pages.find(']');
  f.huge_pages = open == std::string::npos || shut == std::string::npos
                     ? "unknown"
                     : pages.substr(open + 1, shut - open - 1);
  f.read_rate = memory_read_rate();
  f.read_rate_of_one = memory_read_rate_of_one();
  const ScratchFile scratch(o.disk);
  f.disk = measure_disk(scratch.records());

  const auto has = [&](std::string_view name) {
    return std::find(f.features.begin(), f.features.end(), name) != f.features.end();
  };
  if (has("amx_bf16") && cpu_description().find("amx") == std::string::npos)
    f.advice.push_back(
        "this CPU has AMX, but the system does not let programs use it (arch_prctl): products run on "
        "vectors");
  if (f.huge_pages == "never")
    f.advice.push_back("transparent huge pages are off: weights and tables are read a few per cent slower");
  if (f.disk.read_path.find("io_uring") == std::string::npos)
    f.advice.push_back(
        "io_uring is not to be had (containers often forbid it): tables on disk are read by threads");
  if (f.disk.read_path.find("direct") == std::string::npos)
    f.advice.push_back(fmt::format(
        "{}: direct reads are not to be had there: tables on disk pass through the page cache", o.disk));
  return f;
}

void run_doctor(const Options& o) {
  const Findings f = examine(o);
  if (o.json) {
    Json kernels = Json::object();
    for (const KernelChoice& k : cpu_kernel_choices()) kernels[k.work] = k.choice;
    fmt::print("{}", dump_json({{"cpu", f.cpu},
                                {"features", f.features},
                                {"threads", cpu_threads()},
                                {"instruction_sets", cpu_description()},
                                {"kernels", kernels},
                                {"memory_bytes", f.memory_kb * 1024},
                                {"memory_available_bytes", f.available_kb * 1024},
                                {"huge_pages", f.huge_pages},
                                {"read_bytes_per_s", f.read_rate},
                                {"read_bytes_per_s_of_one_thread", f.read_rate_of_one},
                                {"disk",
                                 {{"directory", o.disk},
                                  {"read_path", f.disk.read_path},
                                  {"record_bytes", ScratchFile::kRecordBytes},
                                  {"record_s", f.disk.record_s},
                                  {"records_per_s", f.disk.records_per_s}}},
                                {"advice", f.advice}}));
    return;
  }
  fmt::print("cpu      {}, {} thread{}\n         {}\n", f.cpu, cpu_threads(), cpu_threads() == 1 ? "" : "s",
             fmt::join(f.features, " "));
  fmt::print("memory   {}, {} of it free; reads {}/s, one thread alone {}/s; huge pages: {}\n",
             bytes_text(1024.0 * static_cast<double>(f.memory_kb)),
             bytes_text(1024.0 * static_cast<double>(f.available_kb)), bytes_text(f.read_rate),
             bytes_text(f.read_rate_of_one), f.huge_pages);
  fmt::print("disk     {}: {}; a record of {} alone {:.0f} us, together {:.0f} a second ({}/s)\n", o.disk,
             f.disk.read_path, bytes_text(static_cast<double>(ScratchFile::kRecordBytes)),
             1e6 * f.disk.record_s, f.disk.records_per_s,
             bytes_text(f.disk.records_per_s * static_cast<double>(ScratchFile::kRecordBytes)));
  for (const char* heading = "kernels "; const KernelChoice& k : cpu_kernel_choices()) {
    fmt::print("{} {}: {}\n", heading, k.work, k.choice);
    heading = "        ";
  }
  fmt::print("limits   a token of a model that reads 100 MB of weights takes at least {:.1f} ms here\n",
             1e3 * 100e6 / f.read_rate);
  for (const std::string& line : f.advice) fmt::print("note     {}\n", line);
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("doctor", "what this machine offers: CPU, memory, disk, the kernels chosen for it");
  command->footer("Takes some seconds, 540 MB of memory, and 50 MB of disk for as long as it runs.\n");
  command->add_option("--disk", o->disk, "folder whose disk to measure")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  command->add_flag("--json", o->json, "the findings as JSON");
  command->callback([o] { run_doctor(*o); });
}

}  // namespace stem
