// Suites: each form read, each fault named, the prompts as lm-eval makes them.
#include "data/suite.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "core/error.h"
#include "core/rng.h"
#include "data/answer_suite.h"
#include "data/choice_suite.h"
#include "data/last_word.h"
#include "io/file.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

std::string fault(const std::function<void()>& act, ErrorCode code = ErrorCode::kFormat) {
  try {
    act();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "none";
}

class Suites : public ::testing::Test {
 protected:
  Suites() : folder(fs::temp_directory_path() / fmt::format("stem_suites_{}", getpid())) {
    fs::remove_all(folder);
    fs::create_directories(folder);
  }
  ~Suites() override { fs::remove_all(folder); }
  fs::path write(const std::string& name, const std::string& text) {
    fs::create_directories((folder / name).parent_path());
    write_file_atomic(folder / name, text);
    return folder / name;
  }
  fs::path folder;
};

constexpr const char* kChoices =
    R"({"query": "Question: 1+1?", "choices": ["two", "three", "four"], "gold": 0}
{"query": "Context.\nQuestion: sky?", "choices": ["red", "blue"], "gold": 1}

{"query": "Question: last", "choices": ["x", "y"], "gold": 0}
)";
constexpr const char* kMmlu =
    "question,c0,c1,c2,c3,answer\n\"Which, of \"\"A\"\"?\n\",a,b,c,d,C\nNext,1,2,3,4,3\n";
constexpr const char* kHellaswag =
    "A man sits. he\n3\nstands.\nsleeps.\nsings.\nruns.\nA dog\n0\nbarks\na\nb\nc\n";

TEST_F(Suites, FormsAreRecognisedByContent) {
  EXPECT_EQ(recognise_suite(kChoices, "x"), SuiteForm::choice);
  EXPECT_EQ(recognise_suite(kMmlu, "x"), SuiteForm::mmlu);
  EXPECT_EQ(recognise_suite("Next,1,2,3,4,A\n", "x"), SuiteForm::mmlu);
  EXPECT_EQ(recognise_suite(kHellaswag, "x"), SuiteForm::hellaswag);
  EXPECT_EQ(recognise_suite("\n{\"context\": \"a\", \"continuation\": \"b\"}", "x"), SuiteForm::last_word);
  EXPECT_EQ(recognise_suite("{\"question\": \"a\", \"answer\": \"#### 1\"}", "x"), SuiteForm::answer);
  EXPECT_EQ(fault([] { recognise_suite(" \n", "x"); }), "x: expected a suite, found an empty file");
  EXPECT_EQ(fault([] { recognise_suite("BZh91AY", "x"); }),
            "x: expected text, found bzip2 data: decompress it first (bunzip2 -k)");
  EXPECT_EQ(fault([] { recognise_suite("\x1f\x8b\x08", "x"); }),
            "x: expected text, found gzip data: unpack it first (gunzip -k, tar xzf)");
  EXPECT_EQ(
      fault([] { recognise_suite("just words\n", "x"); }),
      "x: line 1: expected JSON Lines, MMLU's CSV or HellaSwag's six lines an item, found \"just words\"");
  EXPECT_EQ(fault([] { recognise_suite("{\"text\": \"a\", \"id\": 3}", "x"); }),
            "x: line 1: expected the members of a suite (query, choices, gold; context, continuation; or "
            "question, answer), found text, id");
  EXPECT_EQ(fault([] { recognise_suite("{\"text\": ", "x"); }).substr(0, 11), "x: line 1: ");
  EXPECT_EQ(
      fault([] { suite_form_from("hellaswagg"); }, ErrorCode::kUsage),
      "--form: expected choice, mmlu, hellaswag, last-word or answer, found \"hellaswagg\" (did you mean "
      "\"hellaswag\"?)");
}

TEST_F(Suites, ChoicePromptsAskWhereQueriesAreQuestions) {
  const Suite suite = load_suite(write("c.jsonl", kChoices));
  ASSERT_EQ(suite.items.size(), 3u);
  EXPECT_EQ(suite.query_template, "{query}\nAnswer:");
  EXPECT_EQ(suite.items[2].where, suite.path + ": line 4");
  const SuitePrompt p = prompt_of(suite, suite.items[1]);
  EXPECT_EQ(p.context, "Context.\nQuestion: sky?\nAnswer:");
  EXPECT_EQ(p.continuations, (std::vector<std::string>{" red", " blue"}));
}

