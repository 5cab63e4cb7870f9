// The sections of the atlas report, in the order of the page. Each writes nothing when its part of the
// results is missing.
#pragma once

#include "io/json.h"
#include "report/page.h"

namespace stem {

void write_words(Page& page);
void write_training(Page& page, const Json& results);
void write_where(Page& page, const Json& results);
void write_swap(Page& page, const Json& results);
void write_blend(Page& page, const Json& results);
void write_patch(Page& page, const Json& results);
void write_attack(Page& page, const Json& results);
void write_ablation(Page& page, const Json& results);
void write_score(Page& page, const Json& results);
void write_cosines(Page& page, const Json& results);
void write_limits(Page& page, const Json& results);

}  // namespace stem
