// One function a subcommand: it adds options to the command line and sets what runs.
#pragma once

namespace CLI {
class App;
}

namespace stem {

void add_atlas_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_chat_command(CLI::App& app);
void add_convert_command(CLI::App& app);
void add_data_command(CLI::App& app);
void add_diff_command(CLI::App& app);
void add_doctor_command(CLI::App& app);
void add_edit_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_export_command(CLI::App& app);
void add_fake_model_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_attach_rows_command(CLI::App& app);
void add_import_command(CLI::App& app);
void add_info_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_resume_command(CLI::App& app);
void add_serve_command(CLI::App& app);
void add_study_command(CLI::App& app);
void add_table_plan_command(CLI::App& app);
void add_train_command(CLI::App& app);
void add_where_command(CLI::App& app);
void add_write_command(CLI::App& app);

}  // namespace stem
