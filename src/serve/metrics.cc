#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace stem {
namespace {

class Text {
 public:
  explicit Text(const std::string& model) {
    for (const char c : model) {  // as label values are written
      if (c == '\\' || c == '"') model_ += '\\';
      if (c == '\n')
        model_ += "\\n";
      else
        model_ += c;
    }
  }

  void value(const char* name, const char* kind, const char* help, double value) {
    head(name, kind, help);
    line(name, "", value);
  }
  void head(const char* name, const char* kind, const char* help) {
    fmt::format_to(std::back_inserter(out_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, kind);
  }
  // `labels`: `name="value",` each with its comma.
  void line(const std::string& name, const std::string& labels, double value) {
    fmt::format_to(std::back_inserter(out_), "{}{{{}model_name=\"{}\"}} {}\n", name, labels, model_, value);
  }
  void histogram(const char* name, const char* help, const TimeHistogram& h) {
    head(name, "histogram", help);
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < TimeHistogram::kBounds.size(); ++i) {
      below += h.counts()[i];
      line(fmt::format("{}_bucket", name), fmt::format("le=\"{}\",", TimeHistogram::kBounds[i]),
           static_cast<double>(below));
    }
    line(fmt::format("{}_bucket", name), "le=\"+Inf\",", static_cast<double>(h.count()));
    line(fmt::format("{}_sum", name), "", h.sum());
    line(fmt::format("{}_count", name), "", static_cast<double>(h.count()));
  }
  std::string take() { return std::move(out_); }

 private:
  std::string model_, out_;
};

void write_answers(Text& text, const EngineStats& s) {
  for (const char* name : {"stem:answers_total", "vllm:request_success_total"}) {
    text.head(name, "counter", "Answers that ended, by reason.");
    const auto of = [&](const char* reason, std::uint64_t count) {
      text.line(name, fmt::format("finished_reason=\"{}\",", reason), static_cast<double>(count));
    };
    of("stop", s.stopped);
    of("length", s.length);
    of("abort", s.cancelled + s.late);
    if (std::string_view(name).starts_with("stem:")) of("error", s.failed);
  }
}

void write_engine(Text& text, const EngineStats& s) {
  const auto both = [&](const char* own, const char* other, const char* kind, const char* help,
                        double value) {
    text.value(own, kind, help, value);
    text.value(other, kind, help, value);
  };
  const double usage =
      static_cast<double>(s.kv_busy_rows) / static_cast<double>(std::max<std::int64_t>(s.kv_rows, 1));
  both("stem:answers_running", "vllm:num_requests_running", "gauge", "Answers being made.",
       static_cast<double>(s.running));
  both("stem:answers_waiting", "vllm:num_requests_waiting", "gauge", "Answers that wait for a place.",
       static_cast<double>(s.waiting));
  both("stem:kv_cache_usage_ratio", "vllm:kv_cache_usage_perc", "gauge",
       "Share of the KV cache that running answers hold, 0 to 1.", usage);
  text.value("vllm:gpu_cache_usage_perc", "gauge", "The same under its older name.", usage);
  both("stem:prompt_tokens_total", "vllm:prompt_tokens_total", "counter", "Tokens of prompts.",
       static_cast<double>(s.prompt_tokens));
  both("stem:generated_tokens_total", "vllm:generation_tokens_total", "counter", "Tokens of answers.",
       static_cast<double>(s.made_tokens));
  both("stem:prefix_cached_tokens_total", "vllm:prefix_cache_hits_total", "counter",
       "Tokens of prompts that were found in the KV cache.", static_cast<double>(s.cached_tokens));
  text.value("vllm:prefix_cache_queries_total", "counter", "Tokens of prompts looked for in the KV cache.",
             static_cast<double>(s.prompt_tokens));
  text.value("stem:computed_tokens_total", "counter", "Tokens that went through the model.",
             static_cast<double>(s.computed_tokens));
  text.value("stem:guessed_tokens_total", "counter", "Tokens guessed by prompt lookup.",
             static_cast<double>(s.guessed_tokens));
  text.value("stem:right_guesses_total", "counter", "Of these, right ones.",
             static_cast<double>(s.right_guesses));
  text.value("stem:steps_total", "counter", "Passes through the model.", static_cast<double>(s.steps));
  text.value("stem:step_seconds_total", "counter", "Time in passes.", s.step_seconds);
  text.value("stem:sample_seconds_total", "counter", "Of this, in scoring and choosing tokens.",
             s.sample_seconds);
}

void write_times(Text& text, const EngineStats& s) {
  const auto both = [&](const char* own, const char* other, const char* help, const TimeHistogram& h) {
    text.histogram(own, help, h);
    text.histogram(other, help, h);
  };
  both("stem:time_to_first_token_seconds", "vllm:time_to_first_token_seconds",
       "From a request's arrival to its first token.", s.first_token);
  both("stem:time_per_output_token_seconds", "vllm:time_per_output_token_seconds",
       "Between tokens of an answer.", s.token);
  text.histogram("vllm:inter_token_latency_seconds", "The same under its newer name.", s.token);
  both("stem:answer_seconds", "vllm:e2e_request_latency_seconds", "From a request's arrival to its end.",
       s.whole);
  both("stem:queue_seconds", "vllm:request_queue_time_seconds", "From a request's arrival to its admission.",
       s.queued);
}

void write_table(Text& text, const TableStats& t) {
  const auto counter = [&](const char* name, const char* help, double value) {
    text.value(name, "counter", help, value);
  };
  counter("stem:table_rows_total", "Distinct records that passes asked for.",
          static_cast<double>(t.distinct));
  counter("stem:table_row_hits_total", "Of these, in memory since an earlier pass.",
          static_cast<double>(t.hits));
  text.value("stem:table_row_hit_ratio", "gauge", "Share of records in memory since an earlier pass.",
             t.hit_rate());
  counter("stem:table_reads_total", "Reads started.", static_cast<double>(t.reads));
  counter("stem:table_read_bytes_total", "Bytes of records read.", static_cast<double>(t.bytes_read));
  counter("stem:table_stall_seconds_total", "Time that passes waited for records.",
          static_cast<double>(t.stall_us) * 1e-6);
}

}  // namespace

void HttpCounters::add(int status) {
  ++counts_[static_cast<std::size_t>(std::clamp(status / 100, 0, 5))];
}

std::string metrics_text(const MetricsSource& source, const HttpCounters& http) {
  Text text(source.model);
  const EngineStats stats = source.engine();
  write_answers(text, stats);
  write_engine(text, stats);
  write_times(text, stats);
  if (stats.table) write_table(text, *stats.table);
  if (source.connections) {
    text.value("stem:http_connections", "gauge", "Open connections.",
               static_cast<double>(source.connections()));
  }
  text.head("stem:http_responses_total", "counter", "Responses, by the first digit of their status.");
  for (int c = 2; c <= 5; ++c)
    text.line("stem:http_responses_total", fmt::format("class=\"{}xx\",", c),
              static_cast<double>(http.of_class(c)));
  return text.take();
}

}  // namespace stem