TEST_F(Suites, ContinuationsGetOneSpace) {
  const std::string text = R"({"query": "ends in ", "choices": ["a", " b"], "gold": 0}
{"query": "", "choices": ["a", " b"], "gold": 0}
{"query": "word", "choices": ["a", " b"], "gold": 0})";
  const Suite suite = load_suite(write("c.jsonl", text));
  EXPECT_EQ(suite.query_template, "{query}");
  const auto continuations = [&](std::size_t i) { return prompt_of(suite, suite.items[i]).continuations; };
  EXPECT_EQ(continuations(0), (std::vector<std::string>{"a", " b"}));
  EXPECT_EQ(continuations(1), (std::vector<std::string>{"a", " b"}));
  EXPECT_EQ(continuations(2), (std::vector<std::string>{" a", " b"}));
}

TEST_F(Suites, ShotsAreTheFirstItemsOrAnotherFile) {
  const fs::path path = write("c.jsonl", kChoices);
  SuiteOptions options;
  options.shots = 2;
  const Suite own = load_suite(path, options);
  ASSERT_EQ(own.items.size(), 1u);
  const char* const shots =
      "Question: 1+1?\nAnswer: two\n\nContext.\nQuestion: sky?\nAnswer: blue\n\nQuestion: last\nAnswer:";
  EXPECT_EQ(prompt_of(own, own.items[0]).context, shots);
  options.shots_from = path;
  const Suite other = load_suite(path, options);
  ASSERT_EQ(other.items.size(), 3u);
  EXPECT_EQ(prompt_of(other, other.items[2]).context, shots);
  options.shots_from.clear();
  options.shots = 3;
  EXPECT_EQ(fault([&] { load_suite(path, options); }, ErrorCode::kUsage),
            path.string() + ": expected at least 4 items for 3 examples (--shots), found 3");
}

// lm-eval's MMLU: description, then the examples of the dev split, then the question.
TEST_F(Suites, MmluPrompts) {
  write("m/test/high_school_physics_test.csv", kMmlu);
  write("m/dev/high_school_physics_dev.csv", "Q1,a,b,c,d,1\nQ2,a,b,c,d,2\n");
  SuiteOptions options;
  options.shots = 1;
  for (const char* place : {"m", "m/test", "m/test/high_school_physics_test.csv"}) {
    const Suite suite = load_suite(folder / place, options);
    ASSERT_EQ(suite.form, SuiteForm::mmlu);
    ASSERT_EQ(suite.items.size(), 2u);
    EXPECT_EQ(suite.items[0].gold, 2);
    EXPECT_EQ(suite.items[1].gold, 3);
    const SuitePrompt p = prompt_of(suite, suite.items[0]);
    EXPECT_EQ(p.context,
              "The following are multiple choice questions (with answers) about high school physics.\n\n"
              "Q1\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n"
              "Which, of \"A\"?\nA. a\nB. b\nC. c\nD. d\nAnswer:");
    EXPECT_EQ(p.continuations, (std::vector<std::string>{" A", " B", " C", " D"}));
  }
  options.shots = 3;
  EXPECT_NE(fault([&] { load_suite(folder / "m", options); }, ErrorCode::kUsage)
                .find("expected 3 examples of high_school_physics (--shots), found 2"),
            std::string::npos);
  fs::remove_all(folder / "m" / "dev");
  EXPECT_NE(fault([&] { load_suite(folder / "m", options); }, ErrorCode::kUsage)
                .find("--shots: expected a folder dev beside the files, or --shots-from"),
            std::string::npos);
}

TEST_F(Suites, TheLimitCountsEachSubject) {
  write("m/a_test.csv", "Q,1,2,3,4,A\nR,1,2,3,4,B\n");
  write("m/b_test.csv", "S,1,2,3,4,A\nT,1,2,3,4,B\n");
  SuiteOptions options;
  options.limit = 1;
  const Suite suite = load_suite(folder / "m", options);
  ASSERT_EQ(suite.items.size(), 2u);
  EXPECT_EQ(suite.items[0].query, "Q");
  EXPECT_EQ(suite.items[1].query, "S");
}

