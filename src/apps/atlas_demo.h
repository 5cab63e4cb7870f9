// The eight looks of the demonstration. Each prints what it found and returns the figures for the report.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "apps/fact_eval.h"
#include "apps/settings.h"
#include "data/token_shard.h"

namespace stem {

/// Prints the story, or nothing when quiet.
class DemoTelling {
 public:
  explicit DemoTelling(bool quiet) : quiet_(quiet) {}
  void heading(const std::string& text);
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    print(fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  void print(const std::string& text);  // wrapped to the terminal, indented
  bool quiet_;
  int number_ = 0;
};

class AtlasDemo {
 public:
  AtlasDemo(Runtime& runtime, const std::filesystem::path& model_dir, const std::filesystem::path& data,
            const std::filesystem::path& run, const Settings& settings, DemoTelling& tell, bool quiet);

  Json model_json() const;
  Json where();       ///< 1: the address of " Spain"
  Json swap();        ///< 2: Spain reads Germany: Berlin
  Json blend();       ///< 3: USA reads mean(Czech, Republic): Prague
  Json flat_earth();  ///< 4: a patch file, and its undoing
  Json attack();      ///< 5: safe and toxic exchanged in a copy of the file
  Json ablation();    ///< 6: learned, random, no table
  Json score();       ///< 7: all ordered pairs
  Json cosines();     ///< 8: geometry of the rows, for the report

 private:
  struct Side {
    std::string answer, text;
    Json top;
  };
  Side ask(const Overlay* overlay, const std::string& prompt, std::int64_t max_tokens = 40);
  Json side_json(const Side& side) const;
  Json surgery(const std::string& prompt, const std::string& slot, const std::vector<std::string>& donors,
               SpanRule rule);
  Overlay overlay_of(const SwapPlan& plan) const;
  SwapPlan plan(const std::string& slot, const std::vector<std::string>& donors, SpanRule rule,
                bool exchange = false) const;
  double held_out_loss(const Model& model, const Table* table = nullptr) const;

  Runtime& runtime_;
  std::filesystem::path model_dir_, run_;
  Settings settings_;
  DemoTelling& tell_;
  bool quiet_;
  PatchedModel opened_;
  LoadedModel scored_;  // the same weights in the training GEMM's type: thousands of prompts at once
  FactSuite facts_;
  TokenShard held_out_;
};

}  // namespace stem
