#include "apps/convert_run.h"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "apps/convert_judge.h"
#include "apps/convert_layers.h"
#include "apps/interrupt.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "convert/row_update.h"
#include "core/clock.h"
#include "core/error.h"
#include "io/file.h"
#include "io/lock.h"
#include "io/safetensors.h"
#include "ops/linear.h"
#include "report/fields.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSequencesTogether = 16;  // of the text that updates rows

constexpr const char* kStateFile = "convert.json";
constexpr const char* kStateFormat = "stem-convert/1";

/// N of "best:N"; 0 for other choices. Throws kUsage.
std::int64_t best_count(const std::string& choice, std::int64_t layers) {
  constexpr std::string_view kBest = "best:";
  if (!choice.starts_with("best")) return 0;
  const std::string_view number =
      choice.starts_with(kBest) ? std::string_view(choice).substr(kBest.size()) : std::string_view();
  std::int64_t count = 0;
  const char* const end = number.data() + number.size();
  const auto [rest, error] = std::from_chars(number.data(), end, count);
  if (error != std::errc{} || rest != end || count < 1 || count > layers)
    fail(ErrorCode::kUsage,
         "--layers: expected best:N with N in [1, {}], third, half, full or a list, found {}", layers,
         shown(Json(choice)));
  return count;
}

/// The layers of a choice that needs no measurement; empty for "best:N". Throws kUsage.
std::vector<std::int64_t> listed_layers(const std::string& choice, const ModelConfig& dense) {
  if (best_count(choice, dense.layers) > 0) return {};
  ModelConfig c = dense;
  c.variant = FfnVariant::stem;
  c.stem_layers = stem_layers_from(choice, dense.layers, "--layers", 0);
  if (c.stem_layers.empty()) fail(ErrorCode::kUsage, "--layers: expected at least one layer, found none");
  c.validate("--layers");
  return c.stem_layers;
}

Json read_state(const fs::path& file) {
  try {
    return parse_json(read_file(file, 1 << 24), file.string());
  } catch (const Error& e) {
    fail(e.code(), "{}; remove {} to begin anew", e.what(), file.parent_path().string());
  }
}

std::vector<LayerDamage> damage_from(const Json& state, const std::string& name) {
  std::vector<LayerDamage> damage;
  for (const Json& d : objects_of(state, "damage"))
    damage.push_back({get_int(d, "layer", name, std::ssize(damage), std::ssize(damage)),
                      get_number(d, "damage", name, -1e9, 1e9), get_number(d, "ffn_error", name, 0, 1e300)});
  return damage;
}

// The model that this state's run has written and not reported on yet lies at `out`.
bool unreported(const Json& state, const fs::path& out) {
  return state.contains("model") && fs::exists(out / kManifestName) &&
         Json(uuid_text(read_manifest(out).uuid)) == state["model"];
}

fs::path state_file(const fs::path& out) {
  return run_directory(out) / "convert" / kStateFile;
}