TEST_F(Suites, BadChoiceItemsAreNamed) {
  const auto of = [](const char* text) { return fault([&] { parse_choice_lines(text, "c"); }); };
  EXPECT_EQ(of(""), "c: expected at least one item, found none");
  EXPECT_EQ(of("\n[1]"), "c: line 2: expected an object, found [1]");
  EXPECT_EQ(of(R"({"query": "q", "choices": ["a", "b"], "gold": 2})"),
            "c: line 1: gold: expected an integer in [0, 1], found 2");
  EXPECT_EQ(of(R"({"query": "q", "choices": ["a", "b"], "gold": -1})"),
            "c: line 1: gold: expected an integer in [0, 1], found -1");
  EXPECT_EQ(of(R"({"query": "q", "choices": [], "gold": 0})"),
            "c: line 1: choices: expected at least two, found none");
  EXPECT_EQ(of(R"({"query": "q", "gold": 0})"), "c: line 1: choices: expected an array, found nothing");
  EXPECT_EQ(of(R"({"query": "q", "choices": ["a", ""], "gold": 0})"),
            "c: line 1: choices[1]: expected a text, found \"\"");
  EXPECT_EQ(of(R"({"choices": ["a", "b"], "gold": 0})"),
            "c: line 1: query: expected a string, found nothing");
  EXPECT_EQ(of("{\"query\": \"q\"\n").substr(0, 11), "c: line 1: ");
}

TEST_F(Suites, BadMmluAndHellaswagItemsAreNamed) {
  const auto mmlu = [](const char* text) { return fault([&] { parse_mmlu(text, "m", "s"); }); };
  EXPECT_EQ(mmlu("a,b,c,d,A\n"), "m: line 1: expected 6 columns (question, four choices, answer), found 5");
  EXPECT_EQ(mmlu("q,1,2,3,4,A\nq,1,2,3,4,E\n"),
            "m: line 2: answer: expected A, B, C, D or 0 to 3, found \"E\"");
  EXPECT_EQ(mmlu("question,a,b,c,d,answer\n"), "m: expected at least one item, found none");
  EXPECT_EQ(mmlu("q\xff,1,2,3,4,A\n"), "m: ill-formed UTF-8 at byte 1 (0xFF)");
  const auto swag = [](const char* text) { return fault([&] { parse_hellaswag(text, "h"); }); };
  EXPECT_EQ(swag("c\n4\na\nb\nc\nd\n"), "h: line 2: gold: expected 0, 1, 2 or 3, found \"4\"");
  EXPECT_EQ(swag("c\n1\na\n\nc\nd\n"), "h: line 4: ending 1: expected a text, found an empty line");
  EXPECT_EQ(swag("c\n1\na\nb\n"),
            "h: expected six lines an item (context, gold, four endings), found 4 at the end");
  EXPECT_EQ(swag("\n\n"), "h: expected at least one item, found none");
}

TEST_F(Suites, HellaswagReadsSixLinesAnItem) {
  const auto items = parse_hellaswag(kHellaswag, "h");
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0].query, "A man sits. he");
  EXPECT_EQ(items[0].gold, 3);
  EXPECT_EQ(items[1].choices, (std::vector<std::string>{"barks", "a", "b", "c"}));
  EXPECT_EQ(items[1].where, "h: line 7");
}

TEST_F(Suites, LastWords) {
  const auto items = parse_last_word(R"({"context": "He said", "continuation": "so"})", "l");
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].choices, (std::vector<std::string>{"so"}));
  EXPECT_EQ(fault([] { parse_last_word(R"({"context": "a", "continuation": " "})", "l"); }),
            "l: line 1: continuation: expected a text, found an empty one");
}

TEST_F(Suites, FiguresAreFoundAsLmEvalFindsThem) {
  EXPECT_EQ(strict_answer("so 3.\n#### 1,234. And #### 5"), "1,234.");
  EXPECT_EQ(strict_answer("#### x #### -7"), "-7");
  EXPECT_EQ(strict_answer("#### -"), std::nullopt);
  EXPECT_EQ(strict_answer("####7"), std::nullopt);
  EXPECT_EQ(flexible_answer("2 apples cost $1,200.50 and -3 more"), "-3");
  EXPECT_EQ(flexible_answer("it is 42."), "42.");
  EXPECT_EQ(flexible_answer("it is 4."), "4.");
  EXPECT_EQ(flexible_answer("five - none"), std::nullopt);
  EXPECT_EQ(flexible_answer("12 and then ..."), "...");  // the pattern's own weakness, kept
  EXPECT_EQ(flexible_answer("7 is $ 5-6"), "-6");
  EXPECT_EQ(flexible_answer("3-"), "3");
  EXPECT_EQ(plain_figure("$1,200."), "1200");
  EXPECT_EQ(plain_figure(" 18 "), "18");
}

TEST_F(Suites, AnswersInBothWritings) {
  const auto items = parse_answers(
      R"({"context": "c", "chain_of_thought": "think", "answer": "1,200"}
{"question": "q", "answer": "so\n#### 7"})",
      "g");
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0].answer, "1200");
  EXPECT_EQ(items[0].choices[0], "think\n#### 1,200");
  EXPECT_EQ(items[1].query, "q");
  EXPECT_EQ(items[1].answer, "7");
  EXPECT_EQ(items[1].choices[0], "so\n#### 7");
  EXPECT_EQ(fault([] { parse_answers(R"({"question": "q", "answer": "none"})", "g"); }),
            "g: line 1: answer: expected a figure, found \"none\"");
}

TEST_F(Suites, DamagedFilesGiveErrorsAndNothingElse) {
  Rng rng(9, 0);
  const std::string whole[] = {kChoices, kMmlu, kHellaswag};
  for (int round = 0; round < 600; ++round) {
    std::string text = whole[round % 3];
    for (int flips = 0; flips < 3; ++flips)
      text[rng.below(text.size())] = static_cast<char>(static_cast<unsigned char>(rng.below(256)));
    text.resize(rng.below(text.size() + 1));
    for (const SuiteForm form : {SuiteForm::choice, SuiteForm::mmlu, SuiteForm::hellaswag}) {
      try {
        if (form == SuiteForm::choice) parse_choice_lines(text, "x");
        if (form == SuiteForm::mmlu) parse_mmlu(text, "x", "s");
        if (form == SuiteForm::hellaswag) parse_hellaswag(text, "x");
        recognise_suite(text, "x");
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kFormat);
      }
    }
  }
}

TEST(SharedSuites, AllParse) {
  const char* set = std::getenv("STEM_SHARED");
  const fs::path eval = fs::path(set != nullptr ? set : STEM_SOURCE_DIR "/../shared") / "data" / "eval";
  if (!fs::exists(eval / "arc_easy.jsonl")) GTEST_SKIP() << eval << " is absent";
  const auto check = [&](const char* name, SuiteForm form, std::size_t count, const char* ask) {
    const Suite suite = load_suite(eval / name);
    EXPECT_EQ(suite.form, form) << name;
    EXPECT_EQ(suite.items.size(), count) << name;
    EXPECT_EQ(suite.query_template, ask) << name;
  };
  check("arc_easy.jsonl", SuiteForm::choice, 2376, "{query}\nAnswer:");
  check("boolq.jsonl", SuiteForm::choice, 3270, "{query}\nAnswer:");
  check("openbook_qa.jsonl", SuiteForm::choice, 500, "{query}");
  check("lambada_openai.jsonl", SuiteForm::last_word, 5153, "{query}");
  check("gsm8k.jsonl", SuiteForm::answer, 1319, "Question: {query}\nAnswer:");
  EXPECT_THROW(load_suite(eval / "hellaswag_val_full.txt.bz2"), Error);
  EXPECT_THROW(load_suite(eval / "mmlu_test_dev.tar.gz"), Error);

  // The compressed two, by the system's programs into a folder of this test's own.
  const fs::path folder = fs::temp_directory_path() / fmt::format("stem_shared_suites_{}", getpid());
  fs::create_directories(folder);
  const std::string unpack = fmt::format(
      "cd '{0}' && bunzip2 -kc '{1}/hellaswag_val_full.txt.bz2' > h.txt && "
      "tar xzf '{1}/mmlu_test_dev.tar.gz' 2> /dev/null",
      folder.string(), eval.string());
  if (std::system(unpack.c_str()) == 0) {
    const Suite swag = load_suite(folder / "h.txt");
    EXPECT_EQ(swag.form, SuiteForm::hellaswag);
    EXPECT_EQ(swag.items.size(), 10042u);
    SuiteOptions options;
    options.shots = 5;
    const Suite mmlu = load_suite(folder / "mmlu" / "data" / "mmlu", options);
    EXPECT_EQ(mmlu.items.size(), 14042u);
    EXPECT_EQ(mmlu.shots.size(), 57u * 5);
  }
  fs::remove_all(folder);
}

}  // namespace
}  // namespace stem