std::vector<std::int32_t> distinct_of(std::vector<std::int32_t> tokens) {
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

ModelConfig dense_config(const fs::path& model) {
  const ModelConfig c = read_config(model);
  if (c.variant != FfnVariant::dense)
    fail(ErrorCode::kUsage, "{}: ffn_variant: expected dense, found {}: {}", (model / kConfigFile).string(),
         name_of(c.variant),
         c.variant == FfnVariant::stem_additive
             ? "convert the model as it was before stem attach-rows, or import it again"
             : "only dense layers can be converted");
  return c;
}

// What a conversion that was begun computes in, else "auto": that choice is by time, and falls now so, now so
// on a busy machine.
std::string precision_of(const fs::path& state) {
  if (fs::exists(state)) {
    const Json json = read_state(state);
    const Json settings = json.is_object() ? json.value("settings", Json()) : Json();
    const Json found = settings.is_object() ? settings.value("gemm_dtype", Json()) : Json();
    if (found == name_of(DType::f32) || found == name_of(DType::bf16)) return found.get<std::string>();
  }
  return "auto";
}

LoadedModel load_dense(const Context& context, const fs::path& model, const ModelConfig& c,
                       std::int64_t sequence, const std::string& precision) {
  LoadOptions options;
  options.precision = training_precision(precision, c, 8 * sequence);
  LoadedModel dense = load_model_directory(model, context, options);
  dense.model.refresh_compute(context);
  return dense;
}

TextLimits limits_of(const ConvertSettings& s, const ModelConfig& c) {
  TextLimits limits = s.limits;
  limits.sequence = std::min(limits.sequence, c.max_positions);
  limits.further = s.row_tokens;
  limits.healing = s.heal.tokens;
  return limits;
}

class ConvertRun {
 public:
  ConvertRun(Runtime& runtime, const ConvertSettings& settings, const ModelConfig& config)
      : runtime_(runtime),
        context_(runtime.training()),
        s_(settings),
        work_(run_directory(settings.out) / "convert"),
        files_(work_, config),
        limits_(limits_of(settings, config)),
        dense_(
            load_dense(context_, settings.model, config, limits_.sequence, precision_of(work_ / kStateFile))),
        texts_(conversion_texts(dense_.tokenizer, config.vocab, settings.calibrate, settings.held_out,
                                limits_)) {}

  Json run() {
    try {
      open_state();
      if (!unreported(state_, s_.out)) make();
    } catch (const Error& e) {
      fail_with_remedy(e);
    }
    remove_parts();
    return judge();
  }

 private:
  // A user cannot know what the files of a conversion under way are for.
  [[noreturn]] void fail_with_remedy(const Error& e) const {
    const std::string message = e.what(), place = work_.string();
    const bool of_files = e.code() != ErrorCode::kIo && e.code() != ErrorCode::kUsage;
    if (of_files && message.find(place) != std::string::npos && message.find("remove ") == std::string::npos)
      fail(e.code(), "{}; remove {} to begin anew", message, place);
    throw e;
  }

  void make() {
    const bool healing = s_.heal.tokens > 0;
    const fs::path converted = healing ? work_ / "converted" : s_.out;
    state_["model"] = uuid_text(random_uuid());
    save_state();
    // A finished healing leaves nothing of the converted model that it began with.
    const bool converted_once = state_.contains("row_rms") && (fs::exists(converted / kManifestName) ||
                                                               fs::exists(work_ / "healed" / kManifestName));
    if (!healing || !converted_once) {
      const InterruptGuard interrupts;
      choose_layers();
      stop_if_asked("the damage of each layer");
      require_disk_space(s_.out, bytes_to_convert() + bytes_to_update() + (healing ? bytes_to_heal() : 0.0));
      require_memory_to_update();
      convert_layers();
      stop_if_asked("the last layer");
      update_rows();
      stop_if_asked("the rows");
      state_["chosen"] = layers_;
      state_["stream_errors"] = stream_errors();
      save_state();
      assemble(converted);
      state_["row_rms"] = row_rms_;
      save_state();
      files_.remove();
    }
    if (healing) heal_model(converted);
  }

  // All that the finished model was made of.
  void remove_parts() const {
    files_.remove();
    const fs::path healed = work_ / "healed";
    for (const fs::path& part : {work_ / "converted", healed, fs::path(healed.string() + ".data"),
                                 run_directory(healed) / kCheckpoints})
      fs::remove_all(part);
  }

  // The finished model has the identity that the state names: where that lies in place, it is done.
  Manifest draft() const {
    Manifest manifest;
    const std::string text = get_string(state_, "model", (work_ / kStateFile).string());
    if (!parse_uuid(text, &manifest.uuid))
      fail(ErrorCode::kFormat, "{}: model: expected a UUID, found {}", (work_ / kStateFile).string(),
           shown(Json(text)));
    return manifest;
  }

  // What the results depend on.
  Json settings_json() const {
    const std::vector<std::int64_t> listed = listed_layers(s_.layers, dense_.model.config);
    Json json{{"source", uuid_text(dense_.manifest.uuid)},
              {"layers", listed.empty() ? s_.layers : fmt::format("{}", fmt::join(listed, ","))},
              {"sequence", limits_.sequence},
              {"texts", texts_.digest},
              {"prior", s_.options.prior},
              {"ridge", s_.options.ridge},
              {"catch_up", s_.options.catch_up},
              {"refit", name_of(s_.options.refit)},
              {"row_tokens", s_.row_tokens},
              {"heal_tokens", s_.heal.tokens},
              {"gemm_dtype", name_of(dense_.model.precision.narrow)}};
    if (listed.empty()) json["damage_tokens"] = s_.damage_tokens;
    if (s_.heal.tokens > 0)
      json.update({{"heal_scope", name_of(s_.heal.scope)},
                   {"heal_lr", s_.heal.lr},
                   {"heal_row_lr", s_.heal.row_lr},
                   {"teacher", s_.teacher.empty() ? "" : uuid_text(read_manifest(s_.teacher).uuid)}});
    return json;
  }

  // A state that names no model is that of a conversion which is finished and told of, or has not begun.
  bool under_way() const { return state_.contains("model"); }

  void open_state() {
    fs::create_directories(work_);
    lock_.emplace(work_, "stem convert");
    const fs::path path = work_ / kStateFile;
    const Json wanted = settings_json();
    if (fs::exists(path)) {
      const std::string name = path.string();
      state_ = read_state(path);
      if (const std::string format = get_string(state_, "format", name); format != kStateFormat)
        fail(ErrorCode::kFormat, "{}: format: expected {}, found {}", name, kStateFormat,
             shown(Json(format)));
      get_array(state_, "damage", name);
      const Json& settings = get_object(state_, "settings", name);
      for (const auto& [key, value] : wanted.items()) {
        const Json found = settings.value(key, Json());
        if (found == value) continue;
        if (!under_way()) return begin_anew(wanted);
        fail(ErrorCode::kUsage,
             "{}: {}: expected {} (this command), found {}: a conversion that was begun otherwise; remove {} "
             "to begin anew",
             path.string(), key, shown(value), shown(found), work_.string());
      }
      return;
    }
    begin_anew(wanted);
  }

  void begin_anew(const Json& wanted) {
    // Parts without the settings that they were made by are nobody's.
    remove_parts();
    state_ = {{"format", kStateFormat}, {"settings", wanted}, {"damage", Json::array()}};
    save_state();
  }

  void save_state() const { write_file_atomic(work_ / kStateFile, dump_json(state_)); }

  void stop_if_asked(const std::string& after) const {
    const int signal = InterruptGuard::pending();
    if (signal == 0) return;
    throw Interrupted{signal, fmt::format("stopped by {} after {}; the same command goes on from there",
                                          signal == SIGINT ? "SIGINT" : "SIGTERM", after)};
  }

  void choose_layers() {
    const ModelConfig& c = dense_.model.config;
    layers_ = listed_layers(s_.layers, c);
    if (!layers_.empty()) return;
    std::vector<LayerDamage> damage = damage_from(state_, (work_ / kStateFile).string());
    if (std::ssize(damage) < c.layers) {
      // A part of the calibration text is enough to rank layers by.
      const CalibrationText part(divide_text(texts_.calibration.tokens(), -1, limits_.sequence,
                                             std::int64_t{1} << 40, s_.damage_tokens, 0)
                                     .calibration,
                                 limits_.sequence);
      Progress progress("damage of each layer", c.layers, s_.quiet, std::ssize(damage));
      damage =
          measure_damage(context_, dense_.model, part, texts_.selection, damage, [&](const LayerDamage& d) {
            state_["damage"].push_back(
                {{"layer", d.layer}, {"damage", d.damage}, {"ffn_error", d.ffn_error}});
            save_state();
            progress.update(d.layer + 1, fmt::format("layer {}: {:+.4f} nats", d.layer, d.damage));
            if (d.layer + 1 < c.layers) stop_if_asked(fmt::format("layer {}", d.layer));
          });
    }
    layers_ = least_damaged(damage, best_count(s_.layers, c.layers));
  }

  // The layers that do not stay as they are, ascending.
  std::vector<std::int64_t> changed_layers() const {
    if (s_.options.refit == RefitScope::converted) return layers_;
    std::vector<std::int64_t> all;
    for (std::int64_t l = layers_.front(); l < dense_.model.config.layers; ++l) all.push_back(l);
    return all;
  }

  // Values of one layer's rows, and of all weights.
  double row_values() const {
    const ModelConfig& c = dense_.model.config;
    return static_cast<double>(c.vocab) * static_cast<double>(c.ffn);
  }
  double weight_values() const { return static_cast<double>(account(dense_.model.config).dense_parameters); }

  bool rows_to_update() const { return !texts_.further.empty() && !files_.updated(); }
  double bytes_to_update() const {
    return rows_to_update() ? 2.0 * row_values() * static_cast<double>(layers_.size()) : 0.0;
  }

  // Told before hours of work: the sums of all layers lie in memory at once.
  void require_memory_to_update() const {
    if (!rows_to_update()) return;
    const auto distinct = static_cast<std::int64_t>(distinct_of(texts_.further).size());
    const double sums = RowUpdate::bytes(std::ssize(layers_), distinct, dense_.model.config.ffn),
                 all = sums + 4.0 * weight_values();
    if (all > memory_bytes())
      fail(ErrorCode::kUsage,
           "--row-tokens: memory: expected at most {} (this machine's), found {}: sums of {} layers' rows of "
           "{} tokens, and the model; fewer layers or fewer tokens take less",
           bytes_text(memory_bytes()), bytes_text(all), layers_.size(), count_text(distinct));
  }

  // Layers' rows in bf16, each in its file and once more in the table, and in f32 refitted W_d and W_o beside
  // all weights.
  double bytes_to_convert() const {
    const auto missing = [&](const std::vector<std::int64_t>& layers) {
      return static_cast<double>(
          std::count_if(layers.begin(), layers.end(), [&](auto l) { return !files_.done(l); }));
    };
    const ModelConfig& c = dense_.model.config;
    const auto refitted = static_cast<double>(c.width * (c.ffn + c.heads * c.head_width));
    return 2.0 * row_values() * (missing(layers_) + static_cast<double>(layers_.size())) +
           4.0 * (refitted * missing(changed_layers()) + weight_values());
  }

  // Two checkpoints for a moment, or one and the healed model beside the finished one: all in f32, with
  // Adam's moments of the weights and of the rows that the text reads (the other rows' are holes).
  double bytes_to_heal() const {
    const double layers = static_cast<double>(layers_.size());
    const auto distinct = static_cast<double>(distinct_of(texts_.healing).size());
    const double moments = weight_values() + layers * distinct * static_cast<double>(dense_.model.config.ffn);
    return 2.0 * (4.0 * (weight_values() + layers * row_values()) + 8.0 * moments);
  }

  void convert_layers() {
    const std::vector<std::int64_t> changed = changed_layers();
    if (std::all_of(changed.begin(), changed.end(), [&](auto l) { return files_.done(l); })) return;
    const std::int64_t end = changed.back() + 1;
    Conversion conversion(context_, dense_.model, texts_.calibration, layers_, s_.options);
    Progress progress("converting", end, s_.quiet);
    for (std::int64_t l = 0; l < end; ++l) {
      std::string detail = fmt::format("layer {}", l);
      if (!conversion.changes(l)) {
        conversion.run(l);
      } else if (files_.done(l)) {
        resume_layer(conversion, l);
      } else {
        const double error = convert_layer(conversion, l);
        detail += fmt::format(": residual stream off by {:.1f} %", 100 * std::sqrt(error));
      }
      progress.update(l + 1, detail);
      if (l + 1 < end) stop_if_asked(fmt::format("layer {}", l));
    }
  }

  double convert_layer(Conversion& conversion, std::int64_t layer) {
    std::unique_ptr<SafetensorsWriter> rows;
    if (conversion.model().config.stem_index(layer) >= 0) rows = files_.write_rows(layer);
    const ConvertedLayer result = conversion.convert(layer, [&](std::int64_t, In piece) {
      const Workspace::Scope scope(*context_.workspace);
      rows->write(LayerFiles::kRowsTensor, as_type(context_, piece, DType::bf16).data,
                  static_cast<std::uint64_t>(piece.size()) * 2);
    });
    if (rows) rows->close();
    if (!std::isfinite(result.stream_error)) fail_not_finite(layer);
    files_.finish(result, rows != nullptr);
    return result.stream_error;
  }

  [[noreturn]] void fail_not_finite(std::int64_t layer) const {
    fail(ErrorCode::kFormat,
         "{}: layer {}: expected finite activations on the calibration text, found others", s_.model.string(),
         layer);
  }

  void copy_rows(In all, std::span<const std::int32_t> tokens, Out to) const {
    for (std::size_t r = 0; r < tokens.size(); ++r)
      convert(context_, to.slice_rows(static_cast<std::int64_t>(r), 1), all.slice_rows(tokens[r], 1));
  }

  // Rows of all converted layers, by text that the layers were not calibrated on.
  void update_rows() {
    if (!rows_to_update()) return;
    std::vector<LayerFiles::Rows> rows;
    for (const std::int64_t l : layers_) rows.push_back(files_.rows_as_converted(l));
    const Student student = converted_weights();
    RowUpdate update(context_, dense_.model, student.model, distinct_of(texts_.further),
                     [&](std::int64_t s, std::span<const std::int32_t> tokens, Out to) {
                       copy_rows(rows[static_cast<std::size_t>(s)].rows, tokens, to);
                     });
    const std::int64_t sequence = limits_.sequence, piece = kSequencesTogether * sequence,
                       size = std::ssize(texts_.further);
    Progress progress("rows", size, s_.quiet);
    for (std::int64_t first = 0; first < size; first += piece) {
      const std::int64_t end = std::min(first + piece, size);
      update.add(CalibrationText({texts_.further.begin() + first, texts_.further.begin() + end}, sequence));
      progress.update(end, fmt::format("{} tokens", count_text(end)));
      if (end < size) stop_if_asked("the last layer (the sums of --row-tokens begin again)");
    }
    for (std::size_t s = 0; s < layers_.size(); ++s)
      write_updated(RowUpdate::Layer(update, static_cast<std::int64_t>(s)), layers_[s], rows[s].rows);
    files_.finish_update(layers_);
  }

  void write_updated(RowUpdate::Layer update, std::int64_t layer, In rows) const {
    const ModelConfig& c = dense_.model.config;
    const CalibrationText& text = texts_.calibration;
    const auto file = files_.write_rows(layer, true);
    const Tensor row(DType::f32, 1, c.ffn), stored(DType::bf16, 1, c.ffn);
    const std::span<float> u(row.view.row<float>(0), static_cast<std::size_t>(c.ffn));
    for (std::int32_t t = 0; t < c.vocab; ++t) {
      convert(context_, row, rows.slice_rows(t, 1));
      const std::int64_t place = text.place(t);
      const std::int64_t seen = place < 0 ? 0 : text.counts()[static_cast<std::size_t>(place)];
      if (update.solve(t, seen, s_.options.prior, u) &&
          !std::all_of(u.begin(), u.end(), [](float x) { return std::isfinite(x); }))
        fail(ErrorCode::kFormat,
             "{}: layer {}: --row-tokens: expected finite activations at token {}, found others",
             s_.model.string(), layer, t);
      convert(context_, stored, row);
      file->write(LayerFiles::kRowsTensor, stored.view.data, static_cast<std::uint64_t>(c.ffn) * 2);
    }
    file->close();
  }

  void resume_layer(Conversion& conversion, std::int64_t layer) {
    Tensor of_text;
    if (conversion.model().config.stem_index(layer) >= 0) {
      const LayerFiles::Rows all = files_.rows_as_converted(layer);
      const std::span<const std::int32_t> distinct = texts_.calibration.distinct();
      of_text = Tensor(DType::f32, std::ssize(distinct), all.rows.cols);
      copy_rows(all.rows, distinct, of_text);
    }
    const LayerFiles::Weights weights = files_.weights(layer);
    conversion.resume(layer, of_text, weights.down, weights.o);
  }

  // Records of the finished table, out of the layers' files.
  void write_table(const fs::path& dir) {
    const ModelConfig& c = dense_.model.config;
    std::vector<LayerFiles::Rows> layers;
    for (const std::int64_t l : layers_) layers.push_back(files_.rows(l));
    SafetensorsWriter table(dir / kTableFile,
                            {{"stem.table", DType::bf16, {c.vocab, std::ssize(layers_), c.ffn}}}, {},
                            kDirectBlockBytes);
    std::vector<double> squares(layers.size(), 0.0);
    std::vector<bf16> record(static_cast<std::size_t>(std::ssize(layers_) * c.ffn));
    for (std::int64_t t = 0; t < c.vocab; ++t) {
      for (std::size_t s = 0; s < layers.size(); ++s)
        std::copy_n(layers[s].rows.row<bf16>(t), c.ffn,
                    record.begin() + static_cast<std::ptrdiff_t>(s) * c.ffn);
      table.write("stem.table", record.data(), record.size() * sizeof(bf16));
      for (std::size_t i = 0; i < record.size(); ++i) {
        const auto value = static_cast<double>(static_cast<float>(record[i]));
        squares[i / static_cast<std::size_t>(c.ffn)] += value * value;
      }
    }
    table.close();
    double all = 0;
    for (std::size_t s = 0; s < layers.size(); ++s) {
      if (!std::isfinite(squares[s]))
        fail(ErrorCode::kFormat, "{}: layer {}: expected finite rows (--prior, --ridge), found others",
             s_.model.string(), layers_[s]);
      all += squares[s];
    }
    row_rms_ = std::sqrt(all / static_cast<double>(c.vocab * std::ssize(record)));
  }

  // The converted model but for its rows.
  struct Student {
    Model model;
    std::vector<OwnWeight> own;
  };
  Student converted_weights() {
    Student student{share_as_stem(dense_.model, layers_), {}};
    for (const std::int64_t l : changed_layers()) {
      const LayerFiles::Weights weights = files_.weights(l);
      student.own.emplace_back(context_, student.model, l, &LayerTensors::down, weights.down);
      if (weights.o) student.own.emplace_back(context_, student.model, l, &LayerTensors::o, weights.o);
    }
    return student;
  }

  void assemble(const fs::path& to) {
    const Student student = converted_weights();
    SaveOptions save = save_options(stream_errors());
    const auto files = save.more;
    save.more = [&](const fs::path& staged) {
      write_table(staged);
      files(staged);
    };
    // The trainer wants the teacher's tokenizer; the finished model has its own.
    const Tokenizer tokenizer = s_.heal.tokens > 0 ? dense_.tokenizer : with_start_token(dense_.tokenizer);
    save_model_directory(to, student.model, tokenizer.to_json(), token_stats(), draft(), save);
  }

  // Rows and W_d know first positions by the start token alone: every prompt is to begin with it.
  static Tokenizer with_start_token(const Tokenizer& tokenizer) {
    const auto start = start_token(tokenizer);
    return start ? tokenizer.with_start(*start) : tokenizer;
  }

  // Of the dense model's type, with its tokenizer's settings and what it was made of.
  SaveOptions save_options(const Json& stream_errors) const {
    SaveOptions save;
    const std::string source = (s_.model / kConfigFile).string();
    if (get_string(parse_json(read_file(source), source), "torch_dtype", source) == "bfloat16")
      save.dtype = DType::bf16;
    save.table_dtype = DType::bf16;
    save.more = [this, stream_errors](const fs::path& staged) {
      copy_tokenizer_config(s_.model, staged);
      write_file_atomic(staged / kConversionFile, dump_json(origin_json(stream_errors)));
    };
    return save;
  }

  TokenStats token_stats() const {
    TokenStats stats;
    stats.frequency.assign(texts_.frequency.begin(), texts_.frequency.end());
    stats.updates.assign(stats.frequency.size(), 0);
    return stats;
  }

  Json stream_errors() const {
    Json layers = Json::array();
    for (const std::int64_t l : layers_)
      layers.push_back({{"layer", l}, {"stream_error", files_.stream_error(l)}});
    return layers;
  }

  void heal_model(const fs::path& converted) {
    const fs::path healed = work_ / "healed", teacher = s_.teacher.empty() ? s_.model : s_.teacher;
    const double row_rms = number_of(state_, "row_rms");
    layers_ = integers_of(state_, "chosen");
    if (!fs::exists(healed / kManifestName)) {
      if (!fs::exists(run_directory(healed) / kCheckpoints / kLatest))
        require_disk_space(s_.out, bytes_to_heal());
      std::optional<FirstState> first;
      if (const auto start = start_token(dense_.tokenizer)) first.emplace(context_, dense_.model, *start);
      dense_.model = {};  // the trainer has its own
      try {
        heal(runtime_, converted, teacher, healed, texts_.healing, limits_.sequence, row_rms,
             first ? &*first : nullptr, s_.heal, s_.quiet);
      } catch (const Interrupted& stop) {
        throw Interrupted{stop.signal, "stopped while healing; the same command goes on from there"};
      }
      dense_ = load_dense(context_, s_.model, dense_config(s_.model), limits_.sequence,
                          precision_of(work_ / kStateFile));
    }
    const LoadedModel trained = load_model_directory(healed, context_);
    save_state();  // under which identity it will lie there
    save_model_directory(s_.out, trained.model, with_start_token(dense_.tokenizer).to_json(), trained.stats,
                         draft(), save_options(state_["stream_errors"]));
  }

  Json origin_json(const Json& stream_errors) const {
    const CalibrationText& text = texts_.calibration;
    return {{"format", "stem-conversion/1"},
            {"source", uuid_text(dense_.manifest.uuid)},
            {"settings", state_["settings"]},
            {"damage", state_["damage"]},
            {"layers", stream_errors},
            {"texts", texts_.sources},
            {"calibration_tokens", text.size()},
            {"row_tokens", std::ssize(texts_.further)},
            {"distinct_tokens",
             std::ssize(texts_.frequency) - std::count(texts_.frequency.begin(), texts_.frequency.end(), 0)},
            {"vocab", dense_.model.config.vocab}};
  }

  // The finished model as it lies on disk, beside the dense one.
  Json judge() {
    LoadOptions options;
    options.precision = dense_.model.precision;
    LoadedModel made = load_model_directory(s_.out, context_, options);
    made.model.refresh_compute(context_);
    Json result = origin_json(state_["stream_errors"]);
    result["model"] = s_.out.string();
    result["parent"] = s_.model.string();
    result["uuid"] = uuid_text(made.manifest.uuid);
    result["judged_on"] =
        texts_.own_held_out ? "parts of the calibration texts, set aside" : "the held-out texts";
    result.update(judge_conversion(context_, dense_.model, made.model, texts_));
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    result["peak_resident_bytes"] = 1024.0 * static_cast<double>(usage.ru_maxrss);
    return result;
  }

  Runtime& runtime_;
  Context context_;
  const ConvertSettings& s_;
  fs::path work_;
  LayerFiles files_;
  TextLimits limits_;
  LoadedModel dense_;
  ConversionTexts texts_;
  Json state_;
  std::vector<std::int64_t> layers_;
  double row_rms_ = 0;
  std::optional<PathLock> lock_;
};

}  // namespace

bool conversion_unreported(const fs::path& out) {
  const fs::path file = state_file(out);
  return fs::exists(file) && unreported(read_state(file), out);
}

void conversion_reported(const fs::path& out) {
  const fs::path file = state_file(out);
  Json state = read_state(file);
  state.erase("model");
  write_file_atomic(file, dump_json(state));
}

Json convert_model(Runtime& runtime, const ConvertSettings& given) {
  const ModelConfig config = dense_config(given.model);
  ConvertSettings settings = given;
  if (settings.layers.empty())
    settings.layers = fmt::format("best:{}", std::min<std::int64_t>(10, config.layers));
  // Faults come before the work.
  const std::int64_t sequence = std::min(settings.limits.sequence, config.max_positions);
  if (listed_layers(settings.layers, config).empty() && settings.damage_tokens < sequence)
    fail(ErrorCode::kUsage,
         "--damage-tokens: expected at least one sequence of {} tokens (--sequence), found {}", sequence,
         settings.damage_tokens);
  if (!settings.teacher.empty()) check_teacher(settings.model, settings.teacher, sequence);
  return ConvertRun(runtime, settings, config).run();
}

}  // namespace stem
